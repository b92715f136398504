"""`runs`: child runs of this run."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from millrace import _order, _waiting
from millrace._runtime import channel
from millrace._runtime.encode import to_json
from millrace.errors import ChildFailed, NotInRun

Priority = Literal["high", "normal", "low"]


class Runs:
    """Starts runs of other workflows, of the same organization, and waits for them.

    Each place in a workflow that starts a run starts one, however many attempts come by.
    """

    def start(self, workflow: str, input: dict[str, Any] | None = None, /, **options: Any) -> str:  # noqa: A002 - the API's word
        """Ask for a run and answer its id; it goes on by itself, also when this run ends.

        `options`: `priority` ("high", "normal", "low"; this run's own unless given), `run_at` (an aware `datetime`) and
        `concurrency_key`. Raises `Refused` when there is no such workflow.
        """
        call = _order.current.next("start", _named(workflow))
        return str(_started(call, _asked(call, input, **options).result()))

    async def astart(self, workflow: str, input: dict[str, Any] | None = None, /, **options: Any) -> str:  # noqa: A002
        """Do the same without holding up the event loop."""
        call = _order.current.next("start", _named(workflow))
        return str(_started(call, await asyncio.wrap_future(_asked(call, input, **options))))

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
        return await self.wait(await self.astart(workflow, input, **options))

    def call_sync(self, workflow: str, input: dict[str, Any] | None = None, /, **options: Any) -> Any:  # noqa: A002
        """Do the same in a plain `def` workflow."""
        return self.wait_sync(self.start(workflow, input, **options))

    def cancel(self) -> None:
        """Ask for this very run to stop: it gets `asyncio.CancelledError`, or `Cancelled` in a plain function."""
        _open().ask("cancel_run").result()


def _asked(
    call: _order.Call,
    given: dict[str, Any] | None,
    *,
    priority: Priority | None = None,
    run_at: datetime | None = None,
    concurrency_key: str | None = None,
) -> Any:
    current = _open()
    if call.is_recorded:
        return current.ask("step_get", name=call.name, ordinal=call.ordinal, of="start")
    if run_at is not None and run_at.tzinfo is None:
        msg = "run_at has a time zone"
        raise ValueError(msg)
    return current.ask(
        "start_run",
        workflow=call.name,
        ordinal=call.ordinal,
        position=call.position,
        input=json.loads(to_json(given or {}, what=f"the input of {call.name}")),
        priority=priority,
        run_at=None if run_at is None else run_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        concurrency_key=concurrency_key,
    )


def _started(call: _order.Call, answer: Any) -> Any:
    return answer["result"] if call.is_recorded else answer


def _awaited(run: object, timeout: float | timedelta | None) -> tuple[_order.Call, float | None]:
    if not isinstance(run, str) or not run:
        msg = f"a run has an id, not {run!r}"
        raise TypeError(msg)
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    return _order.current.next("run", run), seconds


def _result(run: str, found: Any) -> Any:
    if found.get("timed_out"):
        msg = f"the run {run} has not ended in time"
        raise TimeoutError(msg)
    told = found["result"]
    if told["status"] != "succeeded":
        raise ChildFailed(run, told["status"], told.get("reason"), told.get("error"))
    return told["result"]


def _named(workflow: object) -> str:
    if not isinstance(workflow, str) or not 0 < len(workflow) <= 200:
        msg = f"a workflow has a name, not {workflow!r}"
        raise TypeError(msg)
    return workflow


def _open() -> channel.Channel:
    if channel.current is None:
        msg = "runs are started only inside a run"
        raise NotInRun(msg)
    return channel.current


runs = Runs()
