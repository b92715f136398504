"""Approvals: what runs ask people, the answers, and reminders of those that lack one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from services.executor.runs import approval_rows
from services.executor.runs.asked import OPEN, AskState, is_over
from services.executor.runs.claim import read_now, sound
from services.executor.runs.looks import Looks
from services.executor.runs.run_state import RunState
from services.executor.store import ExecutorStore
from shared import aggregate
from shared.asking import Questions
from shared.bus import Bus
from shared.db import transaction
from shared.envelope import Sealed, caused_id, derived_id, rfc3339, utc_now
from shared.errors import Conflict, Invalid, MillraceError, NotFound, Problem, TooLarge
from shared.messages import AskedQuestion, RunAnswered, RunReminded
from shared.questions import MOST_ITEMS, fitting
from shared.questions.approvals import (
    AnswerApproval,
    ApprovalList,
    ApprovalView,
    GetApproval,
    ListApprovals,
    MadeLink,
    MakeApprovalLink,
    link_until,
)
from shared.runs import ENDING
from shared.schemas import checker_of
from shared.values import YEAR, check, fitted

# Questions of one run, and bytes as JSON of one and of an answer: they are part of the run's state.
MOST, LARGEST_QUESTION, LARGEST_ANSWER = 50, 16 * 1024, 32 * 1024
LONGEST_PROMPT, ADDRESSEES = 4000, 20
# Seconds between two reminders, at least: each is an event, and people get used to what comes too often.
LEAST_REMIND = 1.0
# Rows per search for reminders that are due.
ROUND = 200
_SUFFIX = 12
_log = structlog.get_logger()


class ApprovalDeps(Protocol):
    """Dependencies of approvals."""

    bus: Bus
    engine: AsyncEngine
    looks: Looks
    store: ExecutorStore


def approval_id(run: str, name: str, ordinal: int) -> str:
    """Return the id of a question: that of its run, from which it is found, and what distinguishes it there."""
    which = hashlib.sha256(f"{ordinal}/{name}".encode()).hexdigest()
    return f"{run}-{which[:_SUFFIX]}"


def checked_question(document: msgspec.Raw) -> AskedQuestion:
    """Return a question that can be asked. Raises `Invalid`, `TooLarge`."""
    size = len(bytes(document))
    if size > LARGEST_QUESTION:
        raise TooLarge(f"the question has {size} bytes as JSON, its form included; at most {LARGEST_QUESTION} are asked")
    given = msgspec.json.decode(document)
    check(given, "question")
    asked = fitted(given, AskedQuestion)
    if not 0 < len(asked.prompt) <= LONGEST_PROMPT:
        raise _unfit("prompt", f"has 1 to {LONGEST_PROMPT} characters")
    for field in ("to", "escalate_to"):
        names = getattr(asked, field)
        if len(names) > ADDRESSEES or not all(0 < len(name) <= 200 and name.isprintable() for name in names):
            raise _unfit(field, f"has at most {ADDRESSEES} names of 1 to 200 printable characters")
    for field, least in (("remind", LEAST_REMIND), ("escalate", 0.0)):
        seconds = getattr(asked, field)
        if seconds is not None and not least <= seconds <= YEAR:
            raise _unfit(field, f"is a number of seconds from {least:g} to {YEAR:.0f}")
    if asked.form is not None:
        if asked.form.get("type") != "object":
            raise _unfit("form", "is the JSON Schema of an object")
        checker_of(msgspec.json.encode(asked.form), formats=True)
    return asked


def _unfit(field: str, what: str) -> Invalid:
    return Invalid(f"{field} of a question {what}", errors=(Problem(field, what),))


async def get_approval(question: GetApproval, deps: ApprovalDeps) -> ApprovalView:
    """Return one, as it is now."""
    return _view(*await _found(question.org, question.approval, deps))


async def list_approvals(question: ListApprovals, deps: ApprovalDeps) -> ApprovalList:
    """Return a page of them, newest first."""
    limit = question.page.within(MOST_ITEMS)
    rows = await approval_rows.page(deps.engine, question, limit + 1)
    items = fitting([_view_of_row(row) for row in rows[:limit]])
    last = rows[len(items) - 1] if items else None
    more = len(rows) > len(items)
    return ApprovalList(items, f"{rfc3339(last['opened_at'])}|{last['approval']}" if more and last is not None else None)


async def answer(command: AnswerApproval, deps: ApprovalDeps) -> ApprovalView:
    """Append the answer to the run's messages: of several at once exactly one, and none after the question's end."""
    size = len(msgspec.json.encode(command.data))
    if size > LARGEST_ANSWER:
        raise TooLarge(f"the answer has {size} bytes as JSON; at most {LARGEST_ANSWER} are kept")
    run = command.approval.rpartition("-")[0]
    async with deps.looks.alone(run):
        await _append(command, run, deps)
    return _view(*await _found(command.org, command.approval, deps))


async def _append(command: AnswerApproval, run: str, deps: ApprovalDeps) -> None:
    id_ = derived_id(command.id, "run.answered")

    async def read() -> tuple[tuple[RunState, AskState], int]:
        found = await _found(command.org, command.approval, deps)
        return found, found[0].last_seq

    async def answered(found: tuple[RunState, AskState]) -> Sealed[RunAnswered] | None:
        state, ask = found
        if ask.answer_id == id_:
            return None  # its acknowledgement was lost
        check_open(state, ask, utc_now())
        message = RunAnswered(
            run=run,
            approval=ask.id,
            name=ask.name,
            ordinal=ask.ordinal,
            approved=command.approved,
            answered_by=command.actor,
            via=command.via,
            data=_checked(ask, command),
            comment=command.comment,
            remote=command.remote,
            user_agent=command.user_agent,
            prompt=ask.question.prompt,
            to=ask.question.to,
            until=ask.until,
        )
        return deps.bus.seal(message, org=command.org, correlation=state.correlation_id, id=id_)

    await aggregate.advance(deps.bus, read, answered)


def check_open(state: RunState, ask: AskState, now: datetime) -> None:
    """Raise `Conflict` where a question takes no answer any more."""
    if ask.answer_id is not None:
        raise Conflict(f"this was answered already: {ask.status} by {ask.by} at {ask.at}")
    if ask.status == "timed_out" or is_over(ask, now):
        raise Conflict(f"the time for an answer was over at {ask.until}")
    if ask.status != OPEN or state.status in ENDING:
        raise Conflict("the run waits for no answer to this any more")


def _checked(ask: AskState, command: AnswerApproval) -> Any:
    """Return the data of an answer. Raises `Invalid` with a path for all that does not fit."""
    if not command.approved or ask.question.form is None:
        if command.data not in (None, {}):
            why = "a refusal takes a comment, and no form" if ask.question.form is not None else "this question has no form"
            raise Invalid(why, errors=(Problem("data", why),))
        return None
    problems = checker_of(msgspec.json.encode(ask.question.form), formats=True).problems(command.data, "data")
    if problems:
        raise Invalid(f"the answer does not fit the form: {problems[0].message}", errors=tuple(problems))
    return command.data


async def link_of(approval: str, name: str, org: str, deps: ApprovalDeps) -> MadeLink:
    """Have a link made for an open question. Raises `NotFound`, `Conflict`."""
    state, ask = await _found(org, approval, deps)
    now = utc_now()
    check_open(state, ask, now)
    return await deps.bus.ask(MakeApprovalLink(org=org, approval=ask.id, name=name, until=link_until(ask.until, now)))


async def remind(deps: ApprovalDeps, now: Callable[[], datetime] = utc_now) -> int:
    """Append reminders and escalations that are due; returns how many questions were looked at. Raises `Unavailable`."""
    async with transaction(deps.engine) as connection:
        due = await approval_rows.due(connection, now(), ROUND)
    for run, approval in due:
        try:
            while await _reminded(run, approval, deps, now()):
                pass
        except MillraceError as error:
            _log.warning("approval.not_reminded", run=run, approval=approval, reason=error.detail)
    return len(due)


async def _reminded(run: str, approval: str, deps: ApprovalDeps, now: datetime) -> bool:
    """Append what is due first of one question; returns whether anything was."""

    async def read() -> tuple[RunState | None, int]:
        found = await read_now(deps.bus, deps.store, run)
        return sound(found), found.last_seq

    async def due(state: RunState | None) -> Sealed[RunReminded] | None:
        ask = None if state is None else next((one for one in state.asks if one.id == approval), None)
        message = None if state is None or ask is None or state.status in ENDING else due_of(ask, run, now)
        if state is None or message is None:
            return None
        id_ = caused_id(state.id, message, f"{approval}/{message.number}/{message.escalated}")
        return deps.bus.seal(message, org=state.org, correlation=state.correlation_id, id=id_)

    return await aggregate.advance(deps.bus, read, due) is not None


def due_of(ask: AskState, run: str, now: datetime) -> RunReminded | None:
    """Return what people are to be told by now of a question without an answer: of reminders that are late only the last."""
    at = ask.next_at
    if at is None or at > now or is_over(ask, now):
        return None
    asked, since = ask.question, (now - datetime.fromisoformat(ask.opened_at)).total_seconds()
    told: dict[str, Any] = {"run": run, "approval": ask.id, "prompt": asked.prompt, "until": ask.until}
    if asked.escalate is not None and not ask.escalated and since >= asked.escalate:
        return RunReminded(**told, to=asked.escalate_to or asked.to, number=ask.reminders, escalated=True)
    if asked.remind is None:
        return None
    return RunReminded(**told, to=addressed(ask), number=int(since // asked.remind))


def addressed(ask: AskState) -> list[str]:
    """Return those who are asked by now."""
    asked = ask.question
    return list(dict.fromkeys([*asked.to, *(asked.escalate_to if ask.escalated else ())]))


async def _found(org: str, approval: str, deps: ApprovalDeps) -> tuple[RunState, AskState]:
    state = await deps.looks.state(approval.rpartition("-")[0])
    ask = None if state is None else next((one for one in state.asks if one.id == approval), None)
    if state is None or ask is None or state.org != org:
        raise NotFound(f"there is no approval {approval!r}")
    return state, ask


def _view(state: RunState, ask: AskState) -> ApprovalView:
    return view_of(ask, state.id, state.workflow)


def view_of(ask: AskState, run: str, workflow: str) -> ApprovalView:
    """Return a question as the API shows it."""
    return ApprovalView(
        id=ask.id,
        run=run,
        workflow=workflow,
        name=ask.name,
        prompt=ask.question.prompt,
        form=ask.question.form,
        to=ask.question.to,
        escalate_to=ask.question.escalate_to,
        status=ask.status,
        opened_at=ask.opened_at,
        until=ask.until,
        reminders=ask.reminders,
        escalated=ask.escalated,
        data=ask.data,
        comment=ask.comment,
        answered_by=ask.by,
        via=ask.via,
        answered_at=ask.at,
        remote=ask.remote,
        user_agent=ask.user_agent,
    )


def _view_of_row(row: Any) -> ApprovalView:
    return view_of(msgspec.json.decode(row["ask"], type=AskState), row["id"], row["workflow"])


QUESTIONS: Questions = {GetApproval: get_approval, ListApprovals: list_approvals, AnswerApproval: answer}
