"""Webhooks accepted and worked off: how many a second, from the first one sent until nothing of them is left to do.

Three sources in turn. Nobody wants the webhooks of the first one: they end `filtered`. Each one of the second starts a run of a
workflow that does nothing with `isolation="workflow"`, each one of the third the same in a process of its own. A webhook counts
when its delivery is a row with its outcome, its run is a row that succeeded, and both ends are in the archive. A 503 is sent again
after half a second, as a sender would. Beside it, on the same broker: as many messages of the same size published and consumed by
one process, each published durably and each acknowledged, with as many on their way.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import nats
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from bench.support import outcome
from bench.support.connection import Connection, Post
from bench.support.cpu import Meter
from bench.support.limits import STREAM, SUBJECT
from bench.support.outcome import BenchError, Outcome
from bench.support.running import Whole, make_bench_stream, whole

BODY = b'{"text":"' + b"x" * (512 - 11) + b'"}'
WORKFLOWS = b"""
from millrace import workflow


@workflow
def isolated(event: dict) -> None:
    return None


@workflow(isolation="workflow")
def reused(event: dict) -> None:
    return None
"""
# The sources whose webhooks start runs, of the workflows that are named so.
RUN = ("reused", "isolated")
IN_FLIGHT = 64
# Webhooks a source for each second that the bench may take: about what the slowest machine seen works off.
FILTERED, REUSED, ISOLATED = 240, 90, 30
WARM_UP = 64
PAUSE = 0.5
# Seconds between two looks, and at least so many times what the last one took: counting takes CPU from what is measured.
LOOK, SPARING = 0.05, 20
WITHIN = 300.0


class Source(msgspec.Struct, frozen=True):
    """A source, named as the workflow that it starts, and one webhook to it."""

    name: str
    id: str
    post: Post


class Worked(msgspec.Struct, frozen=True):
    """What came of the webhooks to one source. Seconds from the first one sent."""

    webhooks: int
    accepted_s: float
    done_s: float
    refused: int
    cpu_ms: dict[str, float]

    def figures(self) -> dict[str, Any]:
        """Return it as figures by name."""
        return {
            "webhooks": self.webhooks,
            "per_s": self.webhooks / self.done_s,
            "accepted_per_s": self.webhooks / self.accepted_s,
            "refused_503": self.refused,
            "cpu_ms_per_webhook": {**self.cpu_ms, "all": sum(self.cpu_ms.values())},
        }


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure; `seconds` decides how many webhooks are sent."""
    total = Meter({})
    async with whole(folder / "data") as stack:
        sources = await _prepared(stack)
        await make_bench_stream(stack.ready["nats_url"])
        archive = await asyncpg.connect(stack.ready["database_url"])
        client = await nats.connect(stack.ready["nats_url"])
        try:
            worked: dict[str, Worked] = {}
            for name, a_second in (("filtered", FILTERED), ("reused", REUSED), ("isolated", ISOLATED)):
                await _worked_off(stack, archive, sources[name], WARM_UP)
                worked[name] = await _worked_off(stack, archive, sources[name], max(IN_FLIGHT, int(seconds * a_second)))
            bare = await _bare(client, worked["filtered"].webhooks)
        finally:
            await client.close()
            await archive.close()
    figures = {name: one.figures() for name, one in worked.items()}
    return Outcome(
        name="sustained",
        figure=figures["reused"]["per_s"],
        unit="webhooks a second, accepted, routed, run and archived",
        limit=bare,
        ratio=figures["reused"]["per_s"] / bare,
        more={
            **figures,
            "bare_publish_and_consume_per_s": bare,
            "filtered_ratio": figures["filtered"]["per_s"] / bare,
            "reused_ratio": figures["reused"]["per_s"] / bare,
            "isolated_ratio": figures["isolated"]["per_s"] / bare,
            "in_flight": IN_FLIGHT,
            "elsewhere_cores": total.elsewhere(),
        },
    )


async def _prepared(stack: Whole) -> dict[str, Source]:
    view = await stack.api.call("PUT", "/api/v1/workspace/files/workflows/noop.py", data=WORKFLOWS)
    if view["problems"]:
        raise BenchError(f"the workflows cannot be deployed: {view['problems'][0]['message']}")
    sources = {}
    for name in ("filtered", "reused", "isolated"):
        secret = secrets.token_urlsafe(24)
        source = await stack.api.call("PUT", f"/api/v1/sources/{name}", body={"adapter": "hmac", "settings": {"secret": secret}})
        if name in RUN:
            await stack.api.call("PUT", f"/api/v1/subscriptions/{name}", body={"source": name, "event": "*", "workflow": name})
        signature = hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", "X-Signature": signature}
        sources[name] = Source(name, source["id"], Post(url=source["url"], headers=headers, body=BODY))
    return sources


async def _worked_off(stack: Whole, archive: asyncpg.Connection[Any], source: Source, count: int) -> Worked:
    before = await _ends(archive, source)
    meter = Meter(stack.pids)
    began = time.perf_counter()
    refused = await _sent(source.post, count)
    accepted = time.perf_counter() - began
    while True:
        looking = time.perf_counter()
        if (done := await _ends(archive, source)) == tuple(one + count for one in before):
            break
        if time.perf_counter() - began > WITHIN:
            raise BenchError(f"of {count} webhooks to {source.name} these have come to their end: {done}, before them {before}")
        await asyncio.sleep(max(LOOK, SPARING * (time.perf_counter() - looking)))
    taken = looking - began
    cpu = {part: used / count * 1000 for part, used in meter.seconds().items()}
    return Worked(count, accepted, taken, refused, cpu)


async def _sent(post: Post, count: int) -> int:
    """Have `count` webhooks accepted, `IN_FLIGHT` at a time; return how often one was answered 503."""
    left, accepted, refused = count, 0, 0
    encoded = post.encoded()
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    async def connected() -> Connection:
        def answered(status: int, body: bytes) -> None:
            nonlocal left, accepted, refused
            if done.done():
                return
            if status == 503:
                refused += 1
                loop.call_later(PAUSE, connection.send, encoded)
                return
            if status != 202:
                done.set_exception(BenchError(f"a webhook was answered {status}: {body[:200].decode(errors='replace')}"))
                return
            accepted += 1
            if accepted == count:
                done.set_result(None)
            elif left > 0:
                left -= 1
                connection.send(encoded)

        def lost() -> None:
            if not done.done():
                done.set_exception(BenchError("the gateway closed a connection"))

        connection = await Connection.open(post.url, answered, lost)
        return connection

    connections = [await connected() for _ in range(min(IN_FLIGHT, count))]
    left -= len(connections)
    for one in connections:
        one.send(encoded)
    try:
        async with asyncio.timeout(WITHIN):
            await done
    except TimeoutError as error:
        raise BenchError(f"{accepted} of {count} webhooks were accepted within {WITHIN:g} s") from error
    finally:
        for one in connections:
            one.close()
    return refused


async def _ends(archive: asyncpg.Connection[Any], source: Source) -> tuple[int, ...]:
    """Return how many deliveries of a source have their outcome, as rows and in the archive, and the same of their runs."""
    routed = "routed" if source.name in RUN else "filtered"
    rows = await archive.fetchval("SELECT count(*) FROM events.delivery WHERE source = $1 AND outcome = $2", source.id, routed)
    ends = await archive.fetchval("SELECT count(*) FROM logs.message WHERE type = $1", f"event.{routed}")
    if source.name not in RUN:
        return rows, ends
    of = "SELECT count(*) FROM executor.run WHERE workflow = $1 AND status = 'succeeded'"
    succeeded = await archive.fetchval(of, source.name)
    archived = await archive.fetchval("SELECT count(*) FROM logs.message WHERE type = 'run.succeeded'")
    return rows, ends, succeeded, archived


async def _bare(client: Client, count: int) -> float:
    """Return how many messages a second are published durably and consumed, by one process with as many on their way."""
    js = client.jetstream(timeout=30)
    pulling = await js.pull_subscribe(SUBJECT, "bare", stream=STREAM, config=ConsumerConfig(max_ack_pending=10_000))
    left = count

    async def publish() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await js.publish(SUBJECT, BODY, headers={"Nats-Msg-Id": secrets.token_hex(16)})

    async def consume() -> None:
        consumed = 0
        while consumed < count:
            for msg in await pulling.fetch(IN_FLIGHT, timeout=30):
                await msg.ack()
                consumed += 1

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        for _ in range(IN_FLIGHT):
            group.create_task(publish())
    return count / (time.perf_counter() - began)


main = outcome.command(
    measure,
    seconds=50.0,
    about="Measure how many webhooks a second are accepted, routed, run and archived, until nothing is left to do.",
)


if __name__ == "__main__":
    main()
