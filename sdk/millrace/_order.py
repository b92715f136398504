"""The order of a run: which step or wait a call is, whether an earlier attempt has done it, and whether the way is still the same.

A call is known by its kind, its name, and how often that name was used before. Those that the workflow itself makes, not the tasks
and threads that it starts, are also counted in one order, which no later attempt may change. Recorded results are answered in the
order in which they were recorded, so that tasks beside each other meet them as they did before.
"""

import asyncio
import itertools
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from millrace._runtime import quiet
from millrace.errors import OrderChanged

DONE, GIVEN_UP, SINCE = 0, 1, 2
"""Ends of a recorded call: up to the last attempt that ended in good order; as a wait that was given up; or since then."""

Key = tuple[str, str, int]
_IN_A_STEP, _SCOPES = 64, 2**25 - 2
"""Calls of one name within a step have numbers of their own, as different steps have: those of all are below 2**31."""
_MOST_TURNS = 1000
"""Turns of the loop after which a task that never rests is not waited for."""


@dataclass(frozen=True)
class Call:
    """One step or wait of the run. `is_recorded`: an earlier attempt has done it for good, `ago` seconds ago."""

    kind: str
    name: str
    ordinal: int
    position: int | None
    is_recorded: bool
    ago: float = 0.0
    is_given_up: bool = False

    @property
    def key(self) -> Key:
        """The key that the call is known by."""
        return self.kind, self.name, self.ordinal


inside: ContextVar[Call | None] = ContextVar("inside", default=None)
"""The step that is being done."""


class Order:
    """The calls of one attempt.

    `recorded` is `[kind, name, ordinal, position, ago, how]` for each call that is done, in the order in which they were; `waiting`
    is `[kind, name, ordinal]` for each wait with which the last attempt ended.
    """

    def __init__(self, recorded: Iterable[Any] = (), waiting: Iterable[Any] = ()) -> None:
        entries = [tuple(entry) for entry in recorded]
        self._recorded: dict[Key, tuple[int | None, float, int]] = {entry[:3]: entry[3:] for entry in entries}
        self._at = {position: call for call, (position, _, _) in self._recorded.items() if position is not None}
        self._used: dict[tuple[str, str, Key | None], itertools.count[int]] = {}
        self._positions = 0
        self._history = [*(call for call, (_, _, how) in self._recorded.items() if how != SINCE)]
        self._since = len(self._history)
        self._history += [call for call, (_, _, how) in self._recorded.items() if how == SINCE]
        self._next = 0
        self._done: set[Key] = set()
        waited = {tuple(entry) for entry in waiting}
        self._again: set[Key] = {*self._history[: self._since], *waited}
        self._has_waited = bool(waited)
        self.is_replay = bool(self._again)
        """Whether this attempt still repeats calls of an earlier one."""
        self._late: list[asyncio.Future[None]] = []
        self._held: dict[Key, asyncio.Future[None]] = {}
        self.lives: Callable[[], None] | None = None
        """Called once all work of earlier attempts has been repeated: until then its lines are there already."""
        self.main: asyncio.Task[Any] | None = None
        """The task of the workflow; None for a plain function, which is its thread."""
        self._main_thread = threading.get_ident()

    @property
    def held(self) -> "list[asyncio.Future[None]]":
        """The calls that wait for their turn."""
        return [*self._held.values(), *self._late]

    def attend(self, main: "asyncio.Task[Any]") -> None:
        """Take this task for the workflow's own."""
        self.main = main

    def next(self, kind: str, name: str) -> Call:
        """Take the next place for a call. Raises `OrderChanged` where another call had that place, or this one another place.

        Calls from within a step have places of that step: they are not made again once it is done.
        """
        within = inside.get()
        ordinal = next(self._used.setdefault((kind, name, None if within is None else within.key), itertools.count()))
        if within is not None:
            ordinal += (zlib.crc32(f"{within.name}\0{within.ordinal}".encode()) % _SCOPES + 1) * _IN_A_STEP
        call = (kind, name, ordinal)
        position = None if within is not None else self._position()
        before = None if position is None else self._at.get(position)
        if before is not None and before != call:
            msg = f"{_shown(call)} is called where {_shown(before)} was in an earlier attempt"
            raise OrderChanged(msg)
        at, ago, how = self._recorded.get(call, (None, 0.0, None))
        if position is not None and at is not None and at != position:
            msg = f"{_shown(call)} is number {position + 1} of the steps and waits of this attempt, and was number {at + 1} before"
            raise OrderChanged(msg)
        if how is None or how == SINCE:
            self._reach(call)
        return Call(*call, position, how is not None, ago, how == GIVEN_UP)

    def hold(self, call: Call) -> "asyncio.Future[None]":
        """Return a future, done once everything recorded before a call has been answered and its consequences have run."""
        held = self._held[call.key] = asyncio.get_running_loop().create_future()
        held.add_done_callback(lambda _: self._held.pop(call.key, None))
        if self._is_due(call.key):
            _set(held)
        return held

    def done(self, call: Call) -> None:
        """Record that a recorded call is answered, or given up again: it is the next one's turn."""
        self._done.add(call.key)
        while self._next < len(self._history) and self._history[self._next] in self._done:
            self._next += 1
        self._reach(call.key)
        self._turn_to_next()

    def hold_back(self) -> "asyncio.Future[None]":
        """Return a future, done once the work of earlier attempts has been repeated: for calls that they have not met."""
        late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._late.append(late)
        return late

    def release(self) -> bool:
        """Answer calls that wait for a turn that has not come: nothing else goes on that would bring it."""
        known = self._history[: self._since] if self.is_replay else self._history
        waiting = next((call for call in known if call in self._held), None)
        if waiting is not None:
            _set(self._held[waiting])
        return waiting is not None

    def live(self) -> None:
        """Record that this attempt goes beyond all earlier ones from now on."""
        if self.is_replay:
            self.is_replay = False
            if self.lives is not None:
                self.lives()
            late, self._late = self._late, []
            for one in late:
                _set(one)
            self._turn_to_next()

    def check_end(self) -> None:
        """Raise `OrderChanged` when an earlier attempt did more than this one, which has returned."""
        for position, call in self._at.items():
            if position >= self._positions:
                msg = f"{_shown(call)} of an earlier attempt was not called by this one"
                raise OrderChanged(msg)

    def _is_due(self, call: Key) -> bool:
        if self._next >= len(self._history) or self._history[self._next] != call:
            return False
        return self._next < self._since or not self.is_replay

    def _turn_to_next(self) -> None:
        if self._next < len(self._history):
            call = self._history[self._next]
            if call in self._held and self._is_due(call):
                _set(self._held[call])

    def _reach(self, call: Key) -> None:
        self._again.discard(call)
        # Tasks that a coroutine had may go on for a while after its end: a later look reports when none does.
        if not self._again and not (self._has_waited and self.main is not None):
            self.live()

    def _position(self) -> int | None:
        if self.main is not None:
            try:
                is_main = asyncio.current_task() is self.main
            except RuntimeError:  # a thread without an event loop
                is_main = False
        else:
            is_main = threading.get_ident() == self._main_thread
        if not is_main:
            return None
        self._positions += 1
        return self._positions - 1


def shown(call: Call) -> str:
    """Name a call as its author would."""
    return _shown(call.key)


def _set(waiting: "asyncio.Future[None]") -> None:
    # Threadsafe: it may have waited for a step in a thread.
    waiting.get_loop().call_soon_threadsafe(_end, waiting, _MOST_TURNS)


def _end(waiting: "asyncio.Future[None]", turns: int) -> None:
    """End it once the loop has nothing else to do: a wait for the first of two must not find both done."""
    loop = waiting.get_loop()
    if turns and quiet.has_more(loop):
        loop.call_soon(_end, waiting, turns - 1)
    elif not waiting.done():
        waiting.set_result(None)


def _shown(call: Key) -> str:
    kind, name, ordinal = call
    what = {
        "step": "step",
        "start": "the start of",
        "sleep": "the",
        "signal": "the wait for",
        "ask": "the question",
        "run": "the wait for run",
        "event": "the wait for",
    }[kind]
    again = f" (number {ordinal + 1})" if ordinal else ""
    return f"{what} {name!r}{again}"


current = Order()
"""The order of the run that this process serves."""


@contextmanager
def begun(order: Order) -> Iterator[Order]:
    """Have calls inside the block take their places in `order`, as in a process of its own."""
    global current  # noqa: PLW0603 - there is one order in a process
    before, current = current, order
    try:
        yield order
    finally:
        current = before
