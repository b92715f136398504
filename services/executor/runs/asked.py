"""The questions to people that a run has asked, folded from its messages. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from shared.envelope import Envelope, rfc3339
from shared.messages import (
    AskedQuestion,
    Message,
    RunAnswered,
    RunAsked,
    RunReminded,
    RunResumed,
    RunStepCompleted,
)
from shared.values import later, moment_of

OPEN = "open"


class AskState(msgspec.Struct, frozen=True, kw_only=True):
    """A question of a run. `status`: `open`, `approved`, `refused`, `timed_out`, or `withdrawn` by the run or its end.

    `reminders` counts those that went out; `answer_id` is the id of the message that answered it. Times are RFC 3339.
    """

    id: str
    name: str
    ordinal: int
    question: AskedQuestion
    opened_at: str
    until: str | None = None
    status: str = OPEN
    reminders: int = 0
    escalated: bool = False
    answer_id: str | None = None
    data: Any = None
    comment: str = ""
    by: str | None = None
    via: str | None = None
    at: str | None = None
    remote: str | None = None
    user_agent: str = ""

    @property
    def next_at(self) -> datetime | None:
        """Return when people are to be reminded, or others are to be asked as well; None: never."""
        if self.status != OPEN:
            return None
        opened = datetime.fromisoformat(self.opened_at)
        asked = self.question
        times = [] if asked.remind is None else [later(opened, asked.remind * (self.reminders + 1))]
        if asked.escalate is not None and not self.escalated:
            times.append(later(opened, asked.escalate))
        return min(times, default=None)

    @property
    def result(self) -> dict[str, Any]:
        """Return the answer as the workflow gets it."""
        told = {name: getattr(self, name) for name in ("data", "comment", "by", "via", "at", "remote")}
        return {"id": self.id, "approved": self.status == "approved"} | told


def of_wait(asks: Iterable[AskState], name: str, ordinal: int) -> AskState | None:
    """Return the question that a wait is for, None where it was not asked yet."""
    return next((one for one in asks if (one.name, one.ordinal) == (name, ordinal)), None)


def is_over(ask: AskState, now: datetime) -> bool:
    """Return whether the time for an answer is over."""
    return ask.until is not None and moment_of(ask.until) <= now


def after(asks: list[AskState], envelope: Envelope, message: Message) -> list[AskState]:
    """Return the questions after one more message of their run, which has not ended."""
    at = rfc3339(envelope.time)
    match message:
        case RunAsked() if of_wait(asks, message.name, message.ordinal) is None:
            made = AskState(
                id=message.approval,
                name=message.name,
                ordinal=message.ordinal,
                question=message.question,
                opened_at=at,
                until=_time(message.until),
            )
            return [*asks, made]
        case RunReminded():
            told: dict[str, Any] = {"escalated": True} if message.escalated else {"reminders": message.number}
            return _changed(asks, lambda one: one.id == message.approval, **told)
        case RunAnswered():
            return _changed(
                asks,
                lambda one: one.id == message.approval,
                status="approved" if message.approved else "refused",
                answer_id=envelope.id,
                data=message.data,
                comment=message.comment,
                by=message.answered_by,
                via=message.via,
                at=at,
                remote=message.remote,
                user_agent=message.user_agent,
            )
        case RunResumed():
            over = {(one.name, one.ordinal) for one in message.resolved if one.kind == "ask"}
            return _changed(asks, lambda one: (one.name, one.ordinal) in over, status="timed_out") if over else asks
        case RunStepCompleted() if message.kind == "ask":
            status = "withdrawn" if message.given_up else "timed_out"
            return _changed(asks, lambda one: (one.name, one.ordinal) == (message.name, message.ordinal), status=status)
    return asks


def ended(asks: list[AskState]) -> list[AskState]:
    """Return the questions of a run that has ended: nobody waits for an answer any more."""
    return _changed(asks, lambda _: True, status="withdrawn")


def erased(asks: list[AskState]) -> list[AskState]:
    """Return the questions without what they ask, and what was answered."""
    question = AskedQuestion(prompt="erased")
    nothing: dict[str, Any] = {"data": None, "comment": "", "remote": None, "user_agent": ""}
    return [msgspec.structs.replace(one, question=question, **nothing) for one in asks]


def _changed(asks: list[AskState], which: Any, **fields: Any) -> list[AskState]:
    """Return the questions, those of them with other fields that are open and meant: an answer stays as it is."""
    return [msgspec.structs.replace(one, **fields) if one.status == OPEN and which(one) else one for one in asks]


def _time(text: str | None) -> str | None:
    """Return a valid time, None where it is none: such a question has no end of its own."""
    try:
        return None if text is None else rfc3339(moment_of(text))
    except (ValueError, OverflowError):
        return None
