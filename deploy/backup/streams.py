"""Streams out of the broker and into it, as it keeps them: with sequences, times, headers and incarnation.

The wire protocol is the JetStream API's (`STREAM.SNAPSHOT` and `STREAM.RESTORE`, NATS ADR-44 and "JetStream wire API").
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.errors import Unavailable
from shared.pull import StreamError, api_request

CHUNK = 128 * 1024
# Chunks on their way at a time: what the broker may send before it hears of one.
WINDOW = 8 * 1024 * 1024
# Seconds without any chunk after which the broker is held for gone. It first writes down all that it has in memory.
WITHIN = 60.0
# Deletions on their way at a time.
TOGETHER = 500
# The status of the last message of a whole snapshot, where it has one; another one tells of trouble.
_WHOLE = "204"
_NO_MESSAGE = (10037, 10043)  # nats-server server/errors.json


async def save(client: Client, stream: str, write: Callable[[bytes], Any]) -> dict[str, Any]:
    """Give the content of a stream to `write`, part by part; return its `config` and `state` of then.

    Consumers are not within. Raises `Unavailable`, `StreamError`.
    """
    arrived: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=arrived.put, pending_msgs_limit=-1, pending_bytes_limit=-1)
    try:
        asked = {"deliver_subject": inbox, "no_consumers": True, "chunk_size": CHUNK, "window_size": WINDOW}
        answer = await api_request(client, f"$JS.API.STREAM.SNAPSHOT.{stream}", asked, wait=WITHIN)
        while True:
            async with _within(f"the content of {stream}"):
                msg = await arrived.get()
            if not msg.data:
                break
            write(msg.data)
            if msg.reply:
                await client.publish(msg.reply, b"")
    finally:
        with contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()
    status = (msg.headers or {}).get("Status", _WHOLE)
    if status != _WHOLE:
        raise Unavailable(f"the broker gave up on {stream}: {status} {(msg.headers or {}).get('Description', '')}")
    return {"config": answer["config"], "state": answer["state"]}


async def load(client: Client, config: dict[str, Any], state: dict[str, Any], parts: Iterable[bytes]) -> None:
    """Make a stream that is not there of what `save` gave, under this configuration. Raises `Unavailable`, `StreamError`.

    There is one copy of it: how many there are to be is for `deploy.prepare` to say, which knows how many servers there are here.
    """
    name = config["name"]
    single = config | {"num_replicas": 1}
    answer = await api_request(client, f"$JS.API.STREAM.RESTORE.{name}", {"config": single, "state": state}, wait=WITHIN)
    for part in parts:
        msg = await _asked(client, answer["deliver_subject"], part, name)
        if msg.data:
            _refused(msg)
    _refused(await _asked(client, answer["deliver_subject"], b"", name))


async def cut(client: Client, stream: str, after: int, last: int) -> None:
    """Remove the messages of a stream from behind `after` to `last`. Raises `Unavailable`, `StreamError`."""
    for start in range(after + 1, last + 1, TOGETHER):
        await asyncio.gather(*(_delete(client, stream, seq) for seq in range(start, min(start + TOGETHER, last + 1))))


async def _delete(client: Client, stream: str, seq: int) -> None:
    try:
        await api_request(client, f"$JS.API.STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True}, wait=WITHIN)
    except StreamError as error:
        if error.code not in _NO_MESSAGE:
            raise


async def _asked(client: Client, subject: str, part: bytes, stream: str) -> Msg:
    try:
        return await client.request(subject, part, timeout=WITHIN)
    except (nats.errors.Error, TimeoutError) as error:
        raise Unavailable(f"the broker did not take {stream}: {type(error).__name__}") from error


def _refused(msg: Msg) -> None:
    answer = json.loads(msg.data)
    if "error" in answer:
        raise StreamError(answer["error"].get("err_code", 0), answer["error"].get("description", "unknown"))


@contextlib.asynccontextmanager
async def _within(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WITHIN):
            yield
    except TimeoutError as error:
        raise Unavailable(f"the broker did not send {what} within {WITHIN:.0f} s") from error
