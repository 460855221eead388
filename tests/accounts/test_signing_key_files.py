"""Signing keys from PEM files: which signs, and what is wrong with a file."""

from __future__ import annotations

from math import inf
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from geko_proxy.accounts.signing_key_files import load, stamp
from geko_proxy.accounts.signing_keys import BadKey, KeyRing, generate, to_pem


def put(folder: Path, name: str, algorithm: str = "EdDSA") -> None:
    (folder / name).write_text(to_pem(generate(algorithm)))


def test_the_last_by_name_signs_and_next_ones_wait(tmp_path: Path) -> None:
    for name in ("2026-02.pem", "2026-01.pem", "next-2026-03.pem", "notes.txt"):
        put(tmp_path, name)
    old, current, coming = load(tmp_path)
    assert coming.signs_from == inf
    ring = KeyRing([old, current, coming])
    assert ring.signer("EdDSA", 1e9) is current
    assert len(ring.published(1e9)) == 3
    before = stamp(tmp_path)
    (tmp_path / "next-2026-03.pem").rename(tmp_path / "2026-03.pem")
    assert stamp(tmp_path) != before
    signer = KeyRing(load(tmp_path)).signer("EdDSA", 1e9)
    assert signer is not None
    assert signer.kid == coming.kid


def test_one_file(tmp_path: Path) -> None:
    put(tmp_path, "key")
    assert [key.algorithm for key in load(tmp_path / "key")] == ["EdDSA"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.txt", "", "no \\*.pem file"),
        ("a.pem", "nonsense", "a.pem holds no PEM key"),
        ("b.pem", to_pem(generate_private_key(65537, 1024)), "b.pem is an RSA key of 1024 bits"),
        ("c.pem", "x" * 70_000, "too large"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: str, problem: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadKey, match=problem):
        load(tmp_path)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="no such PEM file"):
        load(tmp_path / "nowhere")
