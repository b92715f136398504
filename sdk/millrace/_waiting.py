"""`sleep` and `wait_for`: waiting that holds no process, and outlives this one.

A run that waits, and does nothing else, ends its attempt; when the wait is over a new one begins. Steps that are done are not done
again there, so a workflow comes back to where it waited; work outside of steps is done once more.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from millrace import _bounds, _order, _suspension
from millrace._runtime import channel
from millrace._runtime.clock import Loop
from millrace._suspension import IN_PLACE
from millrace.errors import NotInRun, SignalTimeout

_IN_A_STEP = 60.0
"""Seconds that are slept in place within a step, which holds its process."""


skipped: Callable[[float], None] | None = None
"""Set where no time is to pass, as in an author's tests: called with each short sleep."""


@dataclass(frozen=True)
class Signal:
    """A signal to the run: `data` is JSON, `by` its sender, `at` aware UTC."""

    data: Any
    by: str
    at: datetime


class Sleep:
    """Waits for a time; see `__call__`."""

    async def __call__(self, duration: float | timedelta | datetime, /) -> None:
        """Await `sleep(seconds)`, a `timedelta`, or the `datetime` (with a time zone) at which to go on: up to a year.

        A sleep of more than a second holds no process meanwhile, and is not begun anew by a later attempt.
        """
        seconds = _seconds(duration)
        if _is_short(seconds):
            await asyncio.sleep(_passing(seconds))
            return
        await over(next_wait("sleep", "sleep"), seconds)

    def sync(self, duration: float | timedelta | datetime, /) -> None:
        """Do the same in a plain `def` workflow."""
        seconds = _seconds(duration)
        if _is_short(seconds):
            time.sleep(_passing(seconds))
            return
        over_sync(next_wait("sleep", "sleep"), seconds)


class WaitFor:
    """Waits for a signal; see `__call__`."""

    async def __call__(self, name: str, /, timeout: float | timedelta | None = None) -> Signal:
        """Await `wait_for("approval")`: the `Signal` sent with `POST /api/v1/runs/{id}/signals/approval`.

        Signals of one name are answered in the order in which they came, also those that came before the wait. Raises
        `SignalTimeout` after `timeout` seconds, `NotInRun` outside a run.
        """
        return _signal(name, await over(*_waited(name, timeout)))

    def sync(self, name: str, /, timeout: float | timedelta | None = None) -> Signal:
        """Do the same in a plain `def` workflow."""
        return _signal(name, over_sync(*_waited(name, timeout)))


async def over(call: _order.Call, seconds: float | None, asked: tuple[str, dict[str, Any]] | None = None) -> Any:
    """Answer how a wait has ended, as `{"result", "timed_out"}`; else this process does not go on from here.

    `asked` is the kind of its request, and the fields that say more, of a wait for an event and of a question to people.
    """
    loop = asyncio.get_running_loop()
    suspension = _suspension.current
    if call.is_given_up:
        await suspension.wait_again(call)
    answer = _asking(call, seconds, asked)
    try:
        found = await asyncio.shield(asyncio.wrap_future(answer))
    except asyncio.CancelledError:
        suspension.give_up(call)
        raise
    if found is not None:
        await suspension.turn(call)
    if call.is_recorded:
        _order.current.done(call)
    if isinstance(loop, Loop) and (call.is_recorded or not _order.current.is_replay):
        loop.reach(call.ago)
    if found is None:
        await suspension.wait(call)
    return found


def over_sync(call: _order.Call, seconds: float | None, asked: tuple[str, dict[str, Any]] | None = None) -> Any:
    """Do the same in a plain `def` workflow."""
    found = _asking(call, seconds, asked).result()
    if call.is_recorded:
        _order.current.done(call)
    if found is None:
        main = _order.current.main
        if main is None:
            _suspension.current.stand_by()
        else:  # in a thread of a coroutine: its event loop knows what else goes on
            asyncio.run_coroutine_threadsafe(_suspension.current.wait(call), main.get_loop()).result()
    return found


def _asking(call: _order.Call, seconds: float | None, asked: tuple[str, dict[str, Any]] | None) -> Any:
    if channel.current is None:
        msg = "only a run can wait for that"
        raise NotInRun(msg)
    if call.is_recorded:
        return channel.current.ask("step_get", name=call.name, ordinal=call.ordinal, of=call.kind)
    _suspension.current.tell()
    if asked is not None:
        fields: dict[str, Any] = {"name": call.name, "ordinal": call.ordinal, "position": call.position, "seconds": seconds}
        return channel.current.ask(asked[0], **fields, **asked[1])
    return channel.current.ask("wait", of=call.kind, name=call.name, ordinal=call.ordinal, position=call.position, seconds=seconds)


def next_wait(kind: str, name: str) -> _order.Call:
    """Take the next place for a wait. Raises RuntimeError within a step."""
    check_outside(kind, name)
    return _order.current.next(kind, name)


def check_outside(kind: str, name: str) -> None:
    """Raise RuntimeError within a step, which nothing can wait in that outlives this process."""
    step = _order.inside.get()
    if step is not None and channel.current is not None:
        what = {
            "sleep": "sleeps for longer than a minute",
            "signal": f"waits for the signal {name!r}",
            "ask": "asks people",
            "event": f"waits for {name}",
        }.get(kind, "waits for a run")
        msg = (
            f"step {step.name!r} {what}: a step is done in one go, and begun anew where it was interrupted. Wait outside of steps, "
            "and give the step what came of it"
        )
        raise RuntimeError(msg)


def _waited(name: object, timeout: float | timedelta | None) -> tuple[_order.Call, float | None]:
    checked = _bounds.text(name, "a signal's name")
    seconds = None if timeout is None else _bounds.seconds(timeout, "timeout")
    return next_wait("signal", checked), seconds


def _signal(name: str, found: Any) -> Signal:
    if found.get("timed_out"):
        msg = f"nobody gave the signal {name!r} in time"
        raise SignalTimeout(msg)
    given = found["result"]
    return Signal(given["data"], given["by"], datetime.fromisoformat(given["at"]).astimezone(UTC))


def _is_short(seconds: float) -> bool:
    return channel.current is None or seconds <= (IN_PLACE if _order.inside.get() is None else _IN_A_STEP)


def _passing(seconds: float) -> float:
    if skipped is None:
        return seconds
    skipped(seconds)
    return 0.0


def _seconds(duration: object) -> float:
    if isinstance(duration, datetime):
        return max(0.0, (_bounds.ahead(duration, "a time to wait for") - datetime.now(UTC)).total_seconds())
    return _bounds.seconds(duration, "a time to wait")


sleep = Sleep()
wait_for = WaitFor()
