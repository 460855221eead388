"""Bodies: every problem at once, under the names that the JSON has."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from msgspec import Meta

from geko_proxy.client_api.validation import Body, parse
from geko_proxy.errors import Refused


class Pet(Body, frozen=True):
    pet_name: Annotated[str, Meta(min_length=1)]
    legs: int = 4
    tags: tuple[str, ...] | None = None


def test_camel_case_outside_snake_case_inside() -> None:
    assert parse(Pet, {"petName": "Rex", "tags": ["a"]}) == Pet(pet_name="Rex", tags=("a",))


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"petName"}),
        ({"petName": ""}, {"petName"}),
        ({"petName": None, "legs": "four", "tags": [1]}, {"petName", "legs", "tags"}),
        ({"petName": "Rex", "legs": True}, {"legs"}),
        ({"petName": "Rex", "pet_name": "Rex", "Legs": 3}, {"pet_name", "Legs"}),
    ],
)
def test_every_problem_is_named(body: dict[str, Any], fields: set[str]) -> None:
    with pytest.raises(Refused) as refused:
        parse(Pet, body)
    assert (refused.value.status, refused.value.code) == (400, "invalid_request")
    assert set(refused.value.details or {}) == fields
    for name in fields:
        assert name in refused.value.message
