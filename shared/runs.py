"""The life of a run: its statuses, and the effect of each message of a run on its status. Every service reads them. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from shared.messages import (
    Message,
    RunAnswered,
    RunAsked,
    RunCancelled,
    RunCancelRequested,
    RunCrashed,
    RunEventMatched,
    RunExpired,
    RunFailed,
    RunReminded,
    RunRequested,
    RunResumed,
    RunSignalled,
    RunStarted,
    RunStepCompleted,
    RunSucceeded,
    RunTimedOut,
    RunWaiting,
    declaration_of,
)
from shared.messages.shards import in_shard, shards_of

RUNS = declaration_of(RunRequested).stream
"""The name of the stream that holds the lives of all runs: what people say, of whichever shard."""
RUN_SHARDS = shards_of(declaration_of(RunRequested).noun)
RUN_STREAMS = tuple(in_shard(RUNS, shard) for shard in range(RUN_SHARDS))
"""The names of its shards, each a stream; of one shard alone the same name."""


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One status of a run. `meaning` goes on after "the run"; `level` is that of the log for a run that ended so.

    `ended`: the status does not change any more. `blocked`: the run holds no worker until its wait is over. `retried`: a
    retry of the delivery requests another run.
    """

    meaning: str
    ended: bool = False
    blocked: bool = False
    retried: bool = False
    level: str = "info"


class Effect(msgspec.Struct, frozen=True):
    """The effect of a message: the new status of its run (None: no change), and the line that people read of it.

    The line is made of templates of the message's fields; all but the first are left out where one of their fields has no value.
    """

    status: str | None
    line: tuple[str, ...]


StatusOfRun = Literal[
    "queued", "delayed", "running", "waiting", "cancelling", "succeeded", "failed", "timed_out", "crashed", "cancelled", "expired"
]
"""The names, for declarations of fields."""
STATUSES: dict[str, RunStatus] = {
    "queued": RunStatus(meaning="is to be dispatched to a worker"),
    "delayed": RunStatus(meaning="is not to begin before its `run_at`", blocked=True),
    "running": RunStatus(meaning="has an attempt going on"),
    "waiting": RunStatus(meaning="goes on later, and holds no worker until then", blocked=True),
    "cancelling": RunStatus(meaning="was asked to stop, and will"),
    "succeeded": RunStatus(meaning="returned", ended=True),
    "failed": RunStatus(meaning="raised, or went over a limit", ended=True, retried=True, level="error"),
    "timed_out": RunStatus(meaning="had an attempt that took longer than its time-out", ended=True, retried=True, level="error"),
    "crashed": RunStatus(
        meaning="had an attempt that ended without saying how: its process exited or was killed",
        ended=True,
        retried=True,
        level="error",
    ),
    "cancelled": RunStatus(meaning="stopped because somebody asked for it", ended=True, retried=True, level="warning"),
    "expired": RunStatus(meaning="had not begun by its deadline, and will not", ended=True, retried=True, level="warning"),
}
RESUMABLE = frozenset(name for name, status in STATUSES.items() if status.retried)
"""The ends after which another run may go on where the run ended."""
_FAILURE = ("{reason}: {error}",)
EFFECTS: dict[type[Message], Effect] = {
    RunRequested: Effect("queued", ("{workflow} requested by {requested_by}",)),
    RunStarted: Effect("running", ("attempt {attempt} started by {executor}, tier {tier}",)),
    RunStepCompleted: Effect(None, ("step {name} completed",)),
    RunWaiting: Effect("waiting", ("waiting for {blocked_on}", " until {until}", " after {reason}: {error}")),
    RunResumed: Effect("queued", ("resumed", " after {resolved}")),
    RunSignalled: Effect(None, ("signal {name} by {signalled_by}",)),
    RunEventMatched: Effect(None, ("event {event} answers the wait for {name}",)),
    RunAsked: Effect(None, ("asks {name}", " until {until}")),
    RunReminded: Effect(None, ("an answer is waited for still",)),
    RunAnswered: Effect(None, ("answer to {name} by {answered_by}",)),
    RunCancelRequested: Effect("cancelling", ("cancel requested by {requested_by}",)),
    RunSucceeded: Effect("succeeded", ("succeeded after {duration_ms} ms",)),
    RunFailed: Effect("failed", _FAILURE),
    RunTimedOut: Effect("timed_out", _FAILURE),
    RunCrashed: Effect("crashed", _FAILURE),
    RunCancelled: Effect("cancelled", ("cancelled in attempt {attempt}",)),
    RunExpired: Effect("expired", _FAILURE),
}

RunEnd = RunSucceeded | RunFailed | RunTimedOut | RunCrashed | RunCancelled | RunExpired
"""The messages of which a run gets one, once."""

UNENDED = tuple(name for name, status in STATUSES.items() if not status.ended)
ENDED = tuple(name for name, status in STATUSES.items() if status.ended)
ENDING = ("cancelling", *ENDED)
BLOCKED = frozenset(name for name, status in STATUSES.items() if status.blocked)
END_TYPES = frozenset(declaration_of(cls).type for cls, effect in EFFECTS.items() if effect.status in ENDED)
"""The types of the messages that end a run."""
END_SUBJECTS = tuple(declaration_of(cls).pattern() for cls, effect in EFFECTS.items() if effect.status in ENDED)
"""Their subjects, of any run, as filters of the stream RUNS, its first shard (`subject_in` makes those of another)."""


def run_stream(run: str) -> str:
    """Return the name of the stream that holds a run."""
    return declaration_of(RunRequested).stream_of(run)


def status_of(message: Message) -> str | None:
    """Return the status that a message gives a run by itself; None for one that gives none."""
    if isinstance(message, RunWaiting):
        return waiting_status(message.blocked_on, message.attempt)
    effect = EFFECTS.get(type(message))
    return None if effect is None else effect.status


def waiting_status(blocked_on: str | None, attempt: int) -> str:
    """Return the status of a run that waits: `delayed` where it is its beginning that waits for its time."""
    return "delayed" if blocked_on == "time" and not attempt else "waiting"


def status_after(before: str | None, status: str | None) -> str | None:
    """Return a run's status after a message that gives it `status`: only ends change `cancelling` and ends."""
    return before if status is None or (before in ENDING and status not in ENDED) else status


def queued_ms(since: str, started_at: str) -> float:
    """Return how long a run that could begin at `since` (RFC 3339) had to wait, in milliseconds."""
    waited = datetime.fromisoformat(started_at) - datetime.fromisoformat(since)
    return max(0.0, round(waited.total_seconds() * 1000, 3))
