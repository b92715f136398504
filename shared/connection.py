"""The connection of one service to the broker, from the first handshake to the drain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nats.errors
import structlog
from faststream.nats import NatsBroker
from nats.aio.client import Client

from shared.client import JETSTREAM_ERRORS, connect, is_given_up
from shared.errors import Unavailable
from shared.health import Health
from shared.pull import StreamError, inbox_prefix

# Pause between checks that the client still tries to be connected.
ATTENDED_EVERY = 1.0

_log = structlog.get_logger()


class _Broker(NatsBroker):
    async def _connect(self) -> Client:
        connection = await connect(**self._connection_kwargs)
        self.config.connect(connection)
        return connection


class GaveUp(Exception):
    """The client of the broker has given up for good."""


@contextlib.asynccontextmanager
async def connected_broker(url: str, *, service: str, health: Health) -> AsyncIterator[NatsBroker]:
    """Connect to the broker for the block, and go on reconnecting; drains at the end.

    Raises OSError or nats' errors when the first connection fails.
    """
    stopping = asyncio.Event()

    async def disconnected() -> None:
        if stopping.is_set():
            return
        health.report("broker", "not connected")
        _log.warning("broker.disconnected")

    async def reconnected() -> None:
        health.report("broker", None)
        _log.info("broker.reconnected")

    async def failed(error: Exception) -> None:
        _log.warning("broker.error", reason=f"{type(error).__name__}: {error}")

    broker = _Broker(
        url,
        name=f"millrace-{service}",
        inbox_prefix=inbox_prefix(service).encode(),
        apply_types=False,
        logger=None,
        connect_timeout=5,
        reconnect_time_wait=0.25,  # type: ignore[arg-type]  # nats-py sleeps so many seconds
        max_reconnect_attempts=-1,
        ping_interval=5,
        max_outstanding_pings=2,
        disconnected_cb=disconnected,
        reconnected_cb=reconnected,
        error_cb=failed,
        drain_timeout=5,
        graceful_timeout=5,
    )
    await broker.connect()
    client: Client = broker.connection
    health.report("broker", None)
    health.state("broker", lambda: traffic(client), counters=("reconnects", "errors"))
    try:
        yield broker
    finally:
        stopping.set()
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            async with asyncio.timeout(8):
                await broker.stop()


def traffic(client: Client) -> dict[str, Any]:
    """Return whether a client is connected, how often it was again, and how often JetStream refused or did not answer it."""
    return {
        "connected": client.is_connected,
        "reconnects": client.stats["reconnects"],
        "errors": client.stats.get(JETSTREAM_ERRORS, 0),
    }


async def attend(client: Client, again: Callable[[], Awaitable[None]] | None = None) -> None:
    """Watch the client for ever. Raises `GaveUp` when it will never be connected again: then only a new process helps.

    `again` is called when it was connected anew, until it has an answer: without one it raises `Unavailable` or `StreamError`.

    nats-py closes itself for good on most of a broker's errors, and an error that its reconnecting task does not expect ends that
    task, such as uvloop's RuntimeError for a connection that was reset within the handshake.
    """
    connected = client.stats["reconnects"]
    while True:
        await asyncio.sleep(ATTENDED_EVERY)  # neither is reported
        if again is not None and client.stats["reconnects"] != connected:
            with contextlib.suppress(Unavailable, StreamError):
                now = client.stats["reconnects"]
                await again()
                connected = now
        if is_given_up(client):
            raise GaveUp("the client does not try to reach the broker any more")
