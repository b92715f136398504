"""The order of a run: which step or wait a call is, whether an earlier attempt has done it, and whether the way is still the same.

A call is known by its kind, its name, and how often that name was used before. Those that the workflow itself makes, not the tasks
and threads that it starts, are also counted in one order, which no later attempt may change.
"""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from millrace.errors import OrderChanged


@dataclass(frozen=True)
class Call:
    """One step or wait of the run. `is_recorded` says that an earlier attempt has done it for good."""

    kind: str
    name: str
    ordinal: int
    position: int | None
    is_recorded: bool


class Order:
    """The calls of one attempt. `recorded` is `[kind, name, ordinal, position]` for each call that is done."""

    def __init__(self, recorded: list[Any] | None = None) -> None:
        self._recorded = {(kind, name, ordinal): position for kind, name, ordinal, position in recorded or ()}
        self._at = {position: call for call, position in self._recorded.items() if position is not None}
        self._used: dict[tuple[str, str], itertools.count[int]] = {}
        self._positions = 0
        self.main: asyncio.Task[Any] | None = None
        """The task of the workflow; None for a plain function, which is its thread."""
        self._main_thread = threading.get_ident()

    def attend(self, main: "asyncio.Task[Any]") -> None:
        """Take this task for the workflow's own."""
        self.main = main

    def next(self, kind: str, name: str) -> Call:
        """Take the next place for a call. Raises `OrderChanged` where another call had that place, or this one another place."""
        ordinal = next(self._used.setdefault((kind, name), itertools.count()))
        call = (kind, name, ordinal)
        position = self._position()
        before = None if position is None else self._at.get(position)
        if before is not None and before != call:
            msg = f"{_shown(call)} is called where {_shown(before)} was in an earlier attempt"
            raise OrderChanged(msg)
        at = self._recorded.get(call)
        if position is not None and at is not None and at != position:
            msg = f"{_shown(call)} is number {position + 1} of the steps and waits of this attempt, and was number {at + 1} before"
            raise OrderChanged(msg)
        return Call(*call, position, call in self._recorded)

    def check_end(self) -> None:
        """Raise `OrderChanged` when an earlier attempt did more than this one, which has returned."""
        for position, call in self._at.items():
            if position >= self._positions:
                msg = f"{_shown(call)} of an earlier attempt was not called by this one"
                raise OrderChanged(msg)

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


def _shown(call: tuple[str, str, int]) -> str:
    kind, name, ordinal = call
    what = {"step": "step", "start": "the start of", "sleep": "the", "signal": "the wait for", "run": "the wait for run"}[kind]
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
