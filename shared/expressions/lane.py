"""One worker process and its queue: started when it is needed, started again when it dies, ended when it is idle."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import time
from collections.abc import Callable

import msgspec
import structlog

from shared import tasks
from shared.errors import Unavailable
from shared.expressions.process import Died, Process, Task, WorkerAnswer, started
from shared.expressions.turns import Queue, Waiting

# One batch is evaluated while the next is on its way; where one may take long, the next task does not wait for two.
_IN_FLIGHT = 2
# A task that is sent again so often, because others had the process killed, is answered with `Unavailable`.
_TRIES = 8
_LONGEST_LINE = 20_000
_AGAIN = 1.0
_RETRY_AFTER = 2.0
_log = structlog.get_logger()


class Evaluation(msgspec.Struct):
    """One evaluation on its way, for the organization `org`."""

    org: str
    task: Task
    future: asyncio.Future[bytes]
    tries: int = 0


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a lane's process: CPU seconds a task, bytes, and its niceness; whether organizations share batches.

    A task of an organization that is not known yet is taken to need `guess` seconds. Where nothing comes back for `wall` seconds
    the process hangs, or is stopped, and is killed.

    The process ends after `idle` seconds without work; None: never.
    """

    name: str
    seconds: float
    memory: int
    nice: int
    is_mixed: bool
    guess: float
    wall: float
    idle: float | None


class Lane:
    """Has expressions evaluated by a process of its own.

    `on_answer` is called with each answer, `on_death` with the one by which the process died, and then `on_again` with each that
    went down with it; they settle them or have them asked again. `on_state` receives why there is no process, or None.
    """

    def __init__(
        self,
        speed: Speed,
        on_answer: Callable[[Evaluation, WorkerAnswer], None],
        on_death: Callable[[Evaluation, Died], None],
        on_again: Callable[[Evaluation], None],
        on_state: Callable[[str | None], None],
    ) -> None:
        self.speed = speed
        self.starts = 0
        self._on_answer = on_answer
        self._on_death = on_death
        self._on_again = on_again
        self._on_state = on_state
        self._queue: Queue[Evaluation] = Queue(is_mixed=speed.is_mixed, guess=speed.guess)
        self._process: Process | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._flying = 0
        self._may_fly = _IN_FLIGHT if speed.is_mixed else 1
        self._is_pumping = False
        self._is_closed = False
        self._not_before = 0.0
        self._idle: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Return the number of the process, where there is one."""
        return self._process.pid if self._process else None

    @property
    def walls(self) -> list[str]:
        """Return the walls of the process."""
        return self._process.walls if self._process else []

    def withdraw(self, org: str) -> list[Evaluation]:
        """Take back all that waits of an organization."""
        return self._queue.withdraw(org)

    def waiting(self, org: str) -> int:
        """Return how many of an organization wait."""
        return self._queue.of(org)

    def ask(self, asked: Evaluation, *, first: bool = False) -> None:
        """Have one evaluated in its turn; its future is settled by then."""
        asked.tries += 1
        if self._is_closed or asked.tries > _TRIES or len(self._queue) >= _LONGEST_LINE:
            refuse(asked, "expressions are not evaluated at the moment")
            return
        self._queue.offer(Waiting(asked.org, len(asked.task.variables) + len(asked.task.source), asked), first=first)
        if not self._is_pumping:
            # In the next turn of the loop, so that the tasks of this one share a batch.
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump, context=contextvars.Context())

    async def open(self) -> None:
        """Return when the process is there, or cannot be."""
        self._start()
        if self._starting is not None:
            await self._starting

    async def close(self) -> None:
        """End the process. Waiting tasks are refused."""
        self._is_closed = True
        if self._idle is not None:
            self._idle.cancel()
        if self._starting is not None:
            await tasks.end([self._starting])
        if self._process is not None:
            await self._process.end()
        await asyncio.gather(*self._ending)
        self._refuse_all("the service is stopping")

    def _pump(self) -> None:
        self._is_pumping = False
        while len(self._queue) and self._flying < self._may_fly:
            if self._process is None:
                self._start()
                return
            batch = [one.bearer for one in self._queue.take() if not one.bearer.future.done()]
            if not batch:
                continue
            self._flying += 1
            process = self._process
            overdue = asyncio.get_running_loop().call_later(self.speed.wall, process.kill)
            process.answers([one.task for one in batch]).add_done_callback(functools.partial(self._landed, batch, process, overdue))
        self._rest()

    def _landed(
        self, batch: list[Evaluation], process: Process, overdue: asyncio.TimerHandle, future: asyncio.Future[list[WorkerAnswer]]
    ) -> None:
        overdue.cancel()
        self._flying -= 1
        died = future.exception()
        if isinstance(died, Died):
            if self._process is process:
                self._process = None
                _log.info("expressions.worker_ended", lane=self.speed.name, code=died.code)
                if self.speed.idle is None:
                    self._start()
            culprit = batch[died.begun - 1] if died.begun else None
            if culprit is not None:
                self._queue.note(culprit.org, self.speed.seconds)
                self._on_death(culprit, died)
            for one in reversed(batch):
                if one is not culprit:
                    self._on_again(one)
        else:
            answers = future.result()
            for one, answer in zip(batch, answers, strict=False):
                self._queue.note(one.org, answer.seconds)
                self._on_answer(one, answer)
            for one in reversed(batch[len(answers) :]):
                one.tries -= 1
                self._on_again(one)
        self._pump()

    def _start(self) -> None:
        if self._starting is not None or self._process is not None or self._is_closed:
            return
        if time.monotonic() < self._not_before:
            self._refuse_all("expressions are not evaluated at the moment")
            return
        # The work here belongs to no single caller.
        self._starting = asyncio.get_running_loop().create_task(self._started(), context=contextvars.Context())

    async def _started(self) -> None:
        speed = self.speed
        try:
            process = await started(seconds=speed.seconds, memory=speed.memory, nice=speed.nice)
        except Unavailable as error:
            self._not_before = time.monotonic() + _AGAIN
            _log.error("expressions.not_started", lane=speed.name, reason=error.detail)
            self._on_state(error.detail)
            self._refuse_all(error.detail)
            return
        finally:
            self._starting = None
        self._process = process
        self.starts += 1
        self._on_state(None)
        process.ended.add_done_callback(functools.partial(self._lost, process))
        self._pump()

    def _lost(self, process: Process, _ended: asyncio.Future[int]) -> None:
        """Record the end of a process that had no task."""
        if self._process is process and not self._flying:
            self._process = None
            if self.speed.idle is None and not self._is_closed:
                self._start()

    def _rest(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.speed.idle is not None and self._process is not None and not self._flying and not len(self._queue):
            self._idle = asyncio.get_running_loop().call_later(self.speed.idle, self._let_go)

    def _let_go(self) -> None:
        if self._process is not None and not self._flying:
            ending = asyncio.get_running_loop().create_task(self._process.end())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            self._process = None

    def _refuse_all(self, reason: str) -> None:
        while len(self._queue):
            for one in self._queue.take():
                refuse(one.bearer, reason)


def refuse(asked: Evaluation, reason: str) -> None:
    """Settle with `Unavailable`: which is no verdict on the expression."""
    if not asked.future.done():
        asked.future.set_exception(Unavailable(reason, retry_after=_RETRY_AFTER))
