"""Ends the attempt when all that is left of it is waits that hold no process."""

import asyncio
import sys
import threading
import time
from typing import Any

from millrace import _order
from millrace._runtime import channel, quiet
from millrace._runtime.clock import Loop
from millrace.errors import OrderChanged

IN_PLACE = 1.0
"""Seconds that are waited for in this process: another attempt would take as long to begin on a busy machine."""
_SOONEST, _LATEST = 0.005, 0.25
"""Seconds between two looks at the run's tasks: the first ones come soon, later ones less often."""
_LOOKS = 2
"""Looks in a row that find nothing: a thread may be between taking its work and doing it."""


class Suspension:
    """Of one attempt. `skips`: no time is to pass, as in an author's tests."""

    def __init__(self, *, skips: bool = False) -> None:
        self._live: dict[asyncio.Future[None], _order.Call] = {}
        self._given_up: dict[asyncio.Future[None], _order.Call] = {}
        self._untold: list[_order.Call] = []
        self._steps = 0
        self._check: asyncio.TimerHandle | None = None
        self._delay = _SOONEST
        self._looks = 0
        self._is_over = False
        self._others = frozenset(threading.enumerate())
        self._skips = skips

    def begin(self) -> None:
        """Record that a step goes on: it is let finish."""
        self._steps += 1

    def end(self) -> None:
        """Record that a step has ended."""
        self._steps -= 1
        self.look_soon()

    def close(self) -> None:
        """Give no wait up for good from now on: cancellations come from the end of the attempt."""
        self._is_over = True

    async def turn(self, call: _order.Call) -> None:
        """Wait until it is a call's turn to be answered: after earlier records and repeated work."""
        if not call.is_recorded:
            if _order.current.is_replay:
                self.look_soon()
                await _order.current.hold_back()
            return
        held = _order.current.hold(call)
        self.look_soon()
        await held

    async def wait(self, call: _order.Call) -> None:
        """Wait for an end that this process will not see. Never returns; a wait that is cancelled is given up for good."""
        try:
            await self._pend(self._live, call)
        except asyncio.CancelledError:
            self.give_up(call)
            raise

    def give_up(self, call: _order.Call) -> None:
        """Record that a wait was cancelled before it was known whether it was over."""
        if not self._is_over and not call.is_recorded:
            self._untold.append(call)

    async def wait_again(self, call: _order.Call) -> None:
        """Wait for a wait that an earlier attempt has given up, until this one does."""
        try:
            await self._pend(self._given_up, call)
        except asyncio.CancelledError:
            _order.current.done(call)
            raise

    def tell(self) -> list[Any]:
        """Have given-up waits recorded before their consequences; returns the futures to wait for to be sure."""
        told, self._untold = self._untold, []
        current = channel.current
        if current is None:
            return []
        fields = [{"of": one.kind, "name": one.name, "ordinal": one.ordinal, "position": one.position} for one in told]
        return [current.ask("wait_given_up", **one) for one in fields]

    def stand_by(self) -> None:
        """Wait in a plain function for an end that this process will not see; other threads are let finish. Never returns."""
        delay, looks = _SOONEST, 0
        main = threading.current_thread() is not threading.main_thread()
        while looks < _LOOKS:
            time.sleep(delay)
            looks = 0 if quiet.threads_go_on(self._others, main=main) else looks + 1
            delay = _SOONEST if looks else min(2 * delay, _LATEST)
        suspend(None)

    def look_soon(self) -> None:
        """Look before long whether anything goes on, as something may have ended."""
        self._delay, self._looks = _SOONEST, 0
        if not self._is_over:
            self._look_in(_SOONEST)

    async def _pend(self, among: "dict[asyncio.Future[None], _order.Call]", call: _order.Call) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        among[waiting] = call
        self.look_soon()
        try:
            await waiting
        finally:
            del among[waiting]
            self.look_soon()

    def _look_in(self, seconds: float) -> None:
        if self._check is not None:
            self._check.cancel()
            self._check = None
        if self._is_to_look():
            self._check = asyncio.get_running_loop().call_later(seconds, self._look)

    def _is_to_look(self) -> bool:
        """Answer whether there is a wait to suspend for, or one to answer."""
        return bool(self._live or self._given_up or _order.current.held or _order.current.is_replay)

    def _look(self) -> None:
        self._check = None
        if self._is_over or not self._is_to_look():  # what it was to look after may have been answered meanwhile
            return
        loop = asyncio.get_running_loop()
        current = channel.current
        is_asking = current is not None and current.is_asking
        waits = [*self._live, *self._given_up, *_order.current.held]
        if self._steps or is_asking or quiet.goes_on(loop, waits, self._others):
            self._looks = 0
            self._delay = min(2 * self._delay, _LATEST)
            self._look_in(self._delay)
            return
        self._looks += 1
        seconds = _SOONEST if self._looks < _LOOKS else self._go_on(loop)
        if seconds is not None:
            self._look_in(seconds)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> float | None:
        """Act where nothing goes on; returns the seconds until the next look."""
        timer = quiet.next_timer(loop)
        order = _order.current
        if self._untold:
            self.tell()
        elif order.is_replay and order.release():
            pass
        elif timer is not None and isinstance(loop, Loop) and self._given_up:
            loop.skip(timer)  # given up by an earlier attempt when the time had come
        elif order.is_replay:
            order.live()
            if isinstance(loop, Loop):
                loop.reach(0.0)
        elif order.release():
            pass
        elif timer is not None and isinstance(loop, Loop) and self._skips:
            loop.skip(timer)
        elif self._given_up and not self._live:
            waiting, call = next(iter(self._given_up.items()))
            msg = f"{_order.shown(call)} was given up by an earlier attempt, and is waited for by this one"
            waiting.set_exception(OrderChanged(msg))
        elif timer is None:
            suspend(None)
        elif (seconds := timer - loop.time()) > IN_PLACE:
            suspend(seconds)
        else:
            return max(seconds, 0.0) + _SOONEST
        return _SOONEST


def suspend(seconds: float | None) -> None:
    """Report to the supervisor that the run waits, at most so many seconds, and wait to be ended."""
    current = channel.current
    if current is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        timer = "" if seconds is None else f',"seconds":{min(seconds, _MOST):.6f}'
        current.close_with(b'{"kind":"suspended"%b}' % timer.encode())
        current.wait_for_end()


_MOST = 366 * 86_400.0

current = Suspension()
"""Of the attempt that this process makes."""
