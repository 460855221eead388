"""A process that guesses passwords: `python -m bench.guesses <port> <seconds>`; prints how it was answered."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import aiohttp

ATTEMPTS = 1000
ACCOUNTS = 100  # each from an address of its own


async def guess(port: int, seconds: float) -> Counter[str]:
    """Send the attempts evenly over the time, without waiting for answers."""
    statuses: Counter[str] = Counter()

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        await asyncio.sleep(number * seconds / ATTEMPTS)
        which = number % ACCOUNTS
        headers = {"X-Forwarded-For": f"203.0.113.{which}"}
        body = {"email": f"user{which}@bench.example", "password": f"Wrong-Horse-{number}"}
        url = f"http://127.0.0.1:{port}/v1/auth/login"
        async with session.post(url, json=body, headers=headers) as reply:
            await reply.read()
            statuses[str(reply.status)] += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(one(session, number) for number in range(ATTEMPTS)))
    return statuses


if __name__ == "__main__":
    print(json.dumps(asyncio.run(guess(int(sys.argv[1]), float(sys.argv[2])))), flush=True)
