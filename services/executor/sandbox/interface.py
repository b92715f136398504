"""The interface of any sandbox: a job in, an outcome out, and the capabilities that the job has on the way."""

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec

from services.executor.sandbox.egress.network import Network
from shared.messages.catalog import AdapterDeclaration, Policy, Severity
from shared.values import YEAR

Tier = Literal["none", "A", "B"]
Level = Literal["debug", "info", "warning", "error"]
Stream = Literal["stdout", "stderr"]
Status = Literal["succeeded", "failed", "timed_out", "cancelled", "crashed", "waiting"]
# Records of a run beside its steps: a child run that it started, and waits that are over.
Kind = Literal["step", "start", "sleep", "signal", "ask", "run", "event"]
MAX_CHUNK = 1 << 20
"""Bytes of one part of a file, either way: a frame holds it in base64, and many may be under way."""
SpanId = Annotated[str, msgspec.Meta(pattern=r"^(?!0{16})[0-9a-f]{16}\Z")]
SpanText = Annotated[str, msgspec.Meta(max_length=1100)]
SpanNumber = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Of what collectors take."""
LARGEST_RESULT = 64 * 1024 * 1024
"""Bytes as JSON."""
Reason = Literal["error", "timeout", "oom", "worker_lost", "sandbox", "limit"]


# Origin of a record: up to the last attempt that ended in good order, as a wait that was given up, or since then.
DONE: Literal[0] = 0
GIVEN_UP: Literal[1] = 1
SINCE: Literal[2] = 2


class CompletedCall(msgspec.Struct, frozen=True, array_like=True):
    """A call that earlier attempts have done for good; `position` among all such calls, where it is known, `ago` in seconds."""

    kind: str
    name: str
    ordinal: int
    position: int | None = None
    ago: float = 0.0
    how: Literal[0, 1, 2] = SINCE


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at one run. The bundle, and `site_packages` if there is one, are readable by the sandbox's user."""

    run: str
    attempt: int
    org: str
    workflow: str
    bundle: Path
    module: str
    """Dotted name, or path in the bundle."""
    function: str
    """Qualified name of the decorated function."""
    input: dict[str, Any]
    timeout: float
    """Seconds from the start of the attempt to its SIGTERM."""
    isolation: Literal["run", "workflow"] = "run"
    """Whether the process is this run's alone, or may have served others of the same organization, workflow and code."""
    recorded: list[CompletedCall] = []
    """Calls that earlier attempts have done for good, in their order."""
    waiting: list[tuple[str, str, int]] = []
    """The waits, by kind, name and ordinal, with which the last attempt ended, where that is how it ended."""
    age: float = 0.0
    """Seconds since the beginning of the first attempt that this one continues."""
    site_packages: Path | None = None
    preload: bool = True
    """Whether packages may be imported ahead, in a process of this organization, code and module, of which runs are forks."""
    scheduled_for: str | None = None
    """The time of the schedule that the run comes of, RFC 3339."""
    traceparent: str | None = None
    """The attempt's place in a trace, where it is a part of one."""


class ToldSpan(msgspec.Struct, frozen=True, kw_only=True):
    """A span of the author's code, as it says. Ids are 16 hexadecimal digits, `start` is in seconds since 1970."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=220)]
    id: SpanId
    parent: SpanId | None = None
    start: Annotated[float, msgspec.Meta(ge=0, le=2**33)]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=YEAR)]
    attributes: Annotated[dict[SpanText, SpanText | SpanNumber | float | bool], msgspec.Meta(max_length=32)] = {}
    error: Annotated[str, msgspec.Meta(max_length=300)] | None = None


class Failure(msgspec.Struct, frozen=True):
    """An error of a run. The traceback shows the author's frames only, with paths relative to the bundle."""

    type: str
    message: str
    traceback: str = ""


class Usage(msgspec.Struct, frozen=True):
    """Resources used by the attempt, the processes that it waited for included; measured by the supervisor."""

    cpu_ms: int
    max_rss_mb: int


class KeptResult(msgspec.Struct, frozen=True):
    """A reference to a large result: the hexadecimal SHA-256 of its JSON, and its size in bytes."""

    sha256: str
    size: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The end of an attempt. Either `result` or `kept` is there exactly when it succeeded: JSON that every later reader can hold.

    `kept` is a result that came in parts, which `Capabilities.keep_result` has stored.

    `reason` is None when the attempt succeeded, was cancelled, or waits for an answer of its capabilities. After a cancellation
    `error` is None.
    """

    status: Status
    reason: Reason | None = None
    result: msgspec.Raw | None = None
    kept: KeptResult | None = None
    error: Failure | None = None
    usage: Usage
    duration_ms: int
    seconds: float | None = None
    """Of one that waits: after how many it is to go on in any case, for a time-out of its own."""


class StepRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The kept result of a durable step or of a wait, as JSON."""

    result: msgspec.Raw
    timed_out: bool = False


class StartedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A child run that is asked for: the `ordinal`th of this workflow in the run."""

    workflow: str
    ordinal: int
    position: int | None
    input: Any
    priority: Literal["high", "normal", "low"] | None = None
    run_at: str | None = None
    concurrency_key: str | None = None


class DeclaredWorkflow(msgspec.Struct, frozen=True, kw_only=True):
    """One workflow of a bundle. `path` and `line` are its place; a `Job` names `function` and `module`."""

    name: str
    module: str
    path: str
    line: int
    function: str
    doc: str | None
    input_schema: dict[str, Any]
    timeout: float | None
    retries: int
    concurrency: str | None
    is_data_provider: bool
    policy: Policy = Policy()


class DeclaredAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter of a bundle. `path` and `line` are its place; a `Job` names `function` and `module`."""

    name: str
    module: str
    path: str
    line: int
    function: str
    doc: str | None
    declaration: AdapterDeclaration


class ServedDefinition(msgspec.Struct, frozen=True):
    """A workflow or an adapter that is in service, and which function of which file it is."""

    name: str
    path: str
    function: str
    is_adapter: bool = False


class BundleProblem(msgspec.Struct, frozen=True):
    """A reason why a file, or one workflow of it, cannot be used. Path "." is the bundle as a whole."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1100)]
    line: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    message: Annotated[str, msgspec.Meta(max_length=2100)]
    is_slow: bool = False
    """Whether it took too long to be imported."""
    severity: Severity = "error"


class Description(msgspec.Struct, frozen=True):
    """The workflows and adapters of a bundle, and its problems by severity, in the order of path and line."""

    workflows: list[DeclaredWorkflow]
    problems: list[BundleProblem]
    warnings: list[BundleProblem] = []
    adapters: list[DeclaredAdapter] = []


class Cancellation:
    """A request to stop, made at most once, from the event loop. Its callbacks are called at once."""

    def __init__(self) -> None:
        self._is_set = False
        self._callbacks: list[Callable[[], None]] = []

    def is_set(self) -> bool:
        """Return whether it was made."""
        return self._is_set

    def set(self) -> None:
        """Make it. A second time does nothing."""
        self._is_set = True
        callbacks, self._callbacks = self._callbacks, []
        for call in callbacks:
            call()

    def add_callback(self, call: Callable[[], None]) -> None:
        """Call `call` when it is made, or now where it has been."""
        if self._is_set:
            call()
        else:
            self._callbacks.append(call)

    def remove_callback(self, call: Callable[[], None]) -> None:
        """Call it no more, if it still were to be."""
        if call in self._callbacks:
            self._callbacks.remove(call)


class Capabilities(Protocol):
    """All that a run can make the supervisor do. Each is bound to the run by its creator: no argument names a run.

    `log` and `output` are awaited one after the other, in the order of arrival; the others may overlap each other. A
    `MillraceError` that one of the others raises is answered to the author as `Refused`, by type name and detail. All else
    that is raised ends the child and comes out of `Sandbox.run`, so that no attempt goes on whose steps or lines could not
    be kept. `requests` maps requests to methods.

    Arguments, and the outcome, are masked: a credential that was answered to the run is `***` in them.
    """

    @property
    def network(self) -> Network | None:
        """The run's way through the proxy; None: it reaches nothing. A tier that does not close the network ignores it."""

    async def begin(self) -> None:
        """Return once the attempt may begin. Awaited when its child is there, just before the job is handed over."""

    async def log(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        """Keep a structured line."""

    async def output(self, stream: Stream, text: str) -> None:
        """Keep printed text: whole lines where the author ended them, without NUL characters."""

    async def span(self, told: ToldSpan) -> None:
        """Take a span that the author's code has told."""

    async def keep_result(self, parts: AsyncIterator[bytes]) -> KeptResult:
        """Store a large result, which comes in parts; only when this returns is it one. Cancelled where it is none after all."""

    async def step_get(self, name: str, ordinal: int, of: Kind) -> StepRecord | None:
        """Answer the record of the `ordinal`th step, from 0, of that name in the run; None to have it run."""

    async def step_put(self, name: str, ordinal: int, position: int | None, result: msgspec.Raw) -> None:
        """Keep a step's result; when this returns, the step is done for good."""

    async def wait(self, of: Kind, name: str, ordinal: int, position: int | None, seconds: float | None) -> StepRecord | None:
        """Return how a wait has ended; None while it lasts, and the attempt may then end as waiting.

        `of` is `sleep`, `signal`, or `run` for the end of the child run `name`; None for `seconds` is without end.
        """

    async def wait_for_event(
        self, name: str, ordinal: int, position: int | None, seconds: float | None, asked: msgspec.Raw
    ) -> StepRecord | None:
        """Do the same for an event: `asked` is `{"source", "type", "where", "values"}`."""

    async def give_up(self, of: Kind, name: str, ordinal: int, position: int | None) -> None:
        """Keep that the run has given a wait up, and how it would have ended is nothing to any later attempt."""

    async def ask(
        self, name: str, ordinal: int, position: int | None, seconds: float | None, question: msgspec.Raw
    ) -> StepRecord | None:
        """Ask people, once for each place in the run that asks; returns the answer as `wait` does."""

    async def approval_link(self, approval: str, name: str) -> dict[str, Any]:
        """Answer `{"url"}`: the secret link by which somebody of that name answers a question of the organization."""

    async def signal_run(self, run: str, name: str, data: msgspec.Raw) -> None:
        """Signal another run of the organization."""

    async def start_run(self, asked: StartedRun) -> str:
        """Ask for a child run, once for each place in the run that asks; answers its id."""

    async def cancel_run(self) -> None:
        """Ask for the run itself to stop."""

    async def connection(self, name: str, *, rejected: int | None = None) -> dict[str, Any]:
        """Answer `{"name", "token", "expires_at", "headers", "query", "base_url", "version"}` of the run's organization.

        `expires_at` is RFC 3339 or None; `rejected` is the version of a token that an API has refused. The token
        is masked from then on in all output of the attempt.
        """

    async def variable(self, name: str) -> dict[str, Any]:
        """Answer `{"value"}`: the organization's variable of that name, else the platform's."""

    async def secret(self, name: str) -> dict[str, Any]:
        """Answer `{"value"}`: the organization's secret of that name, else the platform's. It is masked as a token is."""

    async def integration(self, name: str) -> dict[str, Any]:
        """Return `{"name", "config", "entity_id", "connection"}`: the integration's values for the organization."""

    async def emit(self, source: str, type_: str, data: msgspec.Raw) -> dict[str, Any]:
        """Have an event of a topic; answer `{"id", "delivery"}` once it is on disk."""

    async def state_get(self, key: str) -> dict[str, Any] | None:
        """Answer `{"key", "value", "version", "updated_at", "updated_by", "expires_at"}` of the state, None where there is none."""

    async def state_put(self, key: str, value: msgspec.Raw, expected: int | None, ttl: float | None) -> dict[str, Any]:
        """Give a key a value, for `ttl` seconds, where its version is the `expected` one, 0 for none; answer as `state_get`."""

    async def state_increment(self, key: str, by: int, ttl: float | None) -> dict[str, Any]:
        """Add to a whole number, 0 where there is none, which has the `ttl` then; answer as `state_get`."""

    async def state_delete(self, key: str, expected: int | None) -> bool:
        """Remove a key; answer whether it was there."""

    async def state_list(self, prefix: str, after: str) -> dict[str, Any]:
        """Answer `{"items", "next"}`: values whose keys begin with `prefix`, by key, and the key to go on after, or None."""

    async def lock_hold(self, number: int, name: str, wait: float) -> dict[str, Any]:
        """Hold a lock of the organization until it is freed under that number; answer `{"fence"}`."""

    async def lock_free(self, number: int) -> None:
        """Give a lock back, or wait for it no more."""

    async def file_find(self, path: str) -> dict[str, Any]:
        """Answer `{"path", "size", "sha256", "updated_at"}` of a workspace file: the organization's own, else the platform's."""

    async def file_list(self, prefix: str, after: str) -> dict[str, Any]:
        """Answer `{"items", "next"}`: files below `prefix` by path, and the path to go on after, or None."""

    async def file_read(self, path: str, reading: int, at: int) -> dict[str, Any]:
        """Answer `{"data", "size"}`: the part of a file from `at` on, at most `MAX_CHUNK` bytes. Parts are read in order."""

    async def file_write(self, path: str, writing: int, at: int, data: bytes, *, is_last: bool) -> dict[str, Any] | None:
        """Take the part of a file that begins at `at`; with the last one it is there, and described as by `file_find`."""

    async def file_delete(self, path: str) -> None:
        """Delete a file of the organization's own that runs may write."""


class Sandbox(Protocol):
    """Runs jobs apart from everything else. Safe to use from many tasks of one event loop."""

    tier: Tier

    async def start(self) -> None:
        """Get ready to run. Raises `SandboxUnavailable`."""

    async def close(self) -> None:
        """Kill and reap every process, and remove every file of its own."""

    async def run(self, job: Job, capabilities: Capabilities, *, cancel: Cancellation | None = None) -> Outcome:
        """Run one attempt to its end.

        Setting `cancel` ends it as cancelled: SIGTERM, then after the grace SIGKILL. Cancelling the task kills at once;
        when CancelledError comes out the processes are gone. Raises `SandboxUnavailable`, and the errors of capabilities.
        """

    def forget(self, bundle: Path) -> None:
        """Keep no child ready for this bundle, which is about to go."""

    async def compile(self, bundle: Path, paths: list[str]) -> dict[str, bytes | None]:
        """Compile modules of a bundle without executing them; return the bytecode file of each, None where there is none.

        May return fewer than asked for. Raises `SandboxUnavailable`.
        """

    async def describe(
        self,
        bundle: Path,
        *,
        site_packages: Path | None = None,
        served: Sequence[ServedDefinition] = (),
        patience: float = 10.0,
        only: Sequence[str] | None = None,
        without: Sequence[str] = (),
    ) -> Description:
        """Describe the workflows of a bundle: of the files `only`, if that is given, and of none `without`.

        Problems of the bundle are in the answer, never raised.

        It is a problem as well if one that is `served` is no workflow any more though its function is still there, or if the import
        of a file takes more than `patience` seconds.
        """
