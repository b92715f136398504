"""Hundreds of open tails: what they cost while nothing comes, and how soon each row is at each reader, beside one tail alone.

A stack archives records of a service at a steady rate. One tail alone reads them first. Then there are many: of each three, one
asks for all of it and one for a tenth of it, and one takes nothing of what it is sent. Each record tells when it was published.

- `p50_ms`, `p95_ms`: from a record's publication to its arrival at a reader, beside `alone_p50_ms`, `alone_p95_ms`;
- `delivered`: rows that arrived, of those that readers are owed (wanted: all);
- `quiet_cores`: of the gateway and of logs, while tails are open and nothing comes; `cores`: while records come;
- `mb`: resident memory of both, before, while tails are quiet, and at the end, with the readers that take nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import click
import msgspec
import psutil

from bench.support import outcome
from bench.support.cpu import Meter
from bench.support.outcome import Outcome, percentile
from bench.support.running import Whole, whole
from shared.bus import Bus, connected
from shared.health import Health
from shared.messages import Logged

RATE = 30
TAILS = 300
QUIET = 5.0
# Rows that are on their way when the last is published arrive within so many seconds, or count as lost.
SETTLES = 10.0
SERVICES = ("gateway", "logs")
EVERY, TENTH = "type:log.info data.event:tick", "type:log.info data.event:tick data.fields.tenth:true"


class Reader:
    """A tail, and the milliseconds that each of its rows took."""

    def __init__(self, whole_stack: Whole, q: str, *, stalled: bool = False) -> None:
        self._stack = whole_stack
        self._q = q
        self._stalled = stalled
        self.took: list[float] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Read for the block, from the first place on; one that is stalled has a small buffer and takes no more than that."""
        url = urlsplit(self._stack.ready["url"])
        sock = socket.socket()
        if self._stalled:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)  # noqa: FBT003 - it takes no name
        await asyncio.get_running_loop().sock_connect(sock, (url.hostname, url.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 20)
        head = f"GET /api/v1/logs/tail?org=global&q={quote(self._q)} HTTP/1.1\r\nHost: {url.netloc}\r\n"
        writer.write(f"{head}Authorization: Bearer {self._stack.ready['admin_key']}\r\n\r\n".encode())
        await reader.readuntil(b"event: place")
        reading = None if self._stalled else asyncio.create_task(self._read(reader))
        if self._stalled:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
        try:
            yield
        finally:
            if reading is not None:
                reading.cancel()
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                line = await reader.readuntil(b"\n")
                if line.startswith(b"data: {") and b'"tick"' in line:
                    at = msgspec.json.decode(line[6:])["data"]["fields"]["at"]
                    self.took.append((time.time() - at) * 1000)


async def _tick(bus: Bus, seconds: float) -> int:
    """Publish records at the rate for so many seconds; return how many."""
    began, count = time.perf_counter(), int(seconds * RATE)
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
        fields = {"at": time.time(), "number": number, "tenth": number % 10 == 0}
        await bus.publish_log(Logged(service="executor", level="info", event="tick", fields=fields), None)
    return count


def _memory(stack: Whole) -> dict[str, float]:
    return {name: psutil.Process(stack.pids[name]).memory_info().rss / 2**20 for name in SERVICES}


def _of(figures: dict[str, float]) -> dict[str, float]:
    return {name: figures[name] for name in SERVICES}


async def _settled(readers: list[Reader], owed: int) -> None:
    until = time.perf_counter() + SETTLES
    while sum(len(one.took) for one in readers) < owed and time.perf_counter() < until:
        await asyncio.sleep(0.1)


async def measure(folder: Path, seconds: float, tails: int) -> Outcome:
    """Measure with so many tails, for about so many seconds."""
    async with whole(folder / "data") as stack, connected(stack.ready["nats_url"], service="executor", health=Health("b")) as bus:
        alone = Reader(stack, EVERY)
        before = _memory(stack)
        async with alone.open():
            owed_alone = await _tick(bus, seconds / 3)
            await _settled([alone], owed_alone)
        third = tails // 3
        everything = [Reader(stack, EVERY) for _ in range(third)]
        tenths = [Reader(stack, TENTH) for _ in range(third)]
        stalled = [Reader(stack, EVERY, stalled=True) for _ in range(tails - 2 * third)]
        async with AsyncExitStack() as opened:
            for one in (*everything, *tenths, *stalled):
                await opened.enter_async_context(one.open())
            meter = Meter(stack.pids)
            await asyncio.sleep(QUIET)
            quiet, quiet_mb = _of(meter.cores()), _memory(stack)
            meter = Meter(stack.pids)
            count = await _tick(bus, seconds * 2 / 3)
            cores, elsewhere = _of(meter.cores()), meter.elsewhere()
            owed = third * (count + (count + 9) // 10)
            await _settled([*everything, *tenths], owed)
            at_end = _memory(stack)
    took = [one for reader in (*everything, *tenths) for one in reader.took]
    return Outcome(
        name="tails",
        figure=percentile(took, 95),
        unit=f"ms, p95, from publication to each of {2 * third} readers",
        limit=percentile(alone.took, 95),
        ratio=percentile(took, 95) / percentile(alone.took, 95),
        more={
            "tails": tails,
            "rows_a_second": RATE,
            "p50_ms": percentile(took, 50),
            "p95_ms": percentile(took, 95),
            "alone_p50_ms": percentile(alone.took, 50),
            "alone_p95_ms": percentile(alone.took, 95),
            "delivered": f"{len(took)} of {owed}",
            "delivered_a_second": len(took) / (seconds * 2 / 3),
            "quiet_cores": quiet,
            "cores": cores,
            "mb": {name: [before[name], quiet_mb[name], at_end[name]] for name in SERVICES},
            "busy_elsewhere": elsewhere,
        },
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--seconds", default=30.0, show_default=True, help="How long to measure, roughly.")
@click.option("--tails", default=TAILS, show_default=True, help="How many tails are open.")
def main(*, as_json: bool, seconds: float, tails: int) -> None:
    """Measure what open tails cost, and how soon rows are at their readers."""
    raise SystemExit(outcome.main(lambda folder, seconds: measure(folder, seconds, tails), seconds=seconds, as_json=as_json))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
