"""Expressions as a service meets them: checked when they are declared, evaluated in confined processes, refused when they did harm.

Two processes do the work. The quick one has a few milliseconds for an evaluation, of all organizations. An organization that took
more, large evaluations, and checks go to the other one, which has more time, less of the processor, and one organization in a
batch. A failure there is reported of the one expression that caused it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog

from shared.expressions.lane import Evaluation, Lane, Speed, refuse
from shared.expressions.process import Died, Task, WorkerAnswer
from shared.expressions.syntax import found, placed, pruned, syntax_of
from shared.expressions.worker import CHECK, EVALUATE
from shared.health import Health

QUICK = Speed(name="quick", seconds=0.01, memory=128 << 20, nice=0, is_mixed=True, wall=5.0, guess=50e-6, idle=None)
SLOW = Speed(name="slow", seconds=1.0, memory=256 << 20, nice=5, is_mixed=False, wall=30.0, guess=0.005, idle=60.0)
LARGEST = 2 << 20
"""Bytes of JSON of an expression's input."""
# Larger ones take milliseconds to be handed over.
_LARGE = 32 * 1024
# An organization that takes longer than this for one evaluation is in the slow lane for a while; one that ends the process, longer.
_LONG = 0.004
_SLOW_FOR, _SUSPECT_FOR = 60.0, 600.0
# An expression that ended its process is refused for so long, twice as long each time.
_REFUSED_FOR, _REFUSED_MOST = 10.0, 600.0
# Deaths that others could have caused as well, after which they are the expression's.
_STRANGE_DEATHS = 3
# Of one organization in the slow lane: fewer than a consumer handles at a time, so that others' messages are.
MOST_SLOW = 32
_REMEMBERED = 10_000
_log = structlog.get_logger()


class Trouble(Exception):
    """The expression has no value: it is none, does not fit its variables, or would have taken too much. Names which."""


class _Harm(msgspec.Struct):
    """The harm that an expression of an organization has done, and until when (monotonic) it is refused."""

    deaths: int = 0
    strange: int = 0
    until: float = 0.0
    reason: str = ""


class Expressions:
    """Evaluates, from `open` to `close`."""

    def __init__(self, health: Health, *, quick: Speed = QUICK, slow: Speed = SLOW) -> None:
        self._health = health
        self._quick = Lane(quick, self._answered, self._died_quickly, self._again, functools.partial(self._is, quick.name))
        self._slow = Lane(slow, self._answered, self._died, self._slow_again, functools.partial(self._is, slow.name))
        self._problems: dict[str, str | None] = {}
        self._apart: dict[str, float] = {}
        self._harm: OrderedDict[tuple[str, str], _Harm] = OrderedDict()
        self._evaluated = 0
        self._refused = 0

    async def open(self) -> None:
        """Have the quick process started."""
        self._health.state("expressions", self.state, counters=("evaluated", "refused", "starts"))
        await self._quick.open()

    async def close(self) -> None:
        """End both processes."""
        await asyncio.gather(self._quick.close(), self._slow.close())

    def state(self) -> dict[str, Any]:
        """Return figures for health: how many were evaluated and refused, how often a process was started, and their walls."""
        return {
            "evaluated": self._evaluated,
            "refused": self._refused,
            "starts": self._quick.starts + self._slow.starts,
            "walls": self._quick.walls,
            "pids": [pid for pid in (self._quick.pid, self._slow.pid) if pid is not None],
        }

    async def check(self, org: str, source: str) -> None:
        """Return when this is an expression, of a size that is evaluated. Raises `Trouble` with the place, `Unavailable`."""
        problem = syntax_of(source).problem
        if problem is not None:
            raise Trouble(problem)
        asked = self._asked(org, CHECK, source, b"{}")
        self._refuse_harmful(asked)
        if not asked.future.done():
            self._slow.ask(asked)
        try:
            await asked.future
        except Trouble as trouble:
            raise Trouble(placed(str(trouble))) from None

    async def value(self, org: str, source: str, variables: dict[str, Any]) -> Any:
        """Return the values of an organization's expressions, as JSON values. Raises `Trouble`, `Unavailable`."""
        syntax = syntax_of(source)
        if syntax.problem is not None:
            raise Trouble(syntax.problem)
        if syntax.plain is not None:
            is_found, value = found(variables, syntax.plain)
            if is_found:
                return value
        return json.loads(await self._evaluate(org, source, pruned(variables, syntax.sees)))

    def _evaluate(self, org: str, source: str, variables: dict[str, Any]) -> asyncio.Future[bytes]:
        try:
            encoded = msgspec.json.encode(variables)
        except (ValueError, TypeError, RecursionError) as error:
            raise Trouble(f"what it looks at is no JSON: {error}") from error
        if len(encoded) > LARGEST:
            raise Trouble(f"what it looks at is larger than {LARGEST >> 20} MiB")
        asked = self._asked(org, EVALUATE, source, encoded)
        self._refuse_harmful(asked)
        if asked.future.done():
            return asked.future
        if not self._is_apart(org) and len(encoded) <= _LARGE:
            self._quick.ask(asked)
        elif self._slow.waiting(org) < MOST_SLOW:
            self._slow.ask(asked)
        else:
            refuse(asked, f"{MOST_SLOW} evaluations of this organization, which take their time, wait already")
        return asked.future

    @staticmethod
    def _asked(org: str, kind: int, source: str, variables: bytes) -> Evaluation:
        return Evaluation(org, Task(kind, source, variables), asyncio.get_running_loop().create_future())

    def _answered(self, asked: Evaluation, answer: WorkerAnswer) -> None:
        self._evaluated += 1
        if answer.seconds > _LONG and asked.task.kind == EVALUATE:
            self._set_apart(asked.org, _SLOW_FOR)
        if self._harm:
            self._harm.pop((asked.org, asked.task.source), None)
        if asked.future.done():
            return
        if answer.is_value:
            asked.future.set_result(answer.payload)
        else:
            asked.future.set_exception(Trouble(answer.payload.decode(errors="replace")))

    def _died_quickly(self, asked: Evaluation, died: Died) -> None:
        if died.by_its_task:
            self._set_apart(asked.org, _SUSPECT_FOR)
        for one in [asked, *(self._quick.withdraw(asked.org) if died.by_its_task else [])]:
            one.tries = 0
            self._slow.ask(one)

    def _again(self, asked: Evaluation) -> None:
        if self._is_apart(asked.org):
            self._slow.ask(asked)
        else:
            self._quick.ask(asked, first=True)

    def _slow_again(self, asked: Evaluation) -> None:
        self._refuse_harmful(asked)
        if not asked.future.done():
            self._slow.ask(asked, first=True)

    def _died(self, asked: Evaluation, died: Died) -> None:
        harm = self._harm.setdefault((asked.org, asked.task.source), _Harm())
        self._harm.move_to_end((asked.org, asked.task.source))
        if len(self._harm) > _REMEMBERED:
            self._harm.popitem(last=False)
        if not died.by_its_task:
            harm.strange += 1
            if harm.strange < _STRANGE_DEATHS:
                refuse(asked, "the process that evaluates expressions was ended")
                return
        harm.deaths += 1
        harm.reason = died.told(self._slow.speed.seconds)
        harm.until = time.monotonic() + min(_REFUSED_FOR * 2 ** (harm.deaths - 1), _REFUSED_MOST)
        _log.warning("expressions.harmful", org=asked.org, source=asked.task.source[:200], reason=harm.reason, deaths=harm.deaths)
        for one in [asked, *self._slow.withdraw(asked.org)]:
            self._refuse_harmful(one)
            if not one.future.done():
                one.tries -= 1
                self._slow.ask(one)

    def _refuse_harmful(self, asked: Evaluation) -> None:
        harm = self._harm.get((asked.org, asked.task.source)) if self._harm else None
        if harm is None or harm.until <= time.monotonic() or asked.future.done():
            return
        self._refused += 1
        asked.future.set_exception(Trouble(harm.reason))

    def _is_apart(self, org: str) -> bool:
        return bool(self._apart) and self._apart.get(org, 0.0) > time.monotonic()

    def _set_apart(self, org: str, seconds: float) -> None:
        now = time.monotonic()
        self._apart[org] = max(self._apart.get(org, 0.0), now + seconds)
        if len(self._apart) > _REMEMBERED:
            self._apart = {name: until for name, until in self._apart.items() if until > now}

    def _is(self, lane: str, problem: str | None) -> None:
        self._problems[lane] = problem
        self._health.report("expressions", next(filter(None, self._problems.values()), None))


@asynccontextmanager
async def evaluating(health: Health) -> AsyncIterator[Expressions]:
    """Evaluate expressions for the block."""
    expressions = Expressions(health)
    await expressions.open()
    try:
        yield expressions
    finally:
        await expressions.close()
