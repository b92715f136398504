"""/approve: the page where a person answers what a run asks, by a link or signed in. It has no script."""

from __future__ import annotations

import time
from html import escape
from typing import Annotated, Any
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from services.gateway.api.access import Caller, address, check_form, cookie_of, denied, remote
from services.gateway.api.approvals import agent_of, check_asked
from services.gateway.api.endpoint import Call, Endpoint, Example, Reply, Streamed, endpoint
from services.gateway.api.pages import HEADERS, person_page, readable, refused_page, when
from services.gateway.domain import org_of
from services.gateway.form_fields import complaints, fields_of, filled, shown
from services.gateway.links import PAGE, opened
from services.gateway.sessions import csrf_of
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, MillraceError, NotFound, PermissionDenied, Problem, TooMany, Unauthenticated
from shared.http import body_of
from shared.messages import Audited
from shared.organizations import PLATFORM
from shared.questions.approvals import AnswerApproval, ApprovalView, GetApproval
from shared.resources.declaration import about
from shared.values import Opaque, Words, check, storable

LIMIT = 256 * 1024
# Neither the address, which holds the link, nor what stands here is kept, or told to anybody else. With `no-referrer` a browser
# would send `Origin: null` with the form (Fetch, 3.2), which says nothing of whose page it is.
_STRICT = {
    "Content-Security-Policy": HEADERS["Content-Security-Policy"] + "; form-action 'self'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
}
_WHOM = "Ask who sent it to you"
_ENDS = {
    "approved": "It was approved",
    "refused": "It was refused",
    "timed_out": "Its time was over",
    "withdrawn": "The run waits for it no more",
}
MOST_COMMENT = 1000


class AtQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """Of which question: by a link, or its id in an organization, for who is signed in."""

    link: Annotated[Opaque, about("The token of a link.")] = ""
    id: Annotated[Words, about("The id of an approval.")] = ""
    of: Annotated[Words, about("The organization that it is of; the default one unless it is named.")] = ""


class Answerer(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the page: `fields` are sent with the form again, and show that it is this page's."""

    caller: Caller
    approval: str
    via: str
    fields: dict[str, str]


def _refused(error: MillraceError) -> web.Response:
    if not isinstance(error, Unauthenticated):
        return _strict(refused_page("This cannot be answered here", error, _WHOM))
    more = '<p><a href="/sign-in">Sign in</a></p>'
    page = person_page("Sign in first", f"{error.detail}.", "Sign in, and open this page again.", more)
    page.set_status(error.status)
    return _strict(page)


@endpoint(
    "GET",
    PAGE,
    role=None,
    answers={200: Reply(str, media="text/html")},
    errors=(TooMany, Unauthenticated, PermissionDenied, NotFound, Conflict),
    example=Example(status=401),
    page=_refused,
)
async def show_question(call: Call[AtQuestion, None]) -> web.Response:
    """Show what a run asks. Nothing is decided by this: whoever looks at links before people do may look."""
    query = call.query
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        who = await _answerer(call, query.link, query.id, query.of)
        found = await _open(call, who)
    return _page(who, found, None, {})


@endpoint(
    "POST",
    PAGE,
    role=None,
    answers={200: Reply(str, media="text/html")},
    errors=(TooMany, Unauthenticated, PermissionDenied, NotFound, Conflict),
    example=Example(status=401),
    page=_refused,
)
async def answer_question(call: Call[None, Streamed]) -> web.Response:
    """Answer what a run asks, once and for good."""
    sent = (await body_of(call.request, LIMIT)).decode(errors="replace")
    try:
        given = {storable(name): values[-1] for name, values in parse_qs(sent, keep_blank_values=True, max_num_fields=500).items()}
    except ValueError as error:
        raise Invalid("the form has too many fields") from error
    with call.gateway.visitors.one(address(call.gateway, call.request)):
        who = await _answerer(call, given.get("link", ""), given.get("id", ""), given.get("of", ""), csrf=given.get("csrf", ""))
        found = await _open(call, who)
        return await _answered(call, who, found, given)


async def _answered(call: Call[Any, Any], who: Answerer, found: ApprovalView, given: dict[str, str]) -> web.Response:
    decision, comment = given.get("decision"), given.get("comment", "").strip()
    problems: list[Problem] = []
    if decision not in {"approve", "refuse"}:
        problems.append(Problem("decision", "say whether you approve"))
    if len(comment) > MOST_COMMENT:
        problems.append(Problem("comment", f"has at most {MOST_COMMENT} characters"))
    data: Any = None
    if decision == "approve" and found.form is not None:
        data, lacking = filled(fields_of(found.form), given)
        problems += lacking
    command = AnswerApproval(
        id=new_id(),
        org=who.caller.org,
        actor=who.caller.actor,
        approval=who.approval,
        approved=decision == "approve",
        data=data,
        comment=comment,
        via=who.via,
        remote=who.caller.remote,
        user_agent=agent_of(call),
    )
    outcome = "error"
    try:
        if not problems:
            check(data, "data")
            check(comment, "comment")
            found = await call.ask(command)
        outcome = "invalid" if problems else "ok"
    except Invalid as error:
        outcome = error.kind
        problems = list(error.errors) or [Problem("data", error.detail)]
    except MillraceError as error:
        outcome = error.kind
        raise
    finally:
        await _record(call, who, found, "answer", outcome, decision or "")
    if problems:
        page = _page(who, found, given, {one.path: one.message for one in problems})
        page.set_status(422)
        return page
    done = "approved" if found.status == "approved" else "refused"
    words = f"You have {done} this, as {who.caller.actor}: the run {found.run} goes on."
    return _strict(person_page(done.capitalize(), words, "You can close this page.", _facts(found), kind="well"))


async def _answerer(call: Call[Any, Any], link: str, id_: str, org: str, *, csrf: str | None = None) -> Answerer:
    """Return who is at the page. Raises `NotFound`, `Unauthenticated`, `PermissionDenied`, once that is recorded."""
    gateway, request = call.gateway, call.request
    whence = remote(gateway, request)
    if link:
        try:
            held = opened(gateway.keyring, link)
        except NotFound as error:
            denied(gateway, request, "unknown", org=PLATFORM, outcome=error.kind, reason="unknown_link")
            raise
        actor = f"link:{held.name}"
        if held.until <= time.time():
            denied(gateway, request, actor, org=held.org, outcome=Conflict.kind, reason="expired_link")
            raise Conflict("the time of this link is over")
        gateway.removing.check(held.org)
        return Answerer(caller=Caller(actor, held.org, whence), approval=held.approval, via="link", fields={"link": link})
    value = cookie_of(gateway, request)
    session = None if value is None else await gateway.sessions.find(value)
    if value is None or session is None or session.is_over:
        raise Unauthenticated("this takes a link that was sent to you, or somebody who is signed in")
    principal = session.principal
    meant = org_of(org or principal.default_org)
    try:
        if csrf is not None:
            check_form(gateway, request, value, csrf)
        if principal.role_in(meant) is None:
            raise NotFound(f"there is no organization {meant[:80]!r}")
    except (PermissionDenied, NotFound) as error:
        reason = "csrf" if isinstance(error, PermissionDenied) else "approval"
        denied(gateway, request, principal.actor, org=principal.org, outcome=error.kind, reason=reason)
        raise
    gateway.removing.check(meant)
    caller = Caller(principal.actor, meant, whence, principal=principal, session=session)
    return Answerer(caller=caller, approval=id_, via="session", fields={"id": id_, "of": meant, "csrf": csrf_of(value)})


async def _open(call: Call[Any, Any], who: Answerer) -> ApprovalView:
    """Return a question that this person may answer still. Raises `NotFound`, `PermissionDenied`, `Conflict`, once recorded."""
    try:
        found = await call.ask(GetApproval(org=who.caller.org, approval=who.approval))
        if who.via == "session":
            check_asked(call.gateway, who.caller, found)
        if found.status != "open":
            by = "" if found.answered_by is None else f" by {found.answered_by}"
            by += "" if found.answered_at is None else f", {readable(found.answered_at)}"
            raise Conflict(f"{_ENDS.get(found.status, 'It is over').lower()}{by}")
    except (NotFound, PermissionDenied, Conflict, Invalid) as error:
        reason = "used_link" if isinstance(error, Conflict) and who.via == "link" else "approval"
        denied(call.gateway, call.request, who.caller.actor, org=who.caller.org, outcome=error.kind, reason=reason)
        raise
    return found


async def _record(call: Call[Any, Any], who: Answerer, found: ApprovalView, verb: str, outcome: str, decision: str) -> None:
    said = Audited(
        category="approval",
        verb=verb,
        actor=who.caller.actor,
        target=found.id,
        outcome=outcome,
        remote=who.caller.remote,
        detail={"run": found.run, "decision": decision[:20], "via": who.via},
    )
    await call.gateway.trail.publish(said, org=who.caller.org)


def _page(who: Answerer, found: ApprovalView, given: dict[str, str] | None, problems: dict[str, str]) -> web.Response:
    fields = [] if found.form is None else fields_of(found.form)
    hidden = "".join(f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in who.fields.items())
    comment = escape("" if given is None else given.get("comment", ""))
    form = (
        f'{complaints(fields, problems)}<form method="post" action="{PAGE}" novalidate>{hidden}{shown(fields, given, problems)}'
        '<p class="field"><label for="comment">Comment</label> <span class="of">(optional)</span>'
        f'<textarea id="comment" name="comment" rows="2" maxlength="{MOST_COMMENT}">\n{comment}</textarea></p>'
        '<p><button name="decision" value="approve">Approve</button> '
        '<button name="decision" value="refuse">Refuse</button></p></form>'
    )
    until = "" if found.until is None else f"<p>It can be answered until {when(found.until)}.</p>"
    do = f"The workflow {found.workflow} of {who.caller.org} asks this, and you as {who.caller.actor}."
    return _strict(person_page("A question for you", found.prompt, do, until + form))


def _facts(found: ApprovalView) -> str:
    """Return what was answered, as it is on record."""
    filled_in = found.data if isinstance(found.data, dict) else {}
    rows = [(name, value if isinstance(value, str) else msgspec.json.encode(value).decode()) for name, value in filled_in.items()]
    rows += [("comment", found.comment)] if found.comment else []
    told = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f"<p>{escape(found.prompt)}</p><dl>{told}</dl>"


def _strict(page: web.Response) -> web.Response:
    page.headers.update(_STRICT)
    return page


ENDPOINTS: tuple[Endpoint, ...] = (show_question, answer_question)
