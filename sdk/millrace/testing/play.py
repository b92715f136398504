"""One attempt at a workflow, in this process."""

import asyncio
import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from millrace import _declare, _http, _order, _run, _suspension, _waiting
from millrace._binding import bind
from millrace._connections import Connection
from millrace._integrations import Integration
from millrace._runtime import channel
from millrace._runtime.calling import call
from millrace._runtime.clock import Loop
from millrace._runtime.encode import to_json
from millrace._runtime.failure import error_frame
from millrace._runtime.large import LARGEST
from millrace.errors import Cancelled, Refused, ResultError
from millrace.testing.answers import Answers
from millrace.testing.elsewhere import Children, Others, Waits
from millrace.testing.fakes import Connections, Fake, Integrations, Masking, Settings, Steps, Topics
from millrace.testing.files import Files
from millrace.testing.outcome import Failure, Line, Outcome, Recorded, Sent
from millrace.testing.shared import HeldLocks, SharedState

LARGEST_RESULT = LARGEST
"""Bytes as JSON that the platform keeps of a result."""

RUN = "testing"
"""The id of the run."""

_ONE_AT_A_TIME = threading.Lock()


def run(
    workflow: Callable[..., Any],
    given: Mapping[str, Any] | None = None,
    /,
    *,
    connections: Mapping[str, str | Connection] | None = None,
    answers: Mapping[str, Mapping[str, Any] | Callable[[Sent], Any]] | None = None,
    integrations: Mapping[str, Mapping[str, Any] | Integration] | None = None,
    variables: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
    files: Mapping[str, bytes | str] | None = None,
    state: Mapping[str, Any] | None = None,
    held: Collection[str] = (),
    topics: Collection[str] = (),
    steps: Recorded | None = None,
    signals: Mapping[str, Sequence[Any]] | None = None,
    incoming: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    approvals: Mapping[str, Sequence[Any]] | None = None,
    runs: Mapping[str, Any] | None = None,
    scheduled_for: datetime | None = None,
) -> Outcome:
    """Make one attempt at a workflow, sync or async, with `given` as its input, and answer how it ended.

    `given` may hold values that JSON does not, such as a datetime, where the platform would be sent its text.

    Give the things that the workflow may ask for by name: `connections` as tokens or `Connection`s, `integrations` as configs or
    `Integration`s, `variables`, `secrets`, `files` by path, values of the `state` by key, and the `topics` that take events. All
    others are refused as not there. Locks are free but those that are `held` by other runs.

    `answers` are those of the APIs that clients call, by connection and by `"GET /path"` (or `"GET /path?a=1"`): JSON, None for no
    content, a `Reply`, an exception, an iterator of them, or a function from `Sent` to one of them, which may also stand for all of
    a connection. A request without an answer raises LookupError. A connection that has answers, and is given as a token, has a
    base_url.

    `steps` are results that an earlier attempt recorded: those steps are not called; from an `Outcome` they come with
    their order, and with its waits. `signals` answers waits, by name, one after the other; `approvals` what people are
    asked, by the question's name: True, False, what they fill in, or an `Answer`. `incoming` are the events that come, by
    source, each `{"type", "data"}` and what else matters: a wait takes the first that is left whose type fits. Its `where` is not
    evaluated: give those of which it is true. `runs` gives the ends of child runs, by
    workflow: a result, a function from the input to one, or an exception. No time passes in `sleep`, nor before a time-out.
    `scheduled_for`, which is aware, is the time of a schedule that the run is for.

    Nothing that the workflow raises is raised here, but KeyboardInterrupt: see
    `Outcome.value`. Raises TypeError where it is given no workflow, RuntimeError inside of a run or beside another one of this
    process. May be called where an event loop is running, which is held up meanwhile.
    """
    if not any(one.function is workflow for one in _declare.REGISTRY):
        msg = f"{getattr(workflow, '__name__', workflow)!r} is no workflow: it has neither @workflow nor @data_provider"
        raise TypeError(msg)
    masking = Masking()
    kept, told, tree = Steps({} if steps is None else steps, masking), Topics(topics, masking), Files(files or {}, RUN)
    shared, locked = SharedState(state or {}, masking), HeldLocks(held)
    children = Children(runs or {}, kept, masking)
    waits = Waits(signals or {}, approvals or {}, kept, children, incoming or {}, masking)
    others = Others(masking)
    apis = Answers(answers or {})
    fakes: list[Fake] = [
        kept,
        Connections(connections or {}, answers or {}, masking),
        Integrations(integrations or {}),
        Settings(variables or {}, secrets or {}, masking),
        told,
        tree,
        shared,
        locked,
        waits,
        children,
        others,
    ]
    job = {"run": RUN, "scheduled_for": None if scheduled_for is None else scheduled_for.astimezone(UTC).isoformat()}
    document = json.loads(to_json(dict(given or {}), what="the input", rich=True))
    attempt = _Attempt(masking, fakes, kept, waits.slept, job | {"input": document}, apis)
    outcome = _beside_a_loop(lambda: attempt.made(workflow, document))
    return Outcome(
        **outcome,
        lines=attempt.lines,
        steps=kept.recorded(waits.calls if outcome["status"] == "waiting" else []),
        events=told.emitted,
        sent=apis.sent,
        files=tree.held,
        state=shared.values,
        locks=locked.names,
        slept=waits.slept,
        waits=waits.open if outcome["status"] == "waiting" else [],
        started=children.started,
        questions=waits.questions,
        signalled=others.signalled,
    )


class _Suspended(SystemExit):
    """The attempt is over, because the run waits. A SystemExit, since an event loop lets nothing else through."""


class _Attempt:
    """Stands in the place of a run's supervisor: takes lines, answers requests from fakes."""

    def __init__(
        self, masking: Masking, fakes: Sequence[Fake], kept: Steps, slept: list[float], job: dict[str, Any], apis: Answers
    ) -> None:
        self._slept = slept
        self._apis = apis
        self._job = job
        self._is_cancelled = False
        self._is_suspended = False
        self._masking = masking
        self._recorded, self._waiting = kept.calls, kept.waiting
        self._answers = {kind: answer for fake in fakes for kind, answer in fake.answers.items()}
        self._answers["cancel_run"] = self._cancel
        self.lines: list[Line] = []

    @property
    def is_asking(self) -> bool:
        """Whether a request is still to be answered."""
        return False

    def send(self, frame: dict[str, Any]) -> None:
        """Keep a line."""
        event, fields = self._masking.text(frame["event"]), self._masking.document(frame["fields"])
        self.lines.append(Line(frame["level"], event, fields))

    def ask(self, kind: str, **fields: Any) -> "Future[Any]":
        """Answer a request at once."""
        answer: Future[Any] = Future()
        try:
            if kind not in self._answers:
                msg = f"millrace.testing has no fake for {kind!r}"
                raise Refused("NotFaked", msg)
            # Through JSON, as it would come: a run that changes an answer changes no fake.
            answer.set_result(json.loads(to_json(self._answers[kind](fields), what=f"the answer to {kind!r}")))
        except Refused as error:
            answer.set_exception(error)
        return answer

    def close_with(self, _payload: bytes) -> None:
        """Record that the run waits, and does nothing else."""
        self._is_suspended = True

    def wait_for_end(self) -> None:
        """End the attempt."""
        raise _Suspended

    def _cancel(self, _asked: dict[str, Any]) -> None:
        self._is_cancelled = True
        if _order.current.main is None:
            raise Cancelled
        _order.current.main.get_loop().call_soon_threadsafe(_order.current.main.cancel)

    def made(self, workflow: Callable[..., Any], document: dict[str, Any]) -> dict[str, Any]:
        """Call the workflow and answer the fields of an `Outcome`."""
        with self._in_place() as (loop, order):
            try:
                result = call(workflow, *bind(workflow, document), lambda: loop, order.attend)
                order.check_end()
                text = to_json(result, what="the result", rich=True, limit=None)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if self._is_cancelled:
                    return {"status": "cancelled"}
                if self._is_suspended:
                    return {"status": "waiting"}
                return self._failed(error, _folder_of(workflow))
            if self._is_cancelled:
                return {"status": "cancelled"}
        result = self._masking.document(json.loads(text))
        size = len(json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode())
        if size > LARGEST_RESULT:
            too_large = ResultError(f"the result has {size} bytes as JSON; at most {LARGEST_RESULT} are kept")
            failure = Failure("ResultTooLarge", str(too_large))
            return {"status": "failed", "reason": "limit", "error": failure, "exception": too_large}
        return {"status": "succeeded", "result": result}

    def _failed(self, error: BaseException, folder: str) -> dict[str, Any]:
        told = error_frame(error, folder)
        failure = Failure(*(self._masking.text(told[name]) for name in ("type", "message", "traceback")))
        reason = "oom" if isinstance(error, MemoryError) else "error"
        return {"status": "failed", "reason": reason, "error": failure, "exception": error}

    @contextmanager
    def _in_place(self) -> Iterator[tuple[asyncio.AbstractEventLoop, _order.Order]]:
        """Be what this process's run speaks to, with steps counted from the first, and leave all as it was."""
        if channel.current is not None or not _ONE_AT_A_TIME.acquire(blocking=False):
            msg = "millrace.testing.run inside of a run, or beside another one of this process"
            raise RuntimeError(msg)
        loop = Loop()
        _suspension.current = _suspension.Suspension(skips=True)
        try:
            with _order.begun(_order.Order(self._recorded, self._waiting)) as order:
                channel.current = cast("channel.Channel", self)
                _waiting.skipped = self._slept.append
                _http.answered = self._apis.answered
                _run.job = self._job
                yield loop, order
        finally:
            channel.current = None
            _run.job = None
            _waiting.skipped = None
            _http.answered = None
            _suspension.current = _suspension.Suspension()
            loop.close()
            _ONE_AT_A_TIME.release()


def _beside_a_loop(do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Do it here, or, where a loop is running already, in a thread that has none."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return do()
    done: Future[dict[str, Any]] = Future()

    def fulfil() -> None:
        try:
            done.set_result(do())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=fulfil, name="millrace-testing")
    thread.start()
    thread.join()
    return done.result()


def _folder_of(function: Callable[..., Any]) -> str:
    """Answer the folder from which the function's module has its dotted name: the workspace, to its author."""
    path = Path(function.__code__.co_filename).absolute()
    stem = str(path.with_suffix("")).removesuffix("/__init__")
    module = "/" + function.__module__.replace(".", "/")
    return stem.removesuffix(module) if stem.endswith(module) else str(path.parent)
