"""What the benchmark's model provider says: OpenAI's chat completions as bytes, whole and as a stream.

Number and time of an event stand in `system_fingerprint`, a field of the API that every proxy passes on.
"""

from __future__ import annotations

from bench.events import PROMPT_TOKENS, STREAM_END, WORDS, chunk, json_reply

DONE = b"data: [DONE]\n\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"x-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n"
)
_CHUNK = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1790000000,"model":"gpt-4o",'
    b'"system_fingerprint":"fp_%d_%d","choices":[%b]%b}\n\n'
)
_WORD = b'{"index":0,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null}'
_FIRST = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
_LAST = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}'
_USAGE = b',"usage":{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}'
NO_NUMBER = 10**9  # of events that are no words


def delta(number: int, now_ns: int) -> bytes:
    """One event of text. number: from 0; now_ns: CLOCK_MONOTONIC, which the load generator compares with its own."""
    return chunk(_CHUNK % (number, now_ns, _WORD % WORDS[number & 15], b""))


def opening(_: str) -> bytes:
    """What comes before the first word."""
    return chunk(_CHUNK % (NO_NUMBER, 0, _FIRST, b""))


def closing(_: str, words: int) -> bytes:
    """What comes after the last word."""
    return _closing(b"")


def closing_with_usage(_: str, words: int) -> bytes:
    """The same for a caller that asked for the usage."""
    usage = _USAGE % (PROMPT_TOKENS, words, PROMPT_TOKENS + words)
    return _closing(chunk(_CHUNK % (NO_NUMBER, 0, b"", usage)))


def _closing(usage: bytes) -> bytes:
    return chunk(_CHUNK % (NO_NUMBER, 0, _LAST, b"")) + usage + chunk(DONE) + STREAM_END


REPLY = json_reply(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1790000000,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": b"".join(WORDS).decode(), "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": 17,
            "total_tokens": PROMPT_TOKENS + 17,
        },
        "system_fingerprint": "fp_bench",
    }
)
