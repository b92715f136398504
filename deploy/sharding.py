"""The number of shards of RUNS, as preparation writes it into the streams."""

from __future__ import annotations

from typing import Any

import asyncpg
from nats.aio.client import Client

from deploy.errors import StartError
from shared.config import ConfigError, Environment
from shared.messages.shards import MOST, VARIABLE, in_shard
from shared.pull import StreamError, api_request
from shared.runs import RUN_SHARDS, RUNS
from shared.sharding import NO_STREAM, SHARDS, differing, shards_in

# Seconds for one answer: three servers agree on all streams at the same time, each syncing what it writes.
WITHIN = 30.0


async def info_of(client: Client, stream: str) -> dict[str, Any] | None:
    """Return what the broker says of a stream; None where there is none. Raises `Unavailable`, `StreamError`."""
    try:
        return await api_request(client, f"$JS.API.STREAM.INFO.{stream}", None, wait=WITHIN)
    except StreamError as error:
        if error.code != NO_STREAM:
            raise
        return None


async def check_shards(client: Client) -> None:
    """Raise `StartError` where the streams were made for another number than this process was told, unless it may grow now.

    It may while no shard holds a message: all messages of a run are in the shard that follows from its id and the number.
    """
    environment = Environment()
    environment.integer(VARIABLE, 1, minimum=1, maximum=MOST)
    try:
        environment.check()
    except ConfigError as error:
        (problem,) = error.problems
        raise StartError(f"{problem.path} {problem.message}.") from error
    first = await info_of(client, RUNS)
    if first is None and await info_of(client, in_shard(RUNS, RUN_SHARDS)) is not None:
        raise StartError(
            f"{VARIABLE} is {RUN_SHARDS}, and the stream {RUNS}, which is lost, had more shards: set it to their number."
        )
    if first is None or (made := shards_in(first["config"])) == RUN_SHARDS:
        return
    if made > RUN_SHARDS:
        raise StartError(f"{VARIABLE} {differing(made)}. There will not be fewer: the archive has a part for each.")
    others = [await info_of(client, in_shard(RUNS, shard)) for shard in range(1, made)]
    if kept := sum(one["state"]["messages"] for one in (first, *others) if one is not None):
        raise StartError(f"{VARIABLE} {differing(made)}: {kept} messages of runs are.")


async def check_archived(connection: asyncpg.Connection[Any]) -> None:
    """Raise `StartError` where the archive has the runs in another number of shards: from it they go back to where they were."""
    asked = "SELECT count(*) FROM logs.checkpoint WHERE projection = $1 OR starts_with(projection, $1 || '-')"
    archived = await connection.fetchval(asked, f"archive-{RUNS.lower()}")
    if archived and archived != RUN_SHARDS:
        raise StartError(f"{VARIABLE} is {RUN_SHARDS}, and the archive has {RUNS} in {archived}: set it to {archived}.")


def metadata_of(stream: str) -> dict[str, str]:
    """Return what stands in a stream's metadata because of it: in that of the first of several."""
    return {SHARDS: str(RUN_SHARDS)} if stream == RUNS and RUN_SHARDS > 1 else {}
