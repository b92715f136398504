"""/api/v1/approvals: what runs ask people, and answers by who is signed in."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from services.gateway.api.access import Caller
from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, endpoint
from services.gateway.api.lists import Paged
from services.gateway.links import link_to
from services.gateway.parts import Gateway
from services.gateway.principals import ROLES, is_at_least
from shared.envelope import new_id, utc_now
from shared.errors import Conflict, Malformed, NotFound, PermissionDenied
from shared.questions.approvals import (
    AnswerApproval,
    ApprovalList,
    ApprovalView,
    GetApproval,
    ListApprovals,
    MadeLink,
    StatusOfApproval,
    link_until,
)
from shared.resources.declaration import Role
from shared.values import Key, Name, Words, moment_of, storable

LONGEST_AGENT = 300
# How an answerer is named who is meant personally: as audits name them.
NAMED = ("user:", "key:")
# Asked of nobody in particular: who may signal a run may answer.
ANYBODY: Role = "operator"


class ApprovalsQuery(Paged, frozen=True, kw_only=True):
    """Filters for a list of approvals."""

    status: StatusOfApproval | None = None
    to: Annotated[Name, msgspec.Meta(description="Those asked of this role, user or name.")] | None = None
    run: Annotated[Key, msgspec.Meta(description="Those of this run.")] | None = None


class ApprovalAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer; `data` is what the form is filled in with, which an approval of a question with one takes."""

    decision: Literal["approve", "refuse"]
    data: Any = None
    comment: Words = ""


class LinkBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For whom a link is: the name is on record with the answer."""

    name: Name


@endpoint("GET", "/api/v1/approvals", role="viewer", errors=(Malformed,))
async def list_approvals(call: Call[ApprovalsQuery, None]) -> ApprovalList:
    """List what runs have asked people, newest first."""
    query = call.query
    return await call.ask(ListApprovals(org=call.caller.org, status=query.status, to=query.to, run=query.run, page=query.page))


@endpoint("GET", "/api/v1/approvals/{id}", role="viewer", errors=(NotFound,), example=Example(status=404))
async def get_approval(call: Call[None, None]) -> ApprovalView:
    """Show one question, and its answer once there is one."""
    return await call.ask(GetApproval(org=call.caller.org, approval=call.path["id"]))


@endpoint(
    "POST",
    "/api/v1/approvals/{id}",
    role="viewer",
    answers={200: ApprovalView},
    errors=(NotFound, Conflict),
    body_limit=256 * 1024,
    audit=Audit("approval", "answer", "id"),
    example=Example(body={"decision": "approve"}, status=404),
)
async def answer_approval(call: Call[None, ApprovalAnswer]) -> ApprovalView:
    """Answer a question, once and for good: for those it asks, or operators where it asks nobody with a role or a login."""
    caller, body = call.caller, call.body
    found = await call.ask(GetApproval(org=caller.org, approval=call.path["id"]))
    call.note(run=found.run, decision=body.decision)
    check_asked(call.gateway, caller, found)
    command = AnswerApproval(
        id=new_id(),
        org=caller.org,
        actor=caller.actor,
        approval=found.id,
        approved=body.decision == "approve",
        data=body.data,
        comment=body.comment,
        via="key" if caller.session is None else "session",
        remote=caller.remote,
        user_agent=agent_of(call),
    )
    return await call.ask(command)


@endpoint(
    "POST",
    "/api/v1/approvals/{id}/links",
    role="developer",
    answers={201: MadeLink},
    errors=(NotFound, Conflict),
    audit=Audit("approval", "link", "id"),
    example=Example(body={"name": "ada@example.com"}, status=404),
)
async def make_approval_link(call: Call[None, LinkBody]) -> MadeLink:
    """Make a link by which somebody without an account answers, once. It is a secret, and shown here alone."""
    name, now = call.body.name, utc_now()
    call.note(name=name)
    found = await call.ask(GetApproval(org=call.caller.org, approval=call.path["id"]))
    until = link_until(found.until, now)
    if found.status != "open" or moment_of(until) <= now:
        raise Conflict(f"this takes no answer any more: it is {found.status}")
    return link_to(call.gateway, org=call.caller.org, approval=found.id, name=name, until=until)


def check_asked(gateway: Gateway, caller: Caller, found: ApprovalView) -> None:
    """Raise `PermissionDenied` where a question is asked of others."""
    principal = caller.principal
    role = None if principal is None else principal.role_in(caller.org)
    asked = [*found.to, *(found.escalate_to if found.escalated else ())]
    roles = [one for one in ROLES if one in asked]
    whose = None if principal is None or principal.is_user or principal.user is None else gateway.users.by_id(principal.user)
    if {caller.actor, f"user:{whose.name}" if whose is not None else ""}.intersection(asked):
        return
    least = roles[0] if roles else None if any(one.startswith(NAMED) for one in asked) else ANYBODY
    if role is None or least is None or not is_at_least(role, least):
        raise PermissionDenied(f"this is asked of {', '.join(asked) or ANYBODY}")


def agent_of(call: Call[Any, Any]) -> str:
    """Return what the program that asks calls itself."""
    return storable(call.request.headers.get("User-Agent", ""))[:LONGEST_AGENT]


ENDPOINTS: tuple[Endpoint, ...] = (list_approvals, get_approval, answer_approval, make_approval_link)
