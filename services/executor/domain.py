"""Pure decisions about runs and workspaces: what a run's messages add up to, which paths are files, which code serves."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from shared.envelope import Envelope, rfc3339
from shared.errors import Invalid, Problem
from shared.messages import (
    Message,
    RunCancelled,
    RunCancelRequested,
    RunCrashed,
    RunError,
    RunFailed,
    RunRequested,
    RunStarted,
    RunSucceeded,
    RunTimedOut,
    RunUsage,
)
from shared.questions import Position

# Ended runs are kept on the bus for at least so long, whatever the setting.
LEAST_KEPT = timedelta(hours=1)
# Well below: until then the bus itself knows a request that was made before.
DOUBTFUL_AFTER = LEAST_KEPT / 2
TERMINAL = frozenset({"succeeded", "failed", "timed_out", "cancelled", "crashed", "expired"})
PATH_BYTES = 1024
PART_BYTES = 255  # what a file system takes as one name


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's messages up to `last_seq` add up to. `claim` is the envelope id of its last `run.started`."""

    id: str
    org: str
    workflow: str
    version: str
    status: str
    timeout: float
    priority: str
    requested_by: str
    requested_at: str
    correlation_id: str
    causation_id: str | None
    last_seq: int
    input: Any = None
    input_ref: str | None = None
    delivery: str | None = None
    attempt: int = 0
    claim: str | None = None
    tier: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    reason: str | None = None
    blocked_on: str | None = None
    result: Any = None
    error: RunError | None = None
    duration_ms: float | None = None
    usage: RunUsage | None = None

    @property
    def ended(self) -> bool:
        """Return whether the run has its one end."""
        return self.status in TERMINAL


def evolve(state: RunState | None, envelope: Envelope, message: Message, sequence: int) -> RunState | None:
    """Return the state after one more message; messages that were folded already change nothing.

    Those after the end move `last_seq` only: no writer appends them, but a request whose first copy was purged may come again.
    None while the run was never requested: such messages cannot be made sense of.
    """
    if state is not None and state.ended and sequence > state.last_seq:
        return msgspec.structs.replace(state, last_seq=sequence)
    if isinstance(message, RunRequested):
        return state or _requested(envelope, message, sequence)
    if state is None or sequence <= state.last_seq or state.ended:
        return state
    after = msgspec.structs.replace(state, last_seq=sequence)
    at = rfc3339(envelope.time)
    match message:
        case RunStarted():
            return msgspec.structs.replace(
                after,
                status="cancelling" if state.status == "cancelling" else "running",
                attempt=message.attempt,
                claim=envelope.id,
                tier=message.tier,
                started_at=state.started_at or at,
            )
        case RunCancelRequested():
            return msgspec.structs.replace(after, status="cancelling")
        case RunSucceeded():
            return _ended(after, "succeeded", at, message, result=message.result)
        case RunFailed():
            return _ended(after, "failed", at, message, reason=message.reason, error=message.error)
        case RunTimedOut():
            return _ended(after, "timed_out", at, message, reason=message.reason, error=message.error)
        case RunCrashed():
            return _ended(after, "crashed", at, message, reason=message.reason, error=message.error)
        case RunCancelled():
            return _ended(after, "cancelled", at, message)
    return after


def _requested(envelope: Envelope, message: RunRequested, sequence: int) -> RunState:
    return RunState(
        id=message.run,
        org=envelope.org,
        workflow=message.workflow,
        version=message.version,
        status="queued",
        timeout=message.timeout,
        priority=message.priority,
        requested_by=message.requested_by,
        requested_at=rfc3339(envelope.time),
        correlation_id=envelope.correlationid,
        causation_id=envelope.causationid,
        last_seq=sequence,
        input=message.input,
        input_ref=message.input_ref,
        delivery=message.delivery,
    )


def _ended(
    state: RunState,
    status: str,
    at: str,
    message: RunSucceeded | RunFailed | RunTimedOut | RunCrashed | RunCancelled,
    **fields: Any,
) -> RunState:
    return msgspec.structs.replace(
        state, status=status, finished_at=at, duration_ms=message.duration_ms, usage=message.usage, **fields
    )


def queue_ms(state: RunState) -> float | None:
    """Return how long the run waited before its first attempt, in milliseconds."""
    if state.started_at is None:
        return None
    waited = datetime.fromisoformat(state.started_at) - datetime.fromisoformat(state.requested_at)
    return max(0.0, round(waited.total_seconds() * 1000, 3))


def doubtful(received_at: str | None, now: datetime) -> bool:
    """Return whether a request comes so long after its webhook that it may be a repetition which the bus no longer recognizes.

    While the first copy is on the bus, a second one is refused there; it is there for at least `LEAST_KEPT`.
    """
    return received_at is not None and now - datetime.fromisoformat(received_at) > DOUBTFUL_AFTER


def passed_by_all(incarnation: str, readers: Iterable[Position]) -> int:
    """Return the sequence up to which all readers have what a stream of this incarnation held; 0 while one reads another."""
    return min((reader.sequence if reader.incarnation == incarnation else 0 for reader in readers), default=0)


def checked_path(path: str) -> str:
    """Return `path` if a workspace may hold a file there: relative, normal, printable. Raises `Invalid` saying why not."""
    complaint = _path_complaint(path)
    if complaint:
        raise Invalid(f"{path[:120]!r} cannot be a workspace path: {complaint}", errors=(Problem("path", complaint),))
    return path


def _path_complaint(path: str) -> str | None:
    if not path:
        return "it is empty"
    if len(path.encode(errors="surrogatepass")) > PATH_BYTES:
        return f"it is longer than {PATH_BYTES} bytes"
    if path.startswith("/") or path != posixpath.normpath(path) or path == "." or path.split("/", maxsplit=1)[0] == "..":
        return "it must be relative and normal, without . and .. and doubled slashes"
    if "\\" in path or any(unicodedata.category(character) in {"Cc", "Cf", "Cs"} for character in path):
        return "it holds a backslash or a character that cannot be printed"
    if path != unicodedata.normalize("NFC", path):
        return "it is not in Unicode normal form C"
    if any(len(part.encode()) > PART_BYTES for part in path.split("/")):
        return f"a part of it is longer than {PART_BYTES} bytes"
    return None


def is_code(path: str) -> bool:
    """Return whether a file is part of the bundle that runs are given: Python modules and what they declare to need."""
    return path.endswith((".py", ".pyi")) or path.rpartition("/")[2] == "requirements.txt"


def fallback_tree(latest: dict[str, str], active: dict[str, str], broken: Iterable[str]) -> dict[str, str]:
    """Return the tree in which broken files are replaced by their content in service, or left out where they never served."""
    tree = dict(latest)
    for path in broken:
        if path in active:
            tree[path] = active[path]
        else:
            tree.pop(path, None)
    return tree
