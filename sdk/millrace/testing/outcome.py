"""What is known of a run when it is over."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Recorded = Mapping[str, Any] | Mapping[str | tuple[str, int], Any]
"""Results of steps: by name, and by (name, 1), (name, 2), … for the second and third use of a name."""


@dataclass(frozen=True)
class Line:
    """One line that the workflow logged; `fields` are as they would be stored."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """One event that the workflow emitted to a topic."""

    source: str
    type: str
    data: Any = None


@dataclass(frozen=True)
class Started:
    """One child run that the workflow asked for; `options` are those that it gave."""

    workflow: str
    input: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """What went wrong, as a real run tells it: the author's frames only, paths from the workspace's folder."""

    type: str
    message: str
    traceback: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended. `result` is what JSON gives back: a tuple has become a list, a datetime its text.

    `status` and `reason` are those of a real run: `error` for whatever was raised, `limit` for a result that is too large,
    `oom` for a MemoryError; None otherwise. It is `waiting` when it waits for a signal that the test does not give, and
    `cancelled` when it has asked for that itself.
    """

    status: Literal["succeeded", "failed", "waiting", "cancelled"]
    reason: Literal["error", "limit", "oom"] | None = None
    result: Any = None
    error: Failure | None = None
    lines: list[Line] = field(default_factory=list)
    steps: Recorded = field(default_factory=dict)
    """All that are recorded now, those that were given included: give them to the next attempt."""
    events: list[Event] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    """Seconds of each sleep that was skipped: those of more than one second."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The workspace's files by path, as they are now."""
    exception: BaseException | None = field(default=None, repr=False, compare=False)

    def value(self) -> Any:
        """Answer the result. Raises what the workflow raised, or RuntimeError when it waits or was cancelled."""
        if self.exception is not None:
            raise self.exception
        return self.result
