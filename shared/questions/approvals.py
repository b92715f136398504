"""Questions and commands about what runs ask people."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from shared.envelope import rfc3339
from shared.questions.declaration import Command, Page, Question, command, question
from shared.values import Instant, Key, Name, Words, later, moment_of

StatusOfApproval = Literal["open", "approved", "refused", "timed_out", "withdrawn"]
UserAgent = Annotated[str, msgspec.Meta(max_length=300)]


class ApprovalView(msgspec.Struct, frozen=True, kw_only=True):
    """A question of a run to people. Times are RFC 3339; `until` is when the time for an answer is over.

    `form` is the JSON Schema of the object that an approval comes with, `to` names those who are asked, `escalate_to` those who are
    asked as well once it has `escalated`. The answer, once there is one: `data`, a `comment`, `answered_by` whom, `via` a `link`, a
    `session` or a `key`, `answered_at`, from the address `remote` with a program that calls itself `user_agent`.
    """

    id: str
    run: str
    workflow: str
    name: str
    prompt: str
    form: dict[str, Any] | None
    to: list[str]
    escalate_to: list[str]
    status: str
    opened_at: str
    until: str | None
    reminders: int
    escalated: bool
    data: Any
    comment: str
    answered_by: str | None
    via: str | None
    answered_at: str | None
    remote: str | None
    user_agent: str


class ApprovalList(msgspec.Struct, frozen=True):
    """A page of them, newest first."""

    items: list[ApprovalView]
    next_cursor: str | None


class MadeLink(msgspec.Struct, frozen=True):
    """A secret link by which one person answers, once; until `ends_at`."""

    url: str
    ends_at: str

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "MadeLink(...)"


@question("executor.approval", by="gateway")
class GetApproval(Question[ApprovalView], frozen=True, kw_only=True):
    """One question of a run, as it is now. Raises NotFound."""

    approval: Key


@question("executor.approvals", by="gateway")
class ListApprovals(Question[ApprovalList], frozen=True, kw_only=True):
    """The questions of an organization's runs, newest first; `to`: those that are asked of this role or name, `run`: those of one.

    Raises Malformed for a foreign cursor.
    """

    status: StatusOfApproval | None = None
    to: Name | None = None
    run: Key | None = None
    page: Page = Page()


@command("executor.answer", by="gateway")
class AnswerApproval(Command[ApprovalView], frozen=True, kw_only=True):
    """Answer a question for good. Raises NotFound, Conflict where it has an answer or an end, Invalid where `data` does not fit."""

    approval: Key
    approved: bool
    data: Any = None
    comment: Words = ""
    via: Name
    remote: Name | None = None
    user_agent: UserAgent = ""


# Seconds for which a link is of use, where the question has no end before.
LINK = 7 * 86_400.0


def link_until(until: str | None, now: datetime) -> str:
    """Return until when a link that is made now is of use, to a question that is open until then."""
    latest = later(now, LINK)
    return rfc3339(latest if until is None else min(latest, moment_of(until)))


@question("gateway.approval_link", by="executor")
class MakeApprovalLink(Question[MadeLink], frozen=True, kw_only=True):
    """A link by which somebody of that name answers a question, until a time."""

    approval: Key
    name: Name
    until: Instant
