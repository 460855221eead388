"""Forms with files: the model is read and replaced, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geko_proxy.errors import Refused
from geko_proxy.llm.wire.forms import Form

TYPE = "multipart/form-data; boundary=b1"


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(b"--b1\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return body + b"--b1--\r\n"


def field(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'


FILE = 'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav'


@given(
    st.binary(max_size=200).filter(lambda content: b"--b1" not in content), st.text(min_size=1, max_size=20)
)
def test_the_model_is_replaced_and_the_file_stays(content: bytes, name: str) -> None:
    model = name.encode(errors="ignore").replace(b"--b1", b"") or b"x"
    body = form((FILE, content), (field("model"), model), (field("prompt"), b"p"))
    found = Form(body, TYPE)
    assert found.text("model") == model.decode()
    assert found.text("file") is None
    changed = found.with_text("model", "deployed")
    assert changed == form((FILE, content), (field("model"), b"deployed"), (field("prompt"), b"p"))


def test_two_models_are_refused() -> None:
    with pytest.raises(Refused, match="twice"):
        Form(form((field("model"), b"a"), (field("model"), b"b")), TYPE)


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "multipart/form-data", "multipart/form-data; boundary="]
)
def test_what_is_no_form_is_refused(content_type: str) -> None:
    with pytest.raises(Refused, match="Content-Type"):
        Form(b"", content_type)


@given(st.binary(max_size=300))
def test_no_body_breaks_the_reader(body: bytes) -> None:
    assert Form(body.replace(b"name", b"nam"), TYPE).text("model") is None
