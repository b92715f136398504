"""One attempt at a workflow, in this process."""

import asyncio
import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from millrace import _declare, _order
from millrace._binding import bind
from millrace._connections import Connection
from millrace._integrations import Integration
from millrace._runtime import channel
from millrace._runtime.calling import call
from millrace._runtime.encode import to_json
from millrace._runtime.failure import error_frame
from millrace._runtime.large import LARGEST
from millrace.errors import Cancelled, Refused, ResultError
from millrace.testing.fakes import Answer, Connections, Fake, Integrations, Masking, Settings, Steps, Topics
from millrace.testing.files import Files
from millrace.testing.outcome import Failure, Line, Outcome, Recorded
from millrace.testing.waits import Waits

LARGEST_RESULT = LARGEST
"""Bytes as JSON that the platform keeps of a result."""

_ONE_AT_A_TIME = threading.Lock()


def run(
    workflow: Callable[..., Any],
    given: Mapping[str, Any] | None = None,
    /,
    *,
    connections: Mapping[str, str | Connection] | None = None,
    integrations: Mapping[str, Mapping[str, Any] | Integration] | None = None,
    variables: Mapping[str, Any] | None = None,
    secrets: Mapping[str, str] | None = None,
    files: Mapping[str, bytes | str] | None = None,
    topics: Collection[str] = (),
    signals: Mapping[str, Sequence[Any]] | None = None,
    runs: Mapping[str, Any] | None = None,
    steps: Recorded | None = None,
) -> Outcome:
    """Make one attempt at a workflow, sync or async, with `given` as its input, and answer how it ended.

    `given` may hold what JSON does not, such as a datetime, where the platform would be sent its text.

    What the workflow may ask for is given by name: `connections` as tokens or `Connection`s, `integrations` as configs or
    `Integration`s, `variables`, `secrets`, `files` by path, and the `topics` that take events. What is not given is refused as what
    is not there.

    Nothing is waited for: a sleep of more than a second is skipped, `signals` are lists of what `wait_for` answers by name, one
    after the other, and where there is none left a time-out is over at once. `runs` are child runs by workflow: their result, or
    what is called with their input to answer it or to raise.

    `steps` are results that an earlier attempt recorded: those steps are not called.

    Nothing that the workflow raises is raised here, but KeyboardInterrupt: see
    `Outcome.value`. Raises TypeError for what is no workflow, RuntimeError inside of a run or beside another one of this process.
    May be called where an event loop is running, which is held up meanwhile.
    """
    if not any(one.function is workflow for one in _declare.REGISTRY):
        msg = f"{getattr(workflow, '__name__', workflow)!r} is no workflow: it has neither @workflow nor @data_provider"
        raise TypeError(msg)
    masking = Masking()
    kept, told, tree = Steps(steps or {}, masking), Topics(topics, masking), Files(files or {})
    waits = Waits(signals or {}, runs or {}, masking)
    fakes: list[Fake] = [
        kept,
        Connections(connections or {}, masking),
        Integrations(integrations or {}),
        Settings(variables or {}, secrets or {}, masking),
        told,
        tree,
        waits,
    ]
    attempt = _Attempt(masking, fakes, kept.calls)
    document = json.loads(to_json(dict(given or {}), what="the input", rich=True))
    outcome = _beside_a_loop(lambda: attempt.made(workflow, document))
    done: dict[str, Any] = {"events": told.emitted, "started": waits.started, "slept": waits.slept, "files": tree.held}
    return Outcome(**outcome, lines=attempt.lines, steps=kept.recorded, **done)


class _Attempt:
    """What a run speaks to in the place of its supervisor: takes lines, answers requests from fakes."""

    def __init__(self, masking: Masking, fakes: Sequence[Fake], recorded: list[Any]) -> None:
        self._masking = masking
        self._recorded = recorded
        self._answers: dict[str, Answer] = {"cancel_run": self._cancel}
        self._answers |= {kind: answer for fake in fakes for kind, answer in fake.answers.items()}
        self._task: asyncio.Task[Any] | None = None
        self._stopped: str | None = None
        self.lines: list[Line] = []

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
            # Through JSON, as it would come: what the run does with an answer changes no fake.
            answer.set_result(json.loads(to_json(self._answers[kind](fields), what=f"the answer to {kind!r}")))
        except (Refused, Cancelled) as error:
            answer.set_exception(error)
        return answer

    def close_with(self, _payload: bytes) -> None:
        """Take note that all that is left of the attempt is a wait for what the test does not give."""
        self._stopped = "waiting"

    def wait_for_end(self) -> None:
        """End the attempt, which the platform would kill here."""
        if self._task is None:
            msg = "the attempt waits"
            raise Cancelled(msg)
        self._task.cancel()

    def _cancel(self, _asked: dict[str, Any]) -> None:
        self._stopped = "cancelled"
        if self._task is None:
            msg = "the attempt is being stopped"
            raise Cancelled(msg)
        self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def made(self, workflow: Callable[..., Any], document: dict[str, Any]) -> dict[str, Any]:
        """Call the workflow and answer the fields of an `Outcome`."""
        with self._in_place() as (loop, order):
            try:

                def began(task: asyncio.Task[Any]) -> None:
                    self._task = task
                    order.attend(task)

                result = call(workflow, *bind(workflow, document), lambda: loop, began)
                order.check_end()
                text = to_json(result, what="the result", rich=True, limit=None)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                if self._stopped is not None and isinstance(error, Cancelled | asyncio.CancelledError):
                    why = "the run waits for a signal" if self._stopped == "waiting" else "the run has cancelled itself"
                    return {"status": self._stopped, "exception": RuntimeError(why)}
                return self._failed(error, _folder_of(workflow))
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
        loop = asyncio.new_event_loop()
        try:
            with _order.begun(_order.Order(self._recorded)) as order:
                channel.current = cast("channel.Channel", self)
                yield loop, order
        finally:
            channel.current = None
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
