"""`locks`: one at a time among all runs of the organization, wherever they run.

In a workflow:

    from millrace import locks, workflow

    @workflow
    def charge(customer: str) -> int:
        with locks.hold(f"customer-{customer}", timeout=30) as fence:
            return fence
"""

import asyncio
import itertools
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

from millrace import _bounds
from millrace._runtime import channel
from millrace.errors import LockTimeout, NotInRun, Refused

_LONGEST = 3600.0
_numbers = itertools.count()


class Hold:
    """A lock that is held within a `with` or an `async with` block, which is given its fence."""

    def __init__(self, name: str, timeout: float) -> None:
        self._name = name
        self._timeout = timeout
        self._number: int | None = None

    def __enter__(self) -> int:
        answer = self._asked()
        try:
            return _fence(answer.result())
        except BaseException as error:
            raise self._given_up(error) from None

    def __exit__(self, *_error: object) -> None:
        self._free()

    async def __aenter__(self) -> int:
        answer = self._asked()
        try:
            return _fence(await asyncio.wrap_future(answer))
        except BaseException as error:
            raise self._given_up(error) from None

    async def __aexit__(self, *_error: object) -> None:
        self._free()

    def _asked(self) -> "Future[Any]":
        if self._number is not None:
            msg = f"this holding of the lock {self._name!r} was used already: call locks.hold again"
            raise RuntimeError(msg)
        self._number = next(_numbers)
        return channel.asking("locks", "lock_hold", number=self._number, name=self._name, wait=self._timeout)

    def _given_up(self, error: BaseException) -> BaseException:
        """Answer the error to raise, having let go of a lock that may still come."""
        if isinstance(error, Refused):
            return LockTimeout(str(error)) if error.kind == "Conflict" else error
        self._free()
        return error

    def _free(self) -> None:
        # Not waited for: the supervisor frees it when it has read this, and at the latest when the attempt ends.
        try:
            channel.asking("locks", "lock_free", number=self._number)
        except NotInRun:
            return


class Locks:
    """Locks by name, 1 to 200 characters, among the runs of the organization."""

    def hold(self, name: str, timeout: float | timedelta = 30.0) -> Hold:
        """Hold a lock for a `with` block, or an `async with` block, waiting for it up to `timeout` seconds, at most an hour.

        The block is given the fence: a number higher than that of every holder before, by which a store can refuse whoever was
        late. The platform renews the lock while the attempt lives, and frees it when the attempt ends, however it does, and when
        the run waits for something. Where the lock is lost all the same the attempt is ended at once, as `LockLost`. A run that
        waits for it has a worker meanwhile; runs that wait long, or many, rather share a concurrency key.

        Raises `LockTimeout` where it is not free in time, `Refused`, and `NotInRun` outside a run. A lock cannot be held twice by
        the same run: the second one waits for the first.
        """
        wait = _bounds.seconds(timeout, "timeout")
        if wait > _LONGEST:
            msg = f"timeout is at most an hour ({_LONGEST:.0f} s), not {wait:g}"
            raise ValueError(msg)
        return Hold(_bounds.text(name, "a lock's name"), wait)


def _fence(answer: dict[str, Any]) -> int:
    fence: int = answer["fence"]
    return fence


locks = Locks()
