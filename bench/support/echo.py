"""`python -m bench.support.echo`: answers requests on a broker with the bytes that came, and does nothing else.

On a second subject each answer waits for a record in the audit trail, as the services write theirs: many in one commit. The same
client of the broker as a service has, on uvloop. Prints `ready`; ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal

import uvloop
from nats.aio.msg import Msg

from shared import tasks
from shared.bus import connected
from shared.client import subscribe
from shared.health import Health
from shared.messages import Audited

BARE, RECORDED = "bench.echo", "bench.recorded"


def given() -> Audited:
    """Return a record as the oauth service has one of each token that it gives."""
    detail = {"run": "bench", "connection": "01234567-89ab-7def-8123-456789abcdef", "owner": "default", "version": 1}
    return Audited(category="token", verb="given", actor="run:bench", target="warm", outcome="ok", detail=detail)


async def main() -> None:
    """Answer until a signal comes."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with connected(os.environ["BENCH_NATS_URL"], service="oauth", health=Health("oauth")) as bus:
        under_way: set[asyncio.Task[None]] = set()

        async def answer(msg: Msg) -> None:
            if msg.subject == RECORDED:
                await bus.publish(bus.seal(given(), org="default"))
            await bus.client.publish(msg.reply, msg.data)

        def arrived(msg: Msg) -> None:
            task = asyncio.create_task(answer(msg))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

        for subject in (BARE, RECORDED):
            await subscribe(bus.client, subject, arrived)
        await bus.client.flush()
        print("ready", flush=True)
        await ended.wait()
        await tasks.end(under_way)


if __name__ == "__main__":
    uvloop.run(main())
