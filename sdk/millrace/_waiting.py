"""`sleep` and `wait_for`: waiting that holds no process, and outlives this one.

A run that waits, and does nothing else, ends its attempt; when the wait is over a new one begins. Steps that are done are not done
again there, so a workflow comes back to where it waited; what it does outside of steps it does once more.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from millrace import _bounds, _order
from millrace._runtime import channel
from millrace.errors import NotInRun, SignalTimeout

_IN_PLACE = 1.0
"""Seconds that are waited for in this process: another attempt would take as long to begin on a busy machine."""
_SETTLE = 0.02
"""Seconds without a new wait or the end of a step after which nothing else seems to go on."""

skipped: Callable[[float], None] | None = None
"""Where time is not to pass, as in an author's tests: told of each short sleep."""


@dataclass(frozen=True)
class Signal:
    """An answer that somebody gave to the run: `data` is JSON, `by` who it was, `at` aware UTC."""

    data: Any
    by: str
    at: datetime


class Suspension:
    """Ends the attempt when all that is left of it is waits."""

    def __init__(self) -> None:
        self._waits = 0
        self._busy = 0
        self._check: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Note that a step goes on: it is let finish."""
        self._busy += 1

    def end(self) -> None:
        """Note that a step has ended."""
        self._busy -= 1
        self._look_later()

    async def wait(self) -> None:
        """Wait for an end that this process will not see. Never returns, unless the waiting task is cancelled."""
        self._waits += 1
        self._look_later()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self._waits -= 1

    def _look_later(self) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None
        if self._waits and not self._busy:
            self._check = asyncio.get_running_loop().call_later(_SETTLE, suspend)


def suspend() -> None:
    """Tell the supervisor that the run waits, and wait to be ended."""
    current = channel.current
    if current is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        current.close_with(b'{"kind":"suspended"}')
        current.wait_for_end()


suspension = Suspension()


class Sleep:
    """Waits for a time; see `__call__`."""

    async def __call__(self, duration: float | timedelta | datetime, /) -> None:
        """Await `sleep(seconds)`, a `timedelta`, or the `datetime` (with a time zone) at which to go on: up to a year.

        What lasts longer than a second holds no process meanwhile, and is not begun anew by a later attempt.
        """
        seconds = _seconds(duration)
        if channel.current is None or seconds <= _IN_PLACE:
            await asyncio.sleep(_passing(seconds))
            return
        await over(_order.current.next("sleep", "sleep"), seconds)

    def sync(self, duration: float | timedelta | datetime, /) -> None:
        """Do the same in a plain `def` workflow."""
        seconds = _seconds(duration)
        if channel.current is None or seconds <= _IN_PLACE:
            time.sleep(_passing(seconds))
            return
        over_sync(_order.current.next("sleep", "sleep"), seconds)


class WaitFor:
    """Waits for a signal; see `__call__`."""

    async def __call__(self, name: str, /, timeout: float | timedelta | None = None) -> Signal:
        """Await `wait_for("approval")`: the `Signal` that somebody gives with `POST /api/v1/runs/{id}/signals/approval`.

        Signals of one name are answered in the order in which they came, also those that came before anybody waited. Raises
        `SignalTimeout` after `timeout` seconds, `NotInRun` outside a run.
        """
        return _signal(name, await over(*_waited(name, timeout)))

    def sync(self, name: str, /, timeout: float | timedelta | None = None) -> Signal:
        """Do the same in a plain `def` workflow."""
        return _signal(name, over_sync(*_waited(name, timeout)))


async def over(call: _order.Call, seconds: float | None) -> Any:
    """Answer how a wait has ended, as `{"result", "timed_out"}`; else this process does not go on from here."""
    found = await asyncio.wrap_future(_asked(call, seconds))
    if found is None:
        await suspension.wait()
    return found


def over_sync(call: _order.Call, seconds: float | None) -> Any:
    """Do the same in a plain function, which waits for nothing beside."""
    found = _asked(call, seconds).result()
    if found is None:
        suspend()
    return found


def _asked(call: _order.Call, seconds: float | None) -> Any:
    if channel.current is None:
        msg = "only a run can wait for that"
        raise NotInRun(msg)
    if call.is_recorded:
        return channel.current.ask("step_get", name=call.name, ordinal=call.ordinal, of=call.kind)
    return channel.current.ask("wait", of=call.kind, name=call.name, ordinal=call.ordinal, position=call.position, seconds=seconds)


def _waited(name: object, timeout: float | timedelta | None) -> tuple[_order.Call, float | None]:
    checked = _bounds.text(name, "a signal's name")
    seconds = None if timeout is None else _bounds.seconds(timeout, "timeout")
    return _order.current.next("signal", checked), seconds


def _signal(name: str, found: Any) -> Signal:
    if found.get("timed_out"):
        msg = f"nobody gave the signal {name!r} in time"
        raise SignalTimeout(msg)
    given = found["result"]
    return Signal(given["data"], given["by"], datetime.fromisoformat(given["at"]).astimezone(UTC))


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
