"""Questions in: what a run would wait for, looked at before it waits."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from services.events import domain
from services.events.awaiting import plan, rows
from shared.asking import Questions
from shared.errors import Invalid, NotFound, Problem, TooMany
from shared.expressions.pool import Expressions, Trouble
from shared.expressions.syntax import column_of, equality_of, syntax_of
from shared.owners.rows import ResourceRows
from shared.questions.events import EventWaitPrepared, PrepareEventWait

_VARIABLE = "event"


class PreparingDeps(Protocol):
    """Dependencies of the answer."""

    engine: AsyncEngine
    expressions: Expressions
    resources: ResourceRows


async def prepare_wait(asked: PrepareEventWait, deps: PreparingDeps) -> EventWaitPrepared:
    """Return what a run can wait for. Raises `NotFound`, `Invalid`, `TooMany`, `Unavailable`."""
    source = await deps.resources.named("source", asked.org, asked.source)
    if source is None:
        raise NotFound(f"there is no source {asked.source!r}")
    domain.checked_pattern(asked.type)
    path = value = ""
    if asked.where is not None:
        path, value = await _demanded(asked, asked.where, deps)
    if not path and await rows.number_of_open(deps.engine, source.id, asked.type, plan.MOST_OPEN) >= plan.MOST_OPEN:
        raise TooMany(
            f"{plan.MOST_OPEN} runs wait for {asked.type} of {source.name} whatever is in it: an equality such as "
            "`event.data.id == invoice`, alone or joined with `&&`, lets any number wait"
        )
    return EventWaitPrepared(source=source.id, source_name=source.name, path=path, value=value)


async def _demanded(asked: PrepareEventWait, where: str, deps: PreparingDeps) -> tuple[str, str]:
    """Return the path and the value that an expression demands, both empty where it demands none. Raises `Invalid`."""
    try:
        await deps.expressions.check(asked.org, where)
    except Trouble as trouble:
        raise _misfit(f"this is no expression: {trouble}") from trouble
    if _VARIABLE in asked.values:
        raise _misfit("`event` is the event that is waited for: give that value another name")
    unknown = next((name for name in syntax_of(where).variables if name != _VARIABLE and name not in asked.values), None)
    if unknown is not None:
        place = f"column {column_of(where, unknown)}"
        raise _misfit(f"{place}: `{unknown}` is neither `event`, nor a field of the run's input, nor one of `values`")
    equality = equality_of(where, _VARIABLE)
    if equality is None:
        return "", ""
    try:
        value = plan.canonical(await deps.expressions.value(asked.org, equality.operand, asked.values))
    except Trouble as trouble:
        raise _misfit(f"`{equality.operand}` has no value: {trouble}") from trouble
    return ("", "") if value is None else (".".join(equality.path), value)


def _misfit(problem: str) -> Invalid:
    return Invalid(f"where: {problem}", errors=(Problem("where", problem),))


QUESTIONS: Questions = {PrepareEventWait: prepare_wait}
