"""For how long the archive keeps what: pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from shared.organizations import PLATFORM
from shared.removals import RemovalEntry
from shared.resources.retention import DEFAULT, FEWEST, RetentionEntry
from shared.runs import RUN_STREAMS, RUNS

# In place of a stream: whatever an organization said up to a time, which another one of the name had before it.
PAST = ""


class Limit(msgspec.Struct, frozen=True):
    """Messages of a stream from before `before` are not kept: those of `org`, or of all organizations but `others`.

    Those `PAST` are kept, of all streams, and are not the organization's: they are hidden from it, and from nobody else.
    """

    stream: str
    org: str | None
    before: datetime
    others: tuple[str, ...] = ()


def limits_at(now: datetime, retentions: Iterable[RetentionEntry]) -> list[Limit]:
    """Return the limits as of `now`; of each stream those of single organizations come first.

    An organization's own retention counts, of several the longest, else the platform's, else the default. Fewer days than a stream
    has at least, which an earlier version may have recorded, count as these.
    """
    own: dict[str, dict[str, int]] = {}
    for one in retentions:
        declared = own.setdefault(one.spec.stream, {})
        declared[one.org] = max(one.spec.days, declared.get(one.org, 0))
    made: list[Limit] = []
    for stream, fewest in FEWEST.items():
        declared = own.get(stream, {})
        shared = declared.get(PLATFORM, DEFAULT.get(stream))
        others = sorted(declared.keys() - {PLATFORM})
        for shard in RUN_STREAMS if stream == RUNS else (stream,):
            made += [Limit(shard, org, now - timedelta(days=max(fewest, declared[org]))) for org in others]
            if shared is not None:
                made.append(Limit(shard, None, now - timedelta(days=max(fewest, shared)), tuple(others)))
    return made


def past(removals: Iterable[RemovalEntry]) -> list[Limit]:
    """Return what is past of organizations that were removed: messages that are kept, or came late."""
    return [Limit(PAST, one.organization, one.until) for one in removals if one.until is not None]


def hiding(limits: Iterable[Limit], org: str | None, since: datetime | None = None) -> tuple[str, dict[str, Any]]:
    """Return a condition that messages are to be kept, with its parameters, for a search of `org` (None: all) from `since` on."""
    cases: list[str] = []
    parameters: dict[str, Any] = {}
    limits = [one for one in limits if org is None or one.org in {None, org}]
    own = [one.before for one in limits if one.stream == PAST and org is not None]
    said = " AND said_at > :said_after" if own else ""
    parameters |= {"said_after": own[0]} if own else {}
    limits = [one for one in limits if one.stream != PAST]
    # Where all of a stream that is looked at is kept, whoever's it is, the planner is spared a condition.
    reached = {one.stream for one in limits if since is None or one.before > since}
    limits = [one for one in limits if one.stream in reached]
    if not limits:
        return f"TRUE{said}", parameters
    for number, one in enumerate(limits):
        parameters |= {f"kept_stream{number}": one.stream, f"kept_from{number}": one.before}
        of = ""
        if one.org is not None:
            parameters[f"kept_org{number}"] = one.org
            of = f" AND org = :kept_org{number}"
        cases.append(f"WHEN stream = :kept_stream{number}{of} THEN CAST(:kept_from{number} AS timestamptz)")
    return f"time >= CASE {' '.join(cases)} ELSE CAST('-infinity' AS timestamptz) END{said}", parameters


def ranges_of(sequences: Iterable[int]) -> list[tuple[int, int]]:
    """Return sequences as ranges, each with its first and its last."""
    made: list[tuple[int, int]] = []
    for seq in sorted(set(sequences)):
        if made and made[-1][1] == seq - 1:
            made[-1] = made[-1][0], seq
        else:
            made.append((seq, seq))
    return made
