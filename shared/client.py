"""What the rest of `shared` asks of nats-py beyond its public methods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.nuid import NUID

OnMessage = Callable[[Msg], None]

# Time for what the server still sends to a subscription that ends.
LAST_MESSAGES = 2.0

_nuid = NUID()


async def subscribe(client: Client, subject: str, on_message: OnMessage, *, queue: str = "") -> Subscription:
    """Have every message on `subject` handed to the plain function `on_message`, in order, as it arrives.

    `on_message` must not block: what takes time is for a task of its own. An exception of it goes to the client's `error_cb`.
    """

    async def take(msg: Msg) -> None:
        on_message(msg)

    return await client.subscribe(subject, queue=queue, cb=take)


async def drain(client: Client, subscription: Subscription) -> None:
    """End a subscription once what the server has sent to it was handed over, as far as the server can be reached."""
    if client.is_connected:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            async with asyncio.timeout(LAST_MESSAGES):
                await subscription.drain()  # type: ignore[no-untyped-call]


async def write(client: Client, command: bytes) -> None:
    """Write commands of the NATS client protocol (docs.nats.io, "Client Protocol") after what was published before."""
    await client._send_command(command)  # noqa: SLF001


def unique_name() -> str:
    """Return a short unique name of letters and digits (a NUID), for what the server or the protocol wants named."""
    return _nuid.next().decode()


def is_given_up(client: Client) -> bool:
    """Return whether the client neither is connected nor tries to be: it is closed, or its task that connects again has ended."""
    trying = client._reconnection_task  # noqa: SLF001
    return client.is_closed or (not client.is_connected and (trying is None or trying.done()))
