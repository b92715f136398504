"""`runs`: child runs of this run."""

import asyncio
import json
from datetime import timedelta
from typing import Any, Literal

from millrace import _bounds, _order, _suspension, _waiting
from millrace._runtime import channel
from millrace._runtime.encode import to_json
from millrace.errors import ChildFailed, NotInRun

Priority = Literal["high", "normal", "low"]
_MOST_DATA = 256 * 1024
_OPTIONS = ("priority", "run_at", "concurrency_key")


class Runs:
    """Starts runs of other workflows, of the same organization, and waits for them.

    Each place in a workflow that starts a run starts one, however many attempts come by.
    """

    def start(self, workflow: str, input: dict[str, Any] | None = None, /, **options: Any) -> str:  # noqa: A002 - the API's word
        """Ask for a run and answer its id; it goes on by itself, also when this run ends.

        `options`: `priority` ("high", "normal", "low"; this run's own unless given), `run_at` (an aware `datetime`) and
        `concurrency_key`. Raises `Refused` when there is no such workflow.
        """
        name, fields = _checked(workflow, input, options)
        call = _order.current.next("start", name)
        return str(_started(call, _asked(call, fields).result()))

    async def astart(self, workflow: str, input: dict[str, Any] | None = None, /, **options: Any) -> str:  # noqa: A002
        """Do the same without holding up the event loop."""
        name, fields = _checked(workflow, input, options)
        call = _order.current.next("start", name)
        answer = await asyncio.wrap_future(_asked(call, fields))
        await _suspension.current.turn(call)
        return str(_started(call, answer))

    async def wait(self, run: str, /, timeout: float | timedelta | None = None) -> Any:
        """Answer the result of a run that this one has started, without holding a process until it is there.

        Raises `ChildFailed` when it ended otherwise, `TimeoutError` after `timeout` seconds. A result of more than 256 KiB is
        answered as `{"$ref", "bytes"}`.
        """
        return _result(run, await _waiting.over(*_awaited(run, timeout)))

    def wait_sync(self, run: str, /, timeout: float | timedelta | None = None) -> Any:
        """Do the same in a plain `def` workflow."""
        return _result(run, _waiting.over_sync(*_awaited(run, timeout)))

    async def call(self, workflow: str, input: dict[str, Any] | None = None, /, **options: Any) -> Any:  # noqa: A002
        """Start a run and wait for its result."""
        _waiting.check_outside("run", workflow)
        return await self.wait(await self.astart(workflow, input, **options))

    def call_sync(self, workflow: str, input: dict[str, Any] | None = None, /, **options: Any) -> Any:  # noqa: A002
        """Do the same in a plain `def` workflow."""
        _waiting.check_outside("run", workflow)
        return self.wait_sync(self.start(workflow, input, **options))

    def signal(self, run: str, name: str, data: Any = None, /) -> None:
        """Send another run of the organization a signal, for its `wait_for(name)`; on disk when this returns.

        Each call is a signal: an attempt that is begun anew sends it again, unless the call is a step. `data` is up to 256 KiB
        as JSON. Raises `Refused` where there is no such run, or it has ended.
        """
        channel.ask("runs", "signal_run", **_signalled(run, name, data))

    async def asignal(self, run: str, name: str, data: Any = None, /) -> None:
        """Do the same without holding up the event loop."""
        await channel.aask("runs", "signal_run", **_signalled(run, name, data))

    def cancel(self) -> None:
        """Ask for this very run to stop: it gets `asyncio.CancelledError`, or `Cancelled` in a plain function."""
        _open().ask("cancel_run").result()


def _checked(workflow: object, given: object, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Answer the workflow's name, and the other fields of a request for a run of it."""
    name = _bounds.text(workflow, "a workflow's name")
    for option in options.keys() - set(_OPTIONS):
        msg = f"{option!r} is no option of a child run: those are {', '.join(_OPTIONS)}"
        raise TypeError(msg)
    priority, run_at, key = map(options.get, _OPTIONS)
    document = to_json(_bounds.mapping(given, f"the input of {name}"), what=f"the input of {name}", limit=_bounds.INPUT)
    return name, {
        "input": json.loads(document),
        "priority": None if priority is None else _bounds.one_of(priority, "priority", _bounds.PRIORITIES),
        "run_at": None if run_at is None else _bounds.ahead(run_at, "run_at").isoformat().replace("+00:00", "Z"),
        "concurrency_key": None if key is None else _bounds.text(key, "concurrency_key"),
    }


def _signalled(run: object, name: object, data: Any) -> dict[str, Any]:
    return {
        "run": _bounds.text(run, "a run's id"),
        "name": _bounds.text(name, "a signal's name"),
        "data": json.loads(to_json(data, what="the signal's data", rich=True, limit=_MOST_DATA)),
    }


def _asked(call: _order.Call, fields: dict[str, Any]) -> Any:
    current = _open()
    if call.is_recorded:
        return current.ask("step_get", name=call.name, ordinal=call.ordinal, of="start")
    _suspension.current.tell()
    return current.ask("start_run", workflow=call.name, ordinal=call.ordinal, position=call.position, **fields)


def _started(call: _order.Call, answer: Any) -> Any:
    if call.is_recorded:
        _order.current.done(call)
    return answer["result"] if call.is_recorded else answer


def _awaited(run: object, timeout: float | timedelta | None) -> tuple[_order.Call, float | None]:
    checked = _bounds.text(run, "a run's id")
    seconds = None if timeout is None else _bounds.seconds(timeout, "timeout")
    return _waiting.next_wait("run", checked), seconds


def _result(run: str, found: Any) -> Any:
    if found.get("timed_out"):
        msg = f"the run {run} has not ended in time"
        raise TimeoutError(msg)
    told = found["result"]
    if told["status"] != "succeeded":
        raise ChildFailed(run, told["status"], told.get("reason"), told.get("error"))
    return told["result"]


def _open() -> channel.Channel:
    if channel.current is None:
        msg = "runs are started only inside a run"
        raise NotInRun(msg)
    return channel.current


runs = Runs()
