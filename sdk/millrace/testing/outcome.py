"""The outcome of a run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Recorded = Mapping[str, Any] | Mapping[str | tuple[str, int], Any]
"""Results of steps: by name, and by (name, 1), (name, 2), … for the second and third use of a name."""


class Kept(dict[str | tuple[str, int], Any]):
    """Records that an attempt leaves to the next: the results of its steps, and its waits, child runs, and places of all."""

    def __init__(
        self,
        steps: Mapping[str | tuple[str, int], Any],
        of_others: dict[tuple[str, str, int], Any],
        positions: dict[tuple[str, str, int], int | None],
        inputs: dict[str, tuple[str, Any]],
        order: list[tuple[str, str, int]],
        waiting: list[tuple[str, str, int]],
    ) -> None:
        super().__init__(steps)
        self.of_others = of_others
        self.positions = positions
        self.inputs = inputs
        self.order = order
        self.waiting = waiting


@dataclass(frozen=True)
class Started:
    """One child run that the workflow started; `options` are those that it gave."""

    workflow: str
    input: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    run: str = field(default="", compare=False)


@dataclass(frozen=True)
class Waiting:
    """One thing that the run still waits for: a `signal` of that name, or the answer to an `ask`."""

    kind: str
    name: str


@dataclass(frozen=True)
class Question:
    """One question that the workflow asked people; `form` is a JSON Schema, durations are in seconds."""

    name: str
    prompt: str
    form: dict[str, Any] | None = None
    to: list[str] = field(default_factory=list)
    remind: float | None = None
    escalate: float | None = None
    escalate_to: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Signalled:
    """One signal that the workflow sent to another run."""

    run: str
    name: str
    data: Any = None


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
class Sent:
    """One request that a client sent: `path` with its query as the workflow gave them, `headers` without credentials."""

    connection: str
    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""

    def json(self) -> Any:
        """Answer the body as JSON. Raises ValueError."""
        return json.loads(self.content)


@dataclass(frozen=True)
class Failure:
    """An error, as a real run reports it: the author's frames only, paths from the workspace's folder."""

    type: str
    message: str
    traceback: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of an attempt. `result` is as JSON gives it back: a tuple has become a list, a datetime its text.

    `status` and `reason` are those of a real run: `error` for whatever was raised, `limit` for a result that is too large,
    `oom` for a MemoryError; None unless it failed. It is `waiting` for `waits` where a signal was not given, `cancelled` when it
    asked for that itself.
    """

    status: Literal["succeeded", "failed", "waiting", "cancelled"]
    reason: Literal["error", "limit", "oom"] | None = None
    result: Any = None
    error: Failure | None = None
    lines: list[Line] = field(default_factory=list)
    steps: Recorded = field(default_factory=dict)
    """All that are recorded now, those that were given included: give them to the next attempt, which is held to their order."""
    slept: list[float] = field(default_factory=list)
    """Seconds of each `sleep`, none of which was slept."""
    waits: list[Waiting] = field(default_factory=list)
    started: list[Started] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    """Each time that the workflow came to one, answered by then or not."""
    signalled: list[Signalled] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    """Requests of clients, one for each try."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The workspace's files by path, as they are now."""
    state: dict[str, Any] = field(default_factory=dict)
    """The values of the state by key, as they are now."""
    locks: list[str] = field(default_factory=list)
    """The locks that were held, in order."""
    exception: BaseException | None = field(default=None, repr=False, compare=False)

    def value(self) -> Any:
        """Answer the result. Raises what the workflow raised, RuntimeError where it waits or was cancelled."""
        if self.exception is not None:
            raise self.exception
        if self.status != "succeeded":
            what = f" for {', '.join(f'{one.kind} {one.name!r}' for one in self.waits)}" if self.waits else ""
            msg = f"there is no result: the run is {self.status}{what}"
            raise RuntimeError(msg)
        return self.result
