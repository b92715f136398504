"""What the executor is asked of runs, and has to do with them."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.envelope import derived_id
from shared.messages.line import Lines
from shared.messages.run import RunError, RunUsage
from shared.questions.declaration import Command, Page, Question, command, question
from shared.values import Instant, Key, Name, Sequence


class WaitView(msgspec.Struct, frozen=True):
    """A wait of a run. `kind`: `sleep`, `signal`, `ask`, `run` (the end of the child run `name`), `event`; over at `until`.

    Of an event `name` is the type and the source, and `where` the expression that is to be true of it, if any, for these `values`.
    """

    kind: str
    name: str
    until: str | None
    where: str | None = None
    values: dict[str, Any] = {}


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the API shows it; times are RFC 3339, `*_ms` milliseconds.

    `blocked_on` and `until` are those of a run that does not go on now; the `reason` of one that is queued names its worker `group`
    where no executor serves that. `concurrency_key` is the whole key of its concurrency slot,
    once that is known; `slot_held_by` are the runs that have the slots of its key while it waits for one, where it is asked for
    alone. A result of `result_bytes` that is too large for a message is in the bucket `results` under `result_ref`. `fingerprint`
    is that of the request that an idempotency key came with.
    """

    id: str
    org: str
    workflow: str
    version: str
    status: str
    reason: str | None
    blocked_on: str | None
    attempt: int
    input: Any
    result: Any
    error: RunError | None
    requested_by: str
    delivery: str | None
    requested_at: str
    started_at: str | None
    finished_at: str | None
    queue_ms: float | None
    duration_ms: float | None
    usage: RunUsage | None
    sandbox: dict[str, str] | None
    correlation_id: str
    causation_id: str | None
    until: str | None = None
    waits: list[WaitView] = []
    parent: str | None = None
    rerun_of: str | None = None
    resumes: str | None = None
    resumed_by: str | None = None
    run_at: str | None = None
    scheduled_for: str | None = None
    concurrency_key: str | None = None
    slot_held_by: list[str] = []
    hops: int = 0
    input_ref: str | None = None
    result_ref: str | None = None
    result_bytes: int | None = None
    fingerprint: str | None = None
    erased: bool = False
    group: str = "default"


class RunAt(msgspec.Struct, frozen=True):
    """A run as it is after its message at `seq`."""

    seq: int
    view: RunView


class RunStates(msgspec.Struct, frozen=True):
    """The changes of a run, in order; `more`: there are further ones to ask for. `ended` when the last of all is its end."""

    items: list[RunAt]
    ended: bool
    more: bool


class RunList(msgspec.Struct, frozen=True):
    """A page of runs, newest first."""

    items: list[RunView]
    next_cursor: str | None


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """One claim on a run. `status`: `running`, `lost`, `released`, `waiting`, or how it ended."""

    attempt: int
    status: str
    executor: str
    sandbox: dict[str, str]
    started_at: str
    finished_at: str | None
    reason: str | None
    error: RunError | None
    duration_ms: float | None
    usage: RunUsage | None


class AttemptList(msgspec.Struct, frozen=True):
    """A page of attempts, the first one first; of very many the first and the last ones are kept."""

    items: list[AttemptView]
    next_cursor: str | None


class StepView(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is done or a wait that is over: no later attempt does it again.

    `kind`: `step`, `start` (a child run, whose id is the result), `sleep`, `signal`, `run`. `ordinal` counts those of its kind and
    name from 0; `position` counts all in the order in which the attempt called them. `bytes` is the size of the result as JSON.
    A wait without a result ended by the clock (`timed_out`), or the workflow itself ended it (`given_up`). The
    `attempt` is 0 of what was taken over, at `completed_at`, from the run that this one resumes.
    """

    kind: str
    name: str
    ordinal: int
    position: int | None
    attempt: int
    completed_at: str
    timed_out: bool
    given_up: bool = False
    bytes: int
    result: Any = None


class StepList(msgspec.Struct, frozen=True):
    """A page of steps in the order of their completion; it may hold fewer than its limit when results are large."""

    items: list[StepView]
    next_cursor: str | None


class ParkedRuns(msgspec.Struct, frozen=True):
    """So many runs of all organizations are parked."""

    runs: int


@question("executor.run", by="gateway")
class GetRun(Question[RunView], frozen=True, kw_only=True):
    """One run, folded from its messages up to now. Raises NotFound."""

    id: Key


@question("executor.attempts", by="gateway")
class ListAttempts(Question[AttemptList], frozen=True, kw_only=True):
    """The attempts of a run. Raises NotFound, Malformed for a foreign cursor."""

    id: Key
    page: Page = Page()


@question("executor.steps", by="gateway")
class ListSteps(Question[StepList], frozen=True, kw_only=True):
    """The records of a run; without `results` only their sizes. Raises NotFound, Malformed for a foreign cursor."""

    id: Key
    results: bool = True
    page: Page = Page()


@question("executor.states", by="gateway")
class ListStates(Question[RunStates], frozen=True, kw_only=True):
    """The run after each of its messages beyond the sequence `after`; after those that the bus has no longer, only the last.

    Raises NotFound.
    """

    id: Key
    after: Sequence = 0


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An ended run as another one may go on with it.

    `record_ref` is where the bucket `results` has the `steps` and waits, and the `signals` that no wait had taken; None where there
    are neither. `workflow_org` has the workspace that its workflow was from.
    """

    view: RunView
    workflow_org: str | None
    timeout: float
    priority: str
    deadline: float | None
    concurrency_key: str | None
    steps: int
    signals: int
    record_ref: str | None


@question("executor.record", by="gateway", timeout=20.0)
class GetRecord(Question[RunRecord], frozen=True, kw_only=True):
    """What an ended run has recorded, without the steps and waits of the names in `forget`.

    Raises NotFound, Conflict when it has not ended, succeeded or was erased, Invalid for a name of which nothing is recorded.
    """

    id: Key
    forget: list[Name] = msgspec.field(default_factory=list)


def resumed(run: str) -> str:
    """Return the id of the run that resumes a run: there is at most one."""
    return derived_id(run, "resumed")


class Signalled(msgspec.Struct, frozen=True):
    """A signal is on disk; `run` will have it, in any state."""

    run: str
    name: str


@command("executor.signal", by="gateway")
class SignalRun(Command[Signalled], frozen=True, kw_only=True):
    """Answer a `wait_for` of a run, now or when it comes to it. Raises NotFound, Conflict when the run has ended, Invalid."""

    run: Key
    name: Name
    data: Any = None


class WaitAnswered(msgspec.Struct, frozen=True):
    """Whether an event answers a wait: a later one may, where it does not because another wait of the run has had it.

    `is_open`: the wait still waits for one.
    """

    is_taken: bool
    is_open: bool


@command("executor.answer_wait", by="events")
class AnswerWait(Command[WaitAnswered], frozen=True, kw_only=True):
    """Let an event answer a wait of a run, the `ordinal`th for `name`: once for each wait, and for each event and run."""

    run: Key
    name: Name
    ordinal: Sequence
    event: Key
    delivery: Key
    number: Sequence
    result: Any


@question("executor.runs", by="gateway")
class ListRuns(Question[RunList], frozen=True, kw_only=True):
    """Runs of an organization, newest first; times are RFC 3339, `id` is how the id begins."""

    page: Page = Page()
    status: Name | None = None
    workflow: Name | None = None
    id: Name | None = None
    since: Instant | None = None
    until: Instant | None = None


@question("executor.parked", by=("gateway", "events"), timeout=1.0)
class CountParkedRuns(Question[ParkedRuns], frozen=True, kw_only=True):
    """The number of runs that were put aside for those of other organizations, of whichever organization."""


class Used(msgspec.Struct, frozen=True):
    """What an organization has at the executor: runs that have not ended, runs of today (UTC), bytes of its files.

    Those are the files as they are, and what only their history keeps, each content once.
    """

    runs_in_flight: int
    runs_a_day: int
    stored_bytes: int


@question("executor.used", by="gateway")
class CountUsed(Question[Used], frozen=True, kw_only=True):
    """How much of its quotas an organization uses."""


class LineView(msgspec.Struct, frozen=True):
    """A line of a run's output; `n` counts them over all attempts, from 1."""

    n: int
    attempt: int
    line: Lines


class LineList(msgspec.Struct, frozen=True):
    """Lines of a run in order."""

    items: list[LineView]
    next_cursor: str | None


@question("executor.lines", by="gateway")
class ListLines(Question[LineList], frozen=True, kw_only=True):
    """The output of a run after line `after`: `settled`, all that the bus has of it by now. Raises NotFound."""

    id: Key
    after: Sequence = 0
    limit: int = 1000
    settled: bool = False
