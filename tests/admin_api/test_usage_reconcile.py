"""The reconcile report: each message by its stream and by its calls, and what of all that was billed."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from geko_proxy.admin_api.usage_reconcile import UsageReconcile
from geko_proxy.errors import Refused
from geko_proxy.metering.call_leases import CallLeases, CallOrigin, Parent
from geko_proxy.metering.leases import Amount, Lease, Leases, NewTurn
from geko_proxy.metering.ledger import Charge, Source
from geko_proxy.metering.lifecycle import Outcome
from geko_proxy.metering.windows import month_window
from tests.admin_api.conftest import Guarded, Office
from tests.metering.leasing import base_holds, charge

Value = Callable[[Any], Any]


class Books:
    """Messages and calls in the first workspace."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self.leases = Leases(office.services.database)
        self.calls = CallLeases(office.services.database, self.leases)

    def turn(
        self, conversation: str | None, *, who: str = "member", endpoint: str = "Mock", ago_s: float = 0
    ) -> NewTurn:
        """A turn that begins now, or some seconds ago."""
        first = self._office.first
        turn = NewTurn(
            first.tenant.tenant_id,
            first.workspace.workspace_id,
            self._office.users[who],
            conversation,
            endpoint,
            "gpt-4o",
        )
        return replace(turn, started_at=datetime.now(UTC) - timedelta(seconds=ago_s))

    async def message(self, conversation: str, **given: Any) -> Lease:
        """A message that begins."""
        turn = self.turn(conversation, **given)
        begun = await self.leases.begin(turn, self._holds(turn), Amount(1), Amount(0))
        assert isinstance(begun, Lease)
        return begun

    async def call(self, kind: str, tokens: int | None, parent: Lease | None = None) -> Lease:
        """A call that is charged so much; None: it goes on."""
        turn = self.turn(None)
        of = Parent(parent.turn_id, None, None) if parent is not None else None
        begun = await self.calls.begin(
            turn, self._holds(turn), Amount(1), Amount(0), CallOrigin(kind, "c", "m", of)
        )
        assert isinstance(begun, Lease)
        if tokens is not None:
            await self.end(begun, replace(charge(tokens), kind=kind))
        return begun

    async def end(self, lease: Lease, *charges: Charge) -> None:
        """Settle a message or a call."""
        await self.leases.settle(lease, Outcome.DONE, charges)

    def _holds(self, turn: NewTurn) -> Any:
        return base_holds(turn, month_window(turn.started_at, "UTC"))


@pytest.fixture
def books(office: Office) -> Books:
    return Books(office)


@pytest.fixture
def reconcile(office: Office) -> UsageReconcile:
    return cast(UsageReconcile, Guarded(office.services, UsageReconcile(office.services)))


def brief(turns: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What matters of rows."""
    return [
        (
            row["conversationId"],
            row["stream"]["tokens"],
            row["calls"]["tokens"],
            row["billed"],
            row["difference"],
            row["billedFrom"],
        )
        for row in turns
    ]


async def test_both_sides_of_messages_and_all_that_was_billed(
    office: Office, books: Books, reconcile: UsageReconcile, value: Value
) -> None:
    through = await books.message("through", ago_s=30)
    await books.call("chat", 33, through)
    await books.call("chat", 44, through)
    await books.call("title", 9, through)
    await books.end(through, charge(70))
    beside = await books.message("beside", who="owner", ago_s=20)
    await books.call("memory", 5, beside)
    await books.end(beside, replace(charge(25), estimated=True, source=Source.ESTIMATE))
    await books.call("embedding", 3)
    await books.call("chat", 2)  # an agent's without a message
    running = await books.message("running", ago_s=10)
    await books.call("chat", 8, running)
    await books.call("chat", None, running)

    found = value(await reconcile.report(*office.call("admin")))
    assert brief(found["turns"]) == [
        ("running", None, 8, 8, None, "calls"),
        ("beside", 25, 5, 30, None, "stream"),
        ("through", 70, 86, 86, 7, "calls"),
    ]
    last = found["turns"][2]
    assert (last["turnId"], last["email"], last["model"]) == (
        str(through.turn_id),
        "member@a.example",
        "gpt-4o",
    )
    assert (last["endpoint"], last["outcome"], last["stream"]["estimated"]) == ("Mock", "done", False)
    assert found["turns"][1]["stream"] == {"tokens": 25, "estimated": True}
    assert found["turns"][0]["outcome"] is None
    assert last["calls"]["number"] == 3
    assert last["calls"]["byKind"] == {
        "chat": {"number": 2, "tokens": 77, "estimatedTokens": 0},
        "title": {"number": 1, "tokens": 9, "estimatedTokens": 0},
    }
    totals = found["totals"]
    assert {name: totals[name] for name in ("turns", "turnsByCalls", "billed", "byStream", "byCalls")} == {
        "turns": 3,
        "turnsByCalls": 2,
        "billed": 129,
        "byStream": 25,
        "byCalls": 85,
    }
    assert (totals["hidden"]["number"], totals["hidden"]["tokens"]) == (4, 19)
    assert {kind: each["tokens"] for kind, each in totals["hidden"]["withMessage"].items()} == {
        "memory": 5,
        "title": 9,
    }
    assert {kind: each["tokens"] for kind, each in totals["hidden"]["withoutMessage"].items()} == {
        "chat": 2,
        "embedding": 3,
    }
    assert totals["compared"] == {
        "turns": 1,
        "stream": 70,
        "calls": 77,
        "difference": 7,
        "differencePercent": 10.0,
        "threshold": 0,
        "overThreshold": 1,
    }
    (endpoint,) = found["endpointsBesideGateway"]
    assert endpoint["lastAt"] == found["turns"][1]["startedAt"]
    assert (
        endpoint["endpoint"],
        endpoint["turnsByStream"],
        endpoint["turnsByCalls"],
        endpoint["tokens"],
    ) == (
        "Mock",
        1,
        2,
        25,
    )


async def test_without_an_llm_side_no_endpoint_is_beside_it(
    office: Office, books: Books, reconcile: UsageReconcile, value: Value
) -> None:
    await books.end(await books.message("c"), charge(25))
    found = value(await reconcile.report(*office.call("owner")))
    assert found["endpointsBesideGateway"] == []
    assert brief(found["turns"]) == [("c", 25, 0, 25, None, "stream")]


async def answers(books: Books, differences: Sequence[int]) -> None:
    """Messages whose calls come to so much more than their streams, the last one the newest."""
    for number, difference in enumerate(differences):
        asked = await books.message(f"c{number}", ago_s=100 - number)
        await books.call("chat", 50 + difference, asked)
        await books.end(asked, charge(50))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [-3, 0, 40, -20, 1]),
        ("sort=difference", [40, -20, -3, 1, 0]),
        ("sort=difference&threshold=3", [40, -20, -3, 0, 1]),
        ("sort=difference&threshold=999999999999", [-3, 0, 40, -20, 1]),
    ],
)
async def test_those_that_differ_come_first_page_by_page(
    office: Office, books: Books, reconcile: UsageReconcile, value: Value, query: str, expected: list[int]
) -> None:
    await answers(books, [1, -20, 40, 0, -3])
    seen, cursor, pages = [], "", 0
    while cursor or not pages:
        page = value(await reconcile.report(*office.call("owner", query=f"{query}&limit=2{cursor}")))
        assert (page["totals"] is None) == bool(cursor)
        seen += [row["difference"] for row in page["turns"]]
        cursor = f"&cursor={page['nextCursor']}" if page["nextCursor"] else ""
        pages += 1
    assert (seen, pages) == (expected, 3)


async def test_as_a_file(office: Office, books: Books, reconcile: UsageReconcile) -> None:
    await answers(books, [0, -4])
    asked = await books.message("=1+1")
    await books.call("title", 9, asked)
    await books.end(asked, charge(7))
    reply = await reconcile.report(*office.call("admin", query="sort=difference", Accept="text/csv"))
    assert reply.headers["Content-Disposition"].startswith('attachment; filename="reconcile-')
    chunks = []
    while chunk := await reply.source.read_chunk():  # type: ignore[union-attr]  # CSV is a source
        chunks.append(chunk)
    rows = list(csv.DictReader(io.StringIO(b"".join(chunks).decode(), newline="")))
    assert [(row["conversationId"], row["difference"], row["billedFrom"]) for row in rows] == [
        ("c1", "-4", "calls"),
        ("'=1+1", "", "stream"),
        ("c0", "0", "calls"),
    ]
    assert (rows[1]["callsByKind"], rows[1]["billed"], rows[1]["streamEstimated"]) == (
        "title=9",
        "16",
        "false",
    )


@pytest.mark.parametrize("who", ["member", "viewer", "stranger"])
async def test_only_owners_and_admins(office: Office, reconcile: UsageReconcile, who: str) -> None:
    with pytest.raises(Refused) as refused:
        await reconcile.report(*office.call(who))
    assert refused.value.status in (403, 404)


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("limit=1001&threshold=-1&sort=size&cursor=x", {"limit", "threshold", "sort", "cursor"}),
        ("cursor=WzEsMiwzXQ", {"cursor"}),
        ("from=2026-11-02&to=2026-11-01", {"to"}),
        ("format=xml", {"format"}),
    ],
)
async def test_bad_parameters(
    office: Office, reconcile: UsageReconcile, query: str, fields: set[str]
) -> None:
    with pytest.raises(Refused) as refused:
        await reconcile.report(*office.call("owner", query=query))
    assert set(refused.value.details or {}) == fields


async def test_another_period_has_none_of_it(
    office: Office, books: Books, reconcile: UsageReconcile, value: Value
) -> None:
    await answers(books, [5])
    found = value(await reconcile.report(*office.call("owner", query="from=2026-01-01&to=2026-01-31")))
    assert (found["turns"], found["nextCursor"], found["totals"]["billed"]) == ([], None, 0)
    assert found["totals"]["compared"]["differencePercent"] is None
