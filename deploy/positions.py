"""Reads the positions of streams and their readers, with the administrator's rights."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from deploy.errors import StartError
from deploy.given import unreached
from shared.client import connect
from shared.envelope import new_id
from shared.messages.shards import VARIABLE
from shared.projection import INCARNATION
from shared.pull import api_request
from shared.sharding import difference

_NANO = 1_000_000_000
# A consumer that is made only to be asked how much it would read; the server forgets it by itself if we die before deleting it.
_FORGOTTEN_AFTER = 5


# In a stream's metadata: the ranges of sequences, as `5-9 12-12`, that restores removed because they were later than the backup.
CUT = "millrace_cut"


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a stream: sequences `first` to `last`, of which `messages` are there; `max_age` in nanoseconds, 0 for ever.

    `cut`: ranges without messages, of which no row ever was.
    """

    stream: str
    incarnation: str
    first: int
    last: int
    messages: int
    max_age: int
    cut: tuple[tuple[int, int], ...] = ()

    @property
    def gone(self) -> int:
        """The number of messages that the stream once held and holds no more."""
        return self.last - self.messages - self._cut_from(1)

    @property
    def gone_within(self) -> int:
        """The number of them between the first and the last that are there."""
        return self.last - self.first + 1 - self.messages - self._cut_from(self.first)

    def _cut_from(self, first: int) -> int:
        return sum(max(0, end - max(start, first) + 1) for start, end in self.cut)


@asynccontextmanager
async def administrator(url: str) -> AsyncIterator[Client]:
    """Connect to the broker with administrator rights for the block.

    Raises `StartError` when it cannot be reached, or its streams have another number of shards than this process was told.
    """
    said: list[Exception] = []

    async def hear(error: Exception) -> None:
        said.append(error)

    try:
        client = await connect(
            url, name="millrace-admin", connect_timeout=5, max_reconnect_attempts=1, allow_reconnect=False, error_cb=hear
        )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise StartError(unreached(url, [error, *said])) from error
    try:
        if (wrong := await difference(client)) is not None:
            raise StartError(f"{VARIABLE} {wrong}.")
        yield client
    finally:
        await client.close()


async def held(client: Client, stream: str) -> Held:
    """Return the present range of a stream."""
    info = await api_request(client, f"$JS.API.STREAM.INFO.{stream}", None)
    state, config = info["state"], info["config"]
    metadata = config.get("metadata") or {}
    return Held(
        stream=stream,
        incarnation=metadata.get(INCARNATION, ""),
        first=state["first_seq"],
        last=state["last_seq"],
        messages=state["messages"],
        max_age=config.get("max_age", 0),
        cut=tuple((int(start), int(end)) for start, _, end in (one.partition("-") for one in metadata.get(CUT, "").split())),
    )


def mark_cut(config: dict[str, Any], after: int, last: int) -> None:
    """Note in a stream's configuration that of the sequences behind `after`, up to `last`, no row ever was."""
    known = config.get("metadata") or {}
    config["metadata"] = known | {CUT: f"{known.get(CUT, '')} {after + 1}-{last}".strip()}


async def limit_age(client: Client, stream: str, max_age: int) -> None:
    """Let a stream keep its messages for so many nanoseconds; 0: for ever."""
    info = await api_request(client, f"$JS.API.STREAM.INFO.{stream}", None)
    if info["config"].get("max_age", 0) != max_age:
        await api_request(client, f"$JS.API.STREAM.UPDATE.{stream}", info["config"] | {"max_age": max_age}, wait=15)


async def pending(client: Client, stream: str, filters: tuple[str, ...], after: int) -> int:
    """Return how many messages a reader with these filters has before it after the sequence `after`."""
    name = f"count-{new_id()}"
    config: dict[str, Any] = {
        "name": name,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": _FORGOTTEN_AFTER * _NANO,
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": after + 1,
        "filter_subjects": list(filters or (">",)),
    }
    body = {"stream_name": stream, "config": config}
    answer = await api_request(client, f"$JS.API.CONSUMER.CREATE.{stream}.{name}", body, wait=30)
    await api_request(client, f"$JS.API.CONSUMER.DELETE.{stream}.{name}", None)
    return int(answer.get("num_pending", 0))


async def keys(client: Client, stream: str, filter_: str, *, place: int = 1) -> set[str]:
    """Return the keys (second tokens, or those at `place`) of all subjects of a stream that match a filter and hold a message."""
    found: set[str] = set()
    offset = 0
    while True:
        asked = {"subjects_filter": filter_, "offset": offset}
        info = await api_request(client, f"$JS.API.STREAM.INFO.{stream}", asked, wait=30)
        subjects = info["state"].get("subjects") or {}
        found |= {subject.split(".")[place] for subject in subjects}
        offset += len(subjects)
        if not subjects or offset >= info.get("total", 0):
            return found
