"""Questions and commands to the executor."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from shared.messages.catalog import FileProblem, Policy
from shared.messages.line import Lines
from shared.messages.run import RunError, RunUsage
from shared.questions.declaration import Command, Page, Question, command, question
from shared.values import Instant, Key, Name, Opaque, Path, Sequence, Words


class WorkflowEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as the registry `workflows` holds it, under the hash of (organization, name)."""

    org: str
    name: str
    version: str
    module: str
    function: str
    path: str
    line: int
    doc: str
    input_schema: dict[str, Any]
    timeout: float
    retries: int
    concurrency: str | None
    updated_at: str
    policy: Policy = Policy()


class WorkflowFound(msgspec.Struct, frozen=True):
    """A registry entry with its sequence; `entry` is None for a workflow that was removed."""

    seq: int
    entry: WorkflowEntry | None


class WorkflowList(msgspec.Struct, frozen=True):
    """A page of workflows."""

    items: list[WorkflowEntry]
    next_cursor: str | None


class FileView(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace file. `workflows` and `adapters` name those that its code defines now.

    `problems` explain why newer content does not serve; those that are warnings do not keep it from serving.
    """

    path: str
    sha256: str
    size: int
    updated_at: str
    workflows: list[str] = []
    problems: list[FileProblem] = []
    adapters: list[str] = []


class FileList(msgspec.Struct, frozen=True):
    """A page of workspace files, by path."""

    items: list[FileView]
    next_cursor: str | None


class WaitView(msgspec.Struct, frozen=True):
    """A wait of a run. `kind`: `sleep`, `signal`, `ask`, `run` (the end of the child run `name`), `event`; over at `until`.

    Of an event `name` is the type and the source, and `where` the expression that is to be true of it, if any.
    """

    kind: str
    name: str
    until: str | None
    where: str | None = None


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
    A wait without a result ended by the clock (`timed_out`), or the workflow itself ended it (`given_up`).
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


class LineView(msgspec.Struct, frozen=True):
    """A line of a run's output; `n` counts them over all attempts, from 1."""

    n: int
    attempt: int
    line: Lines


class LineList(msgspec.Struct, frozen=True):
    """Lines of a run in order."""

    items: list[LineView]
    next_cursor: str | None


@question("executor.workflow", by=("gateway", "events"))
class FindWorkflow(Question[WorkflowFound], frozen=True, kw_only=True):
    """The registry entry of a workflow by name: the organization's own, else that of `global`. Raises NotFound."""

    name: Name


@question("executor.workflows", by="gateway")
class ListWorkflows(Question[WorkflowList], frozen=True, kw_only=True):
    """The workflows that an organization can run, by name; only its `data_providers`, or only its `tools`.

    Raises Malformed for a foreign cursor.
    """

    page: Page = Page()
    data_providers: bool = False
    tools: bool = False


@command("executor.put_file", by="gateway", timeout=60.0)
class PutFile(Command[FileView], frozen=True, kw_only=True):
    """Take new content of a file into the workspace: `sha256` of `size` bytes is in the bucket `workspace`.

    Answers after the code was read and its workflows are registered. `expected` is the SHA-256 that must be there (If-Match),
    "" for "none". Raises Invalid (a path that cannot be), PreconditionFailed.
    """

    path: Path
    sha256: Opaque
    size: Sequence
    expected: str | None = None
    note: Words | None = None


# Files that one commit may change, and bytes of their paths together: the question and its answer are one message of the bus each.
MOST_CHANGES = 4000
MOST_PATH_BYTES = 512 * 1024


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """New content of a file, `sha256` of `size` bytes in the bucket `workspace`; no `sha256` removes the file, if it is there.

    `expected` is the SHA-256 that must be there, "" for "none"; `moved_from` is the path that the content comes from.
    """

    path: Path
    sha256: Opaque | None = None
    size: Sequence = 0
    expected: str | None = None
    moved_from: Path | None = None


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A commit as it is served: the files that have new content, and the first problems of the workspace."""

    files: list[FileView]
    removed: list[Path]
    problems: list[FileProblem]
    building: bool = False
    """Whether an environment is still being built; the newest code is registered once it is there."""


@command("executor.commit_files", by="gateway", timeout=120.0)
class CommitFiles(Command[Committed], frozen=True, kw_only=True):
    """Change files of the workspace, all of them or none, and register its workflows once.

    `dry_run`: all is checked, the code is read as it would be, and nothing is changed; of the answer only the problems count.
    Raises Invalid (a path that cannot be, or comes twice), TooLarge (the paths together), NotFound (content that was not
    uploaded), PreconditionFailed, Conflict.
    """

    changes: Annotated[list[FileChange], msgspec.Meta(max_length=MOST_CHANGES)]
    note: Words | None = None
    dry_run: bool = False


@command("executor.remove_file", by="gateway", timeout=60.0)
class RemoveFile(Command[FileView], frozen=True, kw_only=True):
    """Delete a file; workflows that it alone defined are removed. Raises NotFound, PreconditionFailed."""

    path: Path
    expected: str | None = None
    note: Words | None = None


@command("executor.move_files", by="gateway", timeout=120.0)
class MoveFiles(Command[Committed], frozen=True, kw_only=True):
    """Give a file another path, or all files below a folder (both paths end with a slash), in one commit; no content is copied.

    `expected` is the SHA-256 that a single file must have. What is at the new path is replaced only with `overwrite`. Raises
    NotFound, Conflict (there is a file already, or one changed meanwhile), PreconditionFailed, Invalid, TooLarge.
    """

    path: Path
    to: Path
    expected: str | None = None
    overwrite: bool = False
    note: Words | None = None


@command("executor.restore_files", by="gateway", timeout=120.0)
class RestoreFiles(Command[Committed], frozen=True, kw_only=True):
    """Bring back a `version` of the file `path`; or all files below `prefix` as they were at the time `at`. Both are a commit.

    Raises NotFound (no such version is kept), Invalid (of that time not all is kept), Conflict (a file changed meanwhile),
    TooLarge (more files than a commit may change).
    """

    path: Path | None = None
    version: Opaque | None = None
    at: Instant | None = None
    prefix: Path = ""
    note: Words | None = None


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A file as a commit made it: with a `sha256`, or removed. `until` is when it was replaced; None while it is the file."""

    version: str
    path: str
    commit: str
    actor: str
    at: str
    until: str | None
    sha256: str | None
    size: int
    message: str | None = None
    moved_from: str | None = None


class VersionList(msgspec.Struct, frozen=True):
    """A page of versions, the newest first."""

    items: list[VersionView]
    next_cursor: str | None


class FileCommitView(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of files that were made together: how many, and the first of their paths."""

    id: str
    actor: str
    at: str
    message: str | None
    changes: int
    paths: list[str]


class FileCommitList(msgspec.Struct, frozen=True):
    """A page of commits, the newest first."""

    items: list[FileCommitView]
    next_cursor: str | None


@question("executor.versions", by="gateway")
class ListVersions(Question[VersionList], frozen=True, kw_only=True):
    """The kept versions of one file, of one commit or of all files. Raises Malformed for a foreign cursor."""

    path: Path | None = None
    commit: Opaque | None = None
    page: Page = Page()


@question("executor.version", by="gateway")
class GetVersion(Question[VersionView], frozen=True, kw_only=True):
    """One version of a file. Raises NotFound."""

    path: Path
    version: Opaque


@question("executor.commits", by="gateway")
class ListFileCommits(Question[FileCommitList], frozen=True, kw_only=True):
    """The commits of the workspace. Raises Malformed for a foreign cursor."""

    page: Page = Page()


@question("executor.file", by="gateway")
class GetFile(Question[FileView], frozen=True, kw_only=True):
    """One workspace file. Raises NotFound."""

    path: Path


@question("executor.files", by="gateway")
class ListFiles(Question[FileList], frozen=True, kw_only=True):
    """The files of a workspace below `prefix`, by path. Raises Malformed for a foreign cursor."""

    prefix: Path = ""
    page: Page = Page()


class PackageView(msgspec.Struct, frozen=True):
    """A package of an environment."""

    name: str
    version: str


class EnvironmentView(msgspec.Struct, frozen=True, kw_only=True):
    """The packages of a workspace, or of one file that has its own: then `name` is its path, else `workspace`.

    `path` is the file that asks for them. `status` is `ready`, `building` or `failed`; of one that is being built `step` is what is
    done now, and `done` of `total` packages are installed. `problems` say why it failed, in the resolver's words. `serves`: whether
    runs have it now. `lock` is PEP 751 text, where it is asked for alone.
    """

    name: str
    path: str
    status: str
    serves: bool
    step: str = ""
    done: int = 0
    total: int = 0
    id: str | None = None
    packages: list[PackageView] = []
    files: int = 0
    bytes: int = 0
    problems: list[FileProblem] = []
    updated_at: str | None = None
    lock: str | None = None


class EnvironmentList(msgspec.Struct, frozen=True):
    """The environments of a workspace: those that serve, and those that are being built or failed just before."""

    items: list[EnvironmentView]
    next_cursor: str | None


@question("executor.environments", by="gateway")
class ListEnvironments(Question[EnvironmentList], frozen=True, kw_only=True):
    """The environments of a workspace; with `locks` each with its lock."""

    locks: bool = False


@command("executor.build_environments", by="gateway", timeout=120.0)
class BuildEnvironments(Command[Committed], frozen=True, kw_only=True):
    """Resolve what the workspace asks for anew, to the newest versions that fit, and register its workflows with them."""


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


@question("executor.lines", by="gateway")
class ListLines(Question[LineList], frozen=True, kw_only=True):
    """The output of a run after line `after`: `settled`, all that the bus has of it by now. Raises NotFound."""

    id: Key
    after: Sequence = 0
    limit: int = 1000
    settled: bool = False


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
