"""How much history is kept: so long, so many versions of a file, and no more bytes than the organization's quota leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

from services.executor.workspaces.history import History
from shared import aggregate
from shared.bus import Bus
from shared.envelope import Sealed, derived_id, new_id, rfc3339, utc_now
from shared.errors import Unavailable
from shared.messages import HistoryTrimmed
from shared.messages.declaration import hashed_key
from shared.projection import Projection
from shared.quotas import Quotas

# What is kept beyond its time and number until it is worth a message: messages are kept for ever.
SLACK, SLACK_PART = timedelta(days=1), 10
_MOMENT = timedelta(microseconds=1)


class RetentionDeps(Protocol):
    """Dependencies of the retention of history."""

    bus: Bus
    database_url: str
    history: History
    versions: Projection
    quotas: Quotas


async def trimming(
    org: str,
    cause: str,
    before: Mapping[str, str],
    before_sizes: Mapping[str, int],
    after: Mapping[str, str],
    sizes: Mapping[str, int],
    deps: RetentionDeps,
) -> list[tuple[Sealed[Any], int]]:
    """Return what a commit that leads from one tree to another has to say, so that files and history stay within the quota.

    History gives way, the oldest versions first. Of a commit `cause` is the id. Raises `Unavailable` where the rows are behind.
    """
    most = deps.quotas.of(org).stored_bytes
    if most is None:
        return []
    if not await deps.versions.caught_up(await aggregate.newest(deps.bus.client, "file", "history")):
        raise Unavailable("the rows of the history are behind")
    now, current = utc_now(), set(after.values())
    kept = [(row["until"], row["sha256"], row["size"]) for row in await deps.history.kept(org)]
    kept += [(now, sha256, before_sizes[path]) for path, sha256 in before.items()]
    left = {sha256: (until, size) for until, sha256, size in kept if sha256 not in current}
    excess = sum(sizes[path] for path in after) + sum(size for _, size in left.values()) - most
    last: datetime | None = None
    for until, size in sorted(left.values()):
        if excess <= 0:
            break
        last, excess = until, excess - size
    if last is None:
        return []
    return [await _trimmed(org, derived_id(cause, "history.trimmed"), last + _MOMENT, deps)]


async def trim(deps: RetentionDeps, now: Callable[[], datetime] = utc_now) -> int:
    """Trim every organization's history to what it keeps; returns of how many something went. Raises `Unavailable`."""
    done = 0
    for row in await deps.history.oldest():
        days, most = deps.quotas.history(row["org"])
        before = now() - timedelta(days=days)
        is_old = row["until"] is not None and row["until"] < before - SLACK
        if is_old or row["most"] > most + most // SLACK_PART:
            sealed, expected = await _trimmed(row["org"], new_id(), before, deps)
            await aggregate.append_together(deps.bus.client, [(sealed, expected)])
            done += 1
    return done


async def forget(org: str, below: str, deps: RetentionDeps) -> None:
    """Keep no version of any file below a folder. Raises `Unavailable`."""
    await aggregate.append_together(deps.bus.client, [await _trimmed(org, new_id(), utc_now(), deps, below)])


async def _trimmed(org: str, id_: str, before: datetime, deps: RetentionDeps, below: str | None = None) -> tuple[Sealed[Any], int]:
    key = hashed_key(org)
    last = await aggregate.last(deps.bus.client, "history", key)
    most = deps.quotas.history(org)[1] if below is None else 0
    message = HistoryTrimmed(key=key, before=rfc3339(before), most=most, below=below)
    return deps.bus.seal(message, org=org, id=id_), last.sequence if last else 0
