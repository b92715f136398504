"""The broker stands still for ten seconds under load: refusals in time, bounded memory, and all that was accepted ends."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections import Counter
from pathlib import Path

import aiohttp

from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.stack import Up

SECRET = "It's a Secret to Everybody"
WORKFLOW = b"""
from millrace import workflow


@workflow(name="greet")
def greet(event: dict) -> str:
    return event["data"]["ref"]
"""
SENDERS = 64
AWAY = 10.0
# One webhook in so many starts a run; of the others it is enough that they were looked at.
RUNS_EVERY = 16
# What a gateway may grow by while nothing can be stored: requests that wait are few and small.
GROWTH_MB = 64


def memory_mb(pid: int) -> float:
    """Return what a process holds in memory, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def test_refusals_are_in_time_and_whatever_was_accepted_ends(up: Up) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await _drill(up, Client(session, up.ready))


async def _drill(up: Up, client: Client) -> None:
    await client.put_file("greet.py", WORKFLOW)
    source = await client.call("PUT", "/api/v1/sources/repo", body={"adapter": "github", "settings": {"secret": SECRET}})
    await client.call("PUT", "/api/v1/subscriptions/push", body={"source": "repo", "event": "push", "workflow": "greet"})
    sending = True
    statuses: Counter[int] = Counter()
    accepted: dict[str, str] = {}
    refused: set[int] = set()

    async def sender(number: int) -> None:
        turn = number
        while sending:
            event = "star" if turn % RUNS_EVERY else "push"
            turn += 1
            delivery = str(uuid.uuid4())
            # Said again under the same id until it is accepted, as GitHub's redelivery would.
            while True:
                status, answer = await client.github(source["url"], SECRET, b'{"ref": "x"}', event=event, delivery=delivery)
                statuses[status] += 1
                if status in {200, 202}:
                    accepted[answer["id"]] = event
                    break
                assert status == 503, answer
                refused.add(number)
                await asyncio.sleep(0.2)

    gateway = up.ready["services"]["gateway"]
    senders = [asyncio.create_task(sender(number)) for number in range(SENDERS)]

    async def flowing() -> bool:
        return statuses[202] >= 10 * SENDERS

    await eventually(flowing)
    before = memory_mb(gateway)
    os.kill(up.ready["nats_pid"], signal.SIGSTOP)
    try:
        await asyncio.sleep(AWAY)

        async def all_refused() -> bool:
            return len(refused) == SENDERS

        # A sender hears of it while it still listens, and not after the broker has come back.
        await eventually(all_refused, within=AWAY)
        grown = memory_mb(gateway) - before
    finally:
        os.kill(up.ready["nats_pid"], signal.SIGCONT)
    stored = len(accepted)

    async def flowing_again() -> bool:
        return len(accepted) >= stored + SENDERS

    await eventually(flowing_again)
    sending = False
    await asyncio.gather(*senders)
    assert grown < GROWTH_MB
    await _all_ended(client, accepted)


async def _all_ended(client: Client, accepted: dict[str, str]) -> None:
    async def ended() -> bool:
        seen: dict[str, str] = {}
        cursor = ""
        while True:
            page = await client.available(f"/api/v1/deliveries?limit=1000{cursor}")
            if page is None:
                return False
            seen |= {one["id"]: one["runs"][0]["status"] if one["runs"] else one["status"] for one in page["items"]}
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
        assert accepted.keys() >= seen.keys(), "a webhook that was never accepted is there"
        return all(seen.get(id_) == ("succeeded" if event == "push" else "filtered") for id_, event in accepted.items())

    await eventually(ended, within=120, every=0.25)
