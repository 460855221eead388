"""Which passwords are too easy to guess (NIST SP 800-63B, 5.1.1.2): common ones, simple rows, the own name. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final

MAX_LENGTH: Final = 128  # what LibreChat's client sends at most (contract §2.1)
MIN_LENGTH: Final = 8

TOO_COMMON: Final = "This is one of the passwords that are tried first. Choose another one."
TOO_SIMPLE: Final = "Must not be a simple row or repetition of characters."
TOO_CLOSE: Final = "Must not be made of your own name or e-mail address."

ROWS: Final = ("abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "qwertzuiop", "asdfghjkl", "zxcvbnm",
               "yxcvbnm", "1qaz2wsx3edc4rfv5tgb6yhn", "azertyuiop")  # fmt: skip
LEET: Final = str.maketrans("013457@$!|", "oieastasil")
EDGE: Final = re.compile(r"^[\W\d_]+|[\W\d_]+$")
SIMPLE_RUN: Final = 4  # characters of a row, or the same one, that count as one
OWN_WORD: Final = 3  # shorter parts of a name are in many words


def password_problems(
    password: str, *, min_length: int = MIN_LENGTH, own: Sequence[str | None] = ()
) -> list[str]:
    """What is wrong with a new password, for people; empty: it will do.

    own: the person's name, e-mail address and user name, as far as known.
    """
    if len(password) < min_length:
        return [f"Must contain at least {min_length} character(s)."]
    if len(password) > MAX_LENGTH:
        return [f"Must contain at most {MAX_LENGTH} characters."]
    plain = folded(password)
    if not plain.strip():
        return ["Must not be only blanks."]
    if is_simple(plain):
        return [TOO_SIMPLE]
    if is_common(plain):
        return [TOO_COMMON]
    if is_own(plain, own, min_length):
        return [TOO_CLOSE]
    return []


def folded(text: str) -> str:
    """A text as it is compared: without differences of case and of Unicode form."""
    return unicodedata.normalize("NFKC", text).casefold()


def is_common(plain: str) -> bool:
    """Whether a password, or what it is without ornaments at its ends or with letters for digits, is often used."""
    return any(variant in common_passwords() for variant in variants(plain))


def variants(plain: str) -> Iterator[str]:
    """A password and the plain words that people make such ones of: "P@ssw0rd!1" comes from "password"."""
    bare = EDGE.sub("", plain)
    yield plain
    yield plain.translate(LEET)
    for word in {bare, EDGE.sub("", plain.translate(LEET)), bare.translate(LEET)}:
        # digits at the ends add little, but four letters left of twelve characters are no word with ornaments
        if len(word) * 2 >= len(plain):
            yield word
            yield word.translate(LEET)


def is_simple(plain: str) -> bool:
    """Whether a password has fewer than five parts, runs of a row or of one character being one part each."""
    if len(set(plain)) <= 2 or is_repetition(plain):
        return True
    parts, position = 0, 0
    while position < len(plain):
        position += run_length(plain, position)
        parts += 1
    return parts <= 3


def is_repetition(plain: str) -> bool:
    """Whether a password is a short piece again and again, as "abcabcabc"."""
    at = (plain + plain).find(plain, 1)
    return at < len(plain) and at <= 4


def run_length(plain: str, start: int) -> int:
    """How many characters from `start` on are the same or follow each other in a row; 1 if too few do."""
    best = 1
    while start + best < len(plain) and plain[start + best] == plain[start]:
        best += 1
    for row in ROWS:
        for line in (row, row[::-1]):
            length = 1
            while start + length < len(plain) and plain[start : start + length + 1] in line:
                length += 1
            best = max(best, length)
    return best if best >= SIMPLE_RUN else 1


def is_own(plain: str, own: Sequence[str | None], min_length: int) -> bool:
    """Whether too little is left of a password without the words of the person's own name and address."""
    words = {word for text in own if text for word in own_words(text)}
    rest = plain
    for word in sorted(words, key=len, reverse=True):
        rest = rest.replace(word, "")
    return rest != plain and len(EDGE.sub("", rest)) < min(4, min_length)


def own_words(text: str) -> Iterator[str]:
    """The whole text, and its words."""
    plain = folded(text)
    for word in (plain, *re.split(r"[\W_]+", plain)):
        if len(word) >= OWN_WORD:
            yield word


@lru_cache(1)
def common_passwords() -> frozenset[str]:
    """The passwords seen most often in leaks, and long single words: the lists that come with zxcvbn."""
    # 0.1 s and some MiB, only where passwords are set; it has no types
    from zxcvbn.frequency_lists import FREQUENCY_LISTS  # type: ignore[import-untyped]

    words = set(FREQUENCY_LISTS["passwords"])
    for name in ("english_wikipedia", "us_tv_and_film", "surnames", "female_names", "male_names"):
        words.update(FREQUENCY_LISTS[name])
    return frozenset(word for word in words if len(word) >= OWN_WORD + 1)
