"""`python -m prove`: starts everything, plays the scenarios, prints one table and, last, one JSON object."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import uvloop

from bench.cores import machine
from bench.processes import ROOT, BenchError
from prove import cost, kills, limits, listeners, llm_day, llm_walls, periods, races
from prove.report import Row, details, put_between, summary, table
from prove.stage import Stage, open_stage

Scenario = Callable[[Stage], Awaitable[Row]]
SCENARIOS: dict[str, Scenario] = {
    "race": races.half_fits,
    "limits": limits.many_at_once,
    "listeners": listeners.normal_ends,
    "stops": listeners.stops,
    "kill": kills.killed_instance,
    "restart": kills.restarted_database,
    "outage": kills.absent_database,
    "month": periods.month_ends,
    "zone": periods.zone_changes,
    "lowered": periods.limit_lowered,
    "day": llm_day.day,
    "down": llm_walls.one_provider_down,
    "forbidden": llm_walls.forbidden_model,
    "cost": cost.in_process,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the proof; 0 if every criterion is met."""
    arguments = _arguments(argv)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    begun = time.monotonic()
    rows, missing = uvloop.run(_play(arguments))
    for name in missing:
        rows.append(Row(f"with {name}", 0, failures=[f"{name} is not installed: all ran without it"]))
    print(f"\n{table(rows)}\n\n{details(rows)}\n")
    about = {"machine": machine(), "seed": arguments.seed, "turns": arguments.turns, "missing": missing}
    found = summary(rows, **about, seconds=round(time.monotonic() - begun))
    if arguments.write:
        _write(rows, arguments.seed)
    print(json.dumps(found, separators=(",", ":")))
    return 0 if found["met"] else 1


def _write(rows: Sequence[Row], seed: int) -> None:
    found = machine()
    about = (
        f"{found['cpu']}, {found['cores']} cores, Python {found['python']}, seed {seed}. Amounts are tokens."
    )
    put_between(ROOT / "README.md", f"{table(rows)}\n\n{about}")
    put_between(ROOT / "docs" / "quota-proof.md", f"{table(rows)}\n\n{about}\n\n```\n{details(rows)}\n```")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="prove", description="Prove that quotas hold.")
    parser.add_argument("--turns", type=int, default=200, help="turns at once (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is left to chance")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), metavar="SCENARIO")
    parser.add_argument("--keep-logs", action="store_true", help="print the servers' logs at the end")
    parser.add_argument("--write", action="store_true", help="put the table into README.md and the docs")
    return parser.parse_args(argv)


async def _play(arguments: argparse.Namespace) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    async with open_stage(arguments.turns, arguments.seed) as stage:
        for name in arguments.only:
            print(f"{name} …", flush=True)
            row = await _one(name, stage)
            rows.append(row)
            print(f"{name}: {'met' if not row.failures else 'NOT MET'} in {row.time_s:.1f} s", flush=True)
            await stage.books.forget()
        if arguments.keep_logs:
            for server in stage.instances:
                print(server.log_text(), file=sys.stderr)
        return rows, stage.missing


async def _one(name: str, stage: Stage) -> Row:
    """A scenario that cannot be played to its end is one that is not met."""
    begun = time.monotonic()
    try:
        return await SCENARIOS[name](stage)
    except Exception as error:  # noqa: BLE001  # the other scenarios still tell something
        failure = f"it broke off: {type(error).__name__}: {error}"
        return Row(name, stage.turns, time_s=time.monotonic() - begun, failures=[failure])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(str(error))
