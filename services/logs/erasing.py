"""Erases messages for good: what is to be erased is recorded first, so that whoever is killed on the way is followed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any

import structlog
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import cursor, erasures
from services.logs.digests.keeping import Digests
from services.logs.digests.salts import EntryFinder, forget, forget_in_copies
from services.logs.domain import CATEGORY, ERASED
from services.logs.limits import ranges_of
from services.logs.scope import ArchiveDeps, looking, selected
from services.logs.selection import Selection
from shared.asking import Questions
from shared.bus import Bus
from shared.db import transaction
from shared.envelope import new_id
from shared.erasing import erase_messages
from shared.errors import Invalid, Problem, Unavailable
from shared.leader import lead
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.questions.erasing import (
    Erased,
    ErasedMessage,
    EraseInEvents,
    EraseInExecutor,
    EraseMessages,
    EraseOwned,
    KeptMessage,
)
from shared.questions.logs import Search
from shared.runs import RUN_STREAMS
from shared.streams import STREAMS

# Rows of a search that are looked at by one command: of a message's lines many may match.
TOGETHER = 100
# Seconds between two looks at what was not brought to its end.
EVERY = 30.0
# The nouns whose messages have content of people, by stream. All others say how things are, and are needed for as long.
_NOUNS = {"WEBHOOKS": "webhook", "EVENTS": "event", "LINES": "line", "LOGS": "log", "DEAD": "dead"}
_NOUNS |= dict.fromkeys(RUN_STREAMS, "run")
_OWNERS = {stream.name: stream.erased_by for stream in STREAMS}
_COMMANDS: dict[str, type[EraseOwned]] = {"events": EraseInEvents, "executor": EraseInExecutor}
_WHOSE = dict.fromkeys((*RUN_STREAMS, "LINES"), "run") | {"WEBHOOKS": "delivery", "EVENTS": "delivery", "DEAD": "id"}
_log = structlog.get_logger()


class Erasing:
    """Erases, and goes on with what was begun: each step may be repeated, and the last one says that it is done."""

    def __init__(self, engine: AsyncEngine, bus: Bus, digests: Digests) -> None:
        self._engine = engine
        self._bus = bus
        self._digests = digests

    async def matching(
        self, selection: Selection, since: datetime, until: datetime, after: cursor.After | None
    ) -> list[RowMapping]:
        """Return the places of at most `TOGETHER` rows that a search selects and that are not erased, oldest first."""
        async with transaction(self._engine) as connection:
            return await erasures.matching(connection, selection, since, until, after, TOGETHER)

    async def erase(self, found: Sequence[RowMapping], *, actor: str, reason: str) -> tuple[int, list[KeptMessage]]:
        """Erase the messages at these places; return how many were, and those that were not. Raises `Unavailable`: repeat it."""
        kept: list[KeptMessage] = []
        wanted: list[dict[str, Any]] = []
        entries: dict[str, EntryFinder] = {}
        async with transaction(self._engine) as connection:
            messages = await erasures.messages(connection, found)
        for row in messages:
            stream = row["stream"]
            if (why := _never(row)) is None:
                known = entries.setdefault(stream, EntryFinder(self._digests.of(stream)))
                entry = await known.index(row["incarnation"], row["seq"], cursor.microseconds(row["time"]))
                if entry is not None:
                    wanted.append(_recorded(row, entry) | {"actor": actor, "reason": reason})
                    continue
                why = f"it is not sealed yet: that is done every {self._digests.every:g} s"
            kept.append(KeptMessage(stream=stream, seq=row["seq"], type=row["type"], reason=why))
        if not wanted:
            return 0, kept
        async with transaction(self._engine) as connection:
            await erasures.begin(connection, wanted)
            begun = await erasures.undone(connection, len(wanted), [(one["incarnation"], one["seq"]) for one in wanted])
        needed, _ = await self._carry_out(begun)
        return len(begun) - len(needed), kept + needed

    async def resume(self) -> int:
        """Go on with what was begun and not ended; return of how many messages that is ended now. Raises `Unavailable`."""
        async with transaction(self._engine) as connection:
            begun = await erasures.undone(connection, TOGETHER)
        return (await self._carry_out(begun))[1]

    async def _carry_out(self, begun: Sequence[RowMapping]) -> tuple[list[KeptMessage], int]:
        """Return the messages that are needed, and the number of those of which nothing is left to be done."""
        kept: list[KeptMessage] = []
        done = 0
        for (stream, incarnation), group in groupby(begun, key=lambda row: (row["stream"], row["incarnation"])):
            rows = list(group)
            needed = await self._take(stream, incarnation, [row for row in rows if not row["taken"]])
            kept += [KeptMessage(stream=stream, seq=seq, type=_type(rows, seq), reason=reason) for seq, reason in needed.items()]
            rows = [row for row in rows if row["seq"] not in needed]
            if rows:
                await self._remove_blobs(rows)
                done += await self._forget(stream, incarnation, rows)
        return kept, done

    async def _take(self, stream: str, incarnation: str, rows: Sequence[RowMapping]) -> dict[int, str]:
        """Have the owner erase its part, and say so in the audit trail; return the messages that are needed."""
        if not rows:
            return {}
        owner = _OWNERS[stream]
        needed: dict[int, str] = {}
        if owner == "logs":
            await erase_messages(self._bus.client, stream, incarnation, [row["seq"] for row in rows])
        elif owner is not None:
            messages = [ErasedMessage(row["seq"], row["of"]) for row in rows]
            needed = (await self._ask(owner, stream, incarnation, messages=messages)).reasons
        taken = [row for row in rows if row["seq"] not in needed]
        if stream in RUN_STREAMS and taken:
            await self._ask("events", stream, incarnation, messages=[ErasedMessage(row["seq"], row["of"]) for row in taken])
        by: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
        for row in taken:
            by[row["actor"], row["reason"], row["org"]].append(row["seq"])
        for (actor, reason, org), seqs in by.items():
            detail = {"incarnation": incarnation, "ranges": ranges_of(seqs), "messages": len(seqs), "of": org, "reason": reason}
            said = Audited(category=CATEGORY, verb=ERASED, actor=actor, target=stream, outcome="ok", detail=detail)
            await self._bus.publish(self._bus.seal(said, org=PLATFORM))
        async with transaction(self._engine) as connection:
            await erasures.keep(connection, incarnation, list(needed))
            await erasures.mark(connection, incarnation, [row["seq"] for row in taken], taken=True)
        return needed

    async def _remove_blobs(self, rows: Sequence[RowMapping]) -> None:
        """Remove what was too large for the messages, unless another message names the same."""
        for column, owner in (("bodies", "events"), ("results", "executor")):
            blobs = {blob for row in rows for blob in row[column]}
            async with transaction(self._engine) as connection:
                blobs -= await erasures.still_named(connection, blobs)
            if blobs:
                await self._ask(owner, rows[0]["stream"], rows[0]["incarnation"], blobs=sorted(blobs))

    async def _forget(self, stream: str, incarnation: str, rows: Sequence[RowMapping]) -> int:
        sealer = self._digests.of(stream)
        indexes = [row["entry"] for row in rows]
        await forget(sealer, indexes)
        async with transaction(self._engine) as connection:
            await erasures.blank(connection, stream, incarnation, rows)
        try:
            await forget_in_copies(sealer, indexes)
        except Unavailable as error:
            # What was said is gone; a copy that is away now is tried again, and one that takes no change for ever keeps the salt.
            _log.warning("archive.salts_kept_in_copy", stream=stream, reason=error.detail)
            return 0
        async with transaction(self._engine) as connection:
            await erasures.mark(connection, incarnation, [row["seq"] for row in rows], done=True)
        _log.info("archive.erased", stream=stream, messages=len(rows))
        return len(rows)

    async def _ask(self, owner: str, stream: str, incarnation: str, **what: Any) -> Any:
        command = _COMMANDS[owner](id=new_id(), org=PLATFORM, actor="logs", stream=stream, incarnation=incarnation, **what)
        return await self._bus.ask(command)


class ErasingDeps(ArchiveDeps, frozen=True, kw_only=True):
    """Dependencies of the answer."""

    erasing: Erasing


async def erase(command: EraseMessages, deps: ErasingDeps) -> Erased:
    """Erase a part of what a search finds, and say where to go on."""
    if not command.q.strip():
        raise Invalid("q is needed: what is to be erased?", errors=(Problem("q", "is empty"),))
    asked = Search(org=command.org, q=command.q, everything=command.everything)
    query = cursor.fingerprint("erase", command.q, command.org, str(command.everything), command.since or "", command.until or "")
    since, until, after = cursor.begun(command.cursor, query, since=command.since, until=command.until, now=deps.now())
    async with looking(deps, command.org) as connection:
        selection = await selected(asked, connection, deps)
    found = await deps.erasing.matching(selection, since, until, after)
    erased, kept = await deps.erasing.erase(found, actor=command.actor, reason=command.reason)
    following = None
    if len(found) == TOGETHER:
        following = cursor.behind(found[-1], since=since, until=until, order="asc", query=query)
    return Erased(erased=erased, kept=kept, next_cursor=following)


def _never(row: RowMapping) -> str | None:
    """Return why a message is never erased; None where it depends on others."""
    stream = row["stream"]
    if _OWNERS.get(stream) is None:
        return f"{stream} says how things are, or who did what, and is kept"
    if row["type"].partition(".")[0] != _NOUNS[stream] and stream != "LOGS":
        return f"{row['type']} is part of what {stream} says of how things are"
    return None


def _recorded(row: RowMapping, entry: int) -> dict[str, Any]:
    whose = _WHOSE.get(row["stream"])
    place = {name: row[name] for name in ("stream", "incarnation", "seq", "time", "org", "type")}
    return place | {
        "of": None if whose is None else row[whose],
        "bodies": [row[name] for name in erasures.BODIES if row[name]],
        "results": [row[name] for name in erasures.RESULTS if row[name]],
        "entry": entry,
    }


def _type(rows: Sequence[RowMapping], seq: int) -> str:
    return next(str(row["type"]) for row in rows if row["seq"] == seq)


async def follow_up(erasing: Erasing, url: str) -> None:
    """Go on for ever with what was begun, while no other replica with the database at `url` does."""
    await lead(
        erasing.resume,
        url=url,
        service="logs",
        lock="logs.erasing",
        pause=EVERY,
        full=TOGETHER,
        first=1.0,
        interrupted="archive.erasing_interrupted",
    )


QUESTIONS: Questions = {EraseMessages: erase}
