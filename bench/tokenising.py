"""`python -m bench.tokenising`: what counting the tokens of a stream costs, in µs of CPU time per delta.

Deltas of 4, 20 and 80 characters, four ways: `meter` is what an answer pays: text is kept, and counted when by its
bytes the grant may be near its end; a grant grows as the quota filter's does. `eager` counts at every delta, `anew` all
text at every delta, and `once` all text a single time: no way of counting can be cheaper. The counts of the first two
are checked against the last.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from geko_proxy.metering.meter import TurnMeter
from geko_proxy.metering.tokens import TokenCounter

ALLOWED_US = 3.0
SIZES = (4, 20, 80)
DELTAS, ROUNDS, FEW_DELTAS = 4000, 15, 300
FIRST_GRANT, FIRST_STEP, MAX_STEP, MAX_RESERVE, COUNT_STEP = 300, 100, 800, 100, 64  # as in filters.quota

PROSE = (
    "Rayleigh scattering explains why the sky is blue: shorter wavelengths are scattered far more strongly than longer"
    " ones, so what reaches us from all directions is mostly blue (about 450 nm). At sunset the light's way is longer,"
    ' and the blue is gone before it arrives.\n\n```python\ndef intensity(wavelength: float) -> float:\n    """λ⁻⁴"""'
    "\n    return wavelength**-4\n```\n\nNatürlich gilt das auch für Grönland; 空が青い理由も同じです。 "
)


def deltas(size: int, count: int) -> list[str]:
    """A stream of prose, code and other scripts in pieces of one size."""
    text = PROSE * (size * count // len(PROSE) + 1)
    return [text[at : at + size] for at in range(0, size * count, size)]


def by_meter(counter: TokenCounter, pieces: list[str]) -> int:
    """As the quota filter does it."""
    meter = TurnMeter(counter)
    granted, step = FIRST_GRANT, FIRST_STEP
    look_at = granted - step // 2
    for piece in pieces:
        meter.on_text("step", piece)
        if meter.at_most > look_at:
            reserve = min(step // 2, MAX_RESERVE)
            if granted - meter.consumed <= reserve:
                granted, step = granted + step, min(2 * step, MAX_STEP)
            look_at = min(granted, max(granted - reserve, meter.consumed + COUNT_STEP))
    return meter.finish(None)[0].output_tokens


def eager(counter: TokenCounter, pieces: list[str]) -> int:
    """A count after every piece."""
    stream = counter.stream()
    for piece in pieces:
        stream.add(piece)
    return stream.total()


def anew(counter: TokenCounter, pieces: list[str]) -> int:
    """All text anew after every piece."""
    text, tokens = "", 0
    for piece in pieces:
        text += piece
        tokens = counter.count(text)
    return tokens


def once(counter: TokenCounter, pieces: list[str]) -> int:
    """All text, when it has come."""
    return counter.count("".join(pieces))


def cost_us(way: Callable[[TokenCounter, list[str]], int], counter: TokenCounter, pieces: list[str]) -> float:
    """CPU time of the best of many rounds: other load on the machine only ever adds to it."""
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time_ns()
        way(counter, pieces)
        best = min(best, time.process_time_ns() - begun)
    return best / len(pieces) / 1000


def main() -> int:
    """Measure; 1 when an answer pays more than is allowed, or a count is wrong."""
    counter = TokenCounter()
    found: dict[str, dict[str, float]] = {}
    wrong = []
    print("characters      meter      eager       once       anew   µs per delta")
    for size in SIZES:
        pieces = deltas(size, DELTAS)
        truth = once(counter, pieces)
        wrong += [way.__name__ for way in (by_meter, eager) if way(counter, pieces) != truth]
        row = {way.__name__: cost_us(way, counter, pieces) for way in (by_meter, eager, once)}
        row["anew"] = cost_us(anew, counter, pieces[:FEW_DELTAS])
        found[str(size)] = {name: round(value, 2) for name, value in row.items()}
        print(f"{size:10d}" + "".join(f"{value:11.2f}" for value in row.values()))
    slow = [size for size, row in found.items() if is_slow(row)]
    print(json.dumps({"allowed_us": ALLOWED_US, "us_per_delta": found, "wrong": wrong, "too_slow": slow}))
    return 1 if wrong or slow else 0


def is_slow(row: dict[str, float]) -> bool:
    """Whether an answer pays too much.

    For deltas of the size that providers send the whole cost counts. For large ones the vocabulary alone takes what is
    allowed (`once`, 0.03 µs a character); then what counts is what the kept state adds to that.
    """
    floor = row["once"] if row["once"] > ALLOWED_US / 2 else 0.0
    return row["by_meter"] >= floor + ALLOWED_US


if __name__ == "__main__":
    sys.exit(main())
