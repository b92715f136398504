"""Whether this process and the streams agree about the number of shards, which is a property of the streams.

Preparation writes it into the metadata of RUNS (none there: one), where it may grow as long as no shard holds a run. It is looked
at before anything is published: a run in a shard in which nobody looks for it would be lost.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from nats.aio.client import Client

from shared.config import ConfigError
from shared.errors import Problem, Unavailable
from shared.health import Health
from shared.messages.shards import VARIABLE
from shared.pull import StreamError, api_request
from shared.runs import RUN_SHARDS, RUNS

# In the metadata of the first shard, unless it is the only one.
SHARDS = "millrace_shards"
# Seconds between two questions to a broker that does not answer yet, or has no streams yet.
AGAIN = 0.5
NO_STREAM = 10059  # nats-server server/errors.json
_PART = "run shards"
_log = structlog.get_logger()


def shards_in(config: dict[str, Any]) -> int:
    """Return of how many shards the stream with this configuration is the first."""
    return int((config.get("metadata") or {}).get(SHARDS, 1))


def differing(made: int) -> str | None:
    """Return what is wrong where the streams were made for another number than this process was told, as a sentence's end."""
    if made == RUN_SHARDS:
        return None
    return (
        f"is {RUN_SHARDS}, and the stream {RUNS} is made for {made}: set it to {made} for every service and every command, or have "
        "preparation make more of them, which it does while no run is on the bus"
    )


async def difference(client: Client) -> str | None:
    """Return what is wrong with the number that this process was told; None also where there is no stream yet.

    Raises `Unavailable`, `StreamError`.
    """
    try:
        info = await api_request(client, f"$JS.API.STREAM.INFO.{RUNS}", None)
    except StreamError as error:
        if error.code == NO_STREAM:
            return None
        raise
    return differing(shards_in(info["config"]))


async def check(client: Client) -> None:
    """Look whether the number is the right one. Raises `ConfigError` where it is another one, `Unavailable`, `StreamError`."""
    info = await api_request(client, f"$JS.API.STREAM.INFO.{RUNS}", None)
    if (wrong := differing(shards_in(info["config"]))) is not None:
        raise ConfigError([Problem(VARIABLE, wrong)])


async def agreed(client: Client, health: Health) -> None:
    """Return when the broker has said that the number is the right one. Raises `ConfigError` where it is another one."""
    waits = False
    while True:
        try:
            await check(client)
        except (Unavailable, StreamError) as error:
            if not waits:
                _log.warning("shards.not_known", reason=str(error))
            waits = True
            health.report(_PART, str(error))
        else:
            if waits:
                health.report(_PART, None)
            return
        await asyncio.sleep(AGAIN)  # the broker does not tell
