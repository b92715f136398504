"""SQL of approvals: rows beside those of their runs, for lists and reminders."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, RowMapping, Text, cast, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.executor.runs.run_state import RunState
from services.executor.tables import approval
from shared.questions.approvals import ListApprovals
from shared.statements import Compiled, Filtered, Statement, inserted, overwriting, parameter
from shared.tables import Moment

_NEWEST = (approval.c.opened_at, approval.c.approval)
_PAGE = Filtered(
    select(approval.c.id, approval.c.approval, approval.c.workflow, approval.c.opened_at, cast(approval.c.ask, Text).label("ask"))
    .where(approval.c.org == parameter("org"))
    .order_by(*(column.desc() for column in _NEWEST))
    .limit(parameter("limit", BigInteger)),
    status=approval.c.status == parameter("status"),
    to=func.strpos(approval.c.addressed, parameter("to", Text)) > 0,
    run=approval.c.id == parameter("run"),
    before=tuple_(*_NEWEST) < tuple_(parameter("before", Moment), parameter("before_id", Text)),
)
_PUT = Compiled(
    overwriting(inserted(approval, *approval.c.keys()), "status", "next_at", "addressed", "ask"),
)


def put(states: Iterable[RunState]) -> Statement:
    """Write the questions of runs; one statement for all of them."""
    return _PUT.of(
        {
            "id": state.id,
            "approval": ask.id,
            "org": state.org,
            "workflow": state.workflow,
            "status": ask.status,
            "opened_at": datetime.fromisoformat(ask.opened_at),
            "next_at": ask.next_at,
            # Each name stands between two ends of lines, which none holds.
            "addressed": "\n".join(["", *ask.question.to, *(ask.question.escalate_to if ask.escalated else ()), ""]),
            "ask": msgspec.json.encode(ask).decode().replace("\\u0000", "\\ufffd"),
        }
        for state in states
        for ask in state.asks
    )


async def page(engine: AsyncEngine, question: ListApprovals, limit: int) -> list[Any]:
    """Return rows, newest first."""
    moment, id_ = question.page.before() or (None, "")
    wanted = {
        "status": question.status,
        "to": None if question.to is None else f"\n{question.to}\n",
        "run": question.run,
        "before": moment,
    }
    return list(await _PAGE(wanted, org=question.org, limit=limit, before_id=id_).read(engine))


async def due(connection: AsyncConnection, now: datetime, limit: int) -> list[tuple[str, str]]:
    """Return questions, and their runs, of which people are to be told something by now."""
    wanted = select(approval.c.id, approval.c.approval).where(approval.c.next_at <= now).order_by(approval.c.next_at).limit(limit)
    rows: list[RowMapping] = list((await connection.execute(wanted)).mappings())
    return [(row["id"], row["approval"]) for row in rows]
