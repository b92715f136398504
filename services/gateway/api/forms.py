"""/forms/{id}: the page on which somebody fills in a form, and what is shown of its run afterwards. It has no script of ours."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable
from html import escape
from typing import Annotated, Any

import msgspec
from aiohttp import web

from services.gateway.api.access import address, denied
from services.gateway.api.endpoint import LOCATION, Call, Endpoint, Example, Reply, Streamed, endpoint
from services.gateway.api.form_access import HAVE_ROLE, FormSender, sender, used
from services.gateway.api.form_views import SubmissionView, outcome_of, recorded, ticket_of
from services.gateway.api.pages import person_page, policy, refused_page
from services.gateway.form_bodies import MOST_TEXT, SentForm, read
from services.gateway.form_fields import FormField, by_field, complaints, filled, initial, shown
from services.gateway.links import SentLink, sent_link, sent_token
from services.gateway.starts import known
from services.gateway.submissions import FormSending, OpenForm, chosen, misfits, opened, sent, unfit
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, MillraceError, NotFound, PermissionDenied, Problem, TooMany, Unauthenticated
from shared.http import body_of
from shared.resources.declaration import about
from shared.resources.form import PAGE, FormEntry
from shared.values import Opaque, aside

# Bytes of the heads of a form's parts.
HEADS = 64 * 1024
# Seconds between two looks at a run that goes on, the last of them from then on; after so many somebody has to ask for the next.
WAITS, MOST_LOOKS = (2, 2, 3, 5, 10), 100
_WHOM = "Ask who sent you here"
_ERRORS = (TooMany, Unauthenticated, PermissionDenied, NotFound, Conflict)


class AtForm(msgspec.Struct, frozen=True):
    """How it is opened."""

    link: Annotated[Opaque, about("The token of a link.")] = ""


class AtSent(msgspec.Struct, frozen=True):
    """What is looked at."""

    of: Annotated[Opaque, about("What the answer to a form that was sent leads to.")]
    n: Annotated[int, msgspec.Meta(ge=0, le=1000, description="How often it was looked at.")] = 0


def _refused(error: MillraceError, form: FormEntry | None = None) -> web.Response:
    if not isinstance(error, Unauthenticated):
        page = refused_page("This form cannot be opened", error, _WHOM)
    else:
        more = '<p><a href="/sign-in">Sign in</a></p>'
        page = person_page("Sign in first", f"{error.detail}.", "Sign in, and open this page again.", more)
        page.set_status(error.status)
    return _strict(page, form)


async def _told(form: FormEntry, answering: Awaitable[web.Response]) -> web.Response:
    """Return a page, or that of a refusal, which is to be read in a frame of the form's pages as well."""
    try:
        return await answering
    except MillraceError as error:
        return _refused(error, form)


@endpoint(
    "GET",
    f"{PAGE}/{{id}}",
    role=None,
    answers={200: Reply(str, media="text/html")},
    errors=_ERRORS,
    page=_refused,
)
async def show_form(call: Call[AtForm, None]) -> web.Response:
    """Show a form. Nothing is begun by this: whoever looks at links before people do may look."""
    form = await call.gateway.forms.form(call.path["id"])
    return await _told(form, _form(call, form))


async def _form(call: Call[AtForm, None], form: FormEntry) -> web.Response:
    gateway, link = call.gateway, call.query.link
    with gateway.forms.visitors.one(address(gateway, call.request), form.org):
        of = await opened(gateway, call.path["id"])
        who = await sender(call, show_form, of.form, link)
        if who.once and await known(gateway, of.form.org, who.run(of.form)) is not None:
            raise used(call, of.form, who)
        fields = await chosen(gateway, of, who.actor, initial(of.fields), has_role=who.has_role)
    return _page(of, who, fields, None, {}, new_id())


@endpoint(
    "POST",
    f"{PAGE}/{{id}}",
    role=None,
    answers={303: Reply(None, headers=(LOCATION,)), 200: Reply(str, media="text/html")},
    errors=_ERRORS,
    example=Example(status=200),
    page=_refused,
)
async def send_form(call: Call[None, Streamed]) -> web.Response:
    """Take what is filled in: it begins the form's workflow, and leads to what becomes of that; 422 is the form with complaints."""
    form = await call.gateway.forms.form(call.path["id"])
    return await _told(form, _sent(call, form))


async def _sent(call: Call[None, Streamed], form: FormEntry) -> web.Response:
    gateway, request = call.gateway, call.request
    where = address(gateway, request)
    with gateway.forms.visitors.one(where, form.org):
        of = await opened(gateway, call.path["id"])
        with gateway.memory.hold(org=of.form.org, address=where) as held:
            body = await body_of(request, most_of(of.form), held.take)
            given = await aside(read, body, request.headers.get("Content-Type", ""), size=len(body))
            del body
            texts = given.texts
            who = await sender(call, send_form, of.form, texts.get("link", ""), csrf=texts.get("csrf", ""))
            return await _taken(call, of, who, given)


@endpoint(
    "GET",
    f"{PAGE}/{{id}}/sent",
    role=None,
    answers={200: Reply(str, media="text/html")},
    errors=_ERRORS,
    example=Example(query={"of": "unknown"}, status=404),
    page=_refused,
)
async def show_sent(call: Call[AtSent, None]) -> web.Response:
    """Show what became of a form that was sent; the page comes again by itself while its run goes on, for a while."""
    form = await call.gateway.forms.form(call.path["id"], closed=True)
    return await _told(form, _shown(call, form))


async def _shown(call: Call[AtSent, None], form: FormEntry) -> web.Response:
    gateway, n = call.gateway, call.query.n
    with gateway.forms.visitors.one(address(gateway, call.request), form.org):
        link = await ticketed(call, show_sent, form, call.query.of)
        view = await outcome_of(gateway, form, link)
    return _outcome(form, call.query.of, view, n)


async def ticketed(call: Call[Any, Any], endpoint: Endpoint, form: FormEntry, token: str, *, is_page: bool = True) -> SentLink:
    """Return what is to be shown of a form. Raises `NotFound` and `PermissionDenied`, once that is recorded, and `Conflict`."""
    try:
        link = sent_link(call.gateway.keyring, token)
        if (link.org, link.form) != (form.org, form.id):
            raise NotFound("this is not known, or was altered")
    except NotFound as error:
        denied(call.gateway, call.request, "unknown", org=form.org, outcome=error.kind, reason="unknown_ticket")
        raise
    if link.until <= time.time():
        raise Conflict("what became of this form is not shown any more")
    # More is shown to those with the role: whoever has found their address is not one of them.
    if link.via in HAVE_ROLE and not (await sender(call, endpoint, form, "", is_page=is_page)).has_role:
        denied(call.gateway, call.request, "unknown", org=form.org, outcome=PermissionDenied.kind, reason="form")
        raise PermissionDenied("this is shown to those with the form's role")
    return link


def most_of(form: FormEntry) -> int:
    """Return how many bytes somebody may send to a form."""
    return MOST_TEXT + HEADS + sum(one.file.most_bytes for one in form.spec.fields if one.file is not None)


async def _taken(call: Call[Any, Any], of: OpenForm, who: FormSender, given: SentForm) -> web.Response:
    gateway, form, texts = call.gateway, of.form, given.texts
    sending = texts.get("sending", "")[:64] or new_id()
    if not who.has_role and form.spec.access == "public":
        gateway.forms.take_sender(form, who.address)
    data, lacking = filled(of.fields, texts)
    fields = await chosen(gateway, of, who.actor, data, has_role=who.has_role)
    if texts.get("do") == "choices":
        return _page(of, who, fields, texts, {}, sending)
    files = {".".join(one.path): given.files[one.name] for one in fields if one.kind == "file" and one.name in given.files}
    problems = [*lacking, *misfits(of, fields, data, files)]
    problems += unfit(gateway, of, data, problems)
    # The same that is sent again, as by a second click, is one run; after going back something else is another.
    parts = [(name, hashlib.sha256(one.content).hexdigest()) for name, one in sorted(files.items())]
    digest = hashlib.sha256(msgspec.json.encode((data, parts), order="deterministic")).hexdigest()
    asked = FormSending(
        actor=who.actor,
        run=who.run(form, sending, digest),
        data=data,
        files=files,
        once=who.once,
        is_checked=who.has_role,
        token="" if form.spec.check is None else texts.get(form.spec.check.field, ""),
        remote=who.remote,
    )
    if not problems:
        try:
            requested = await sent(gateway, of, asked)
        except Invalid as error:
            problems = list(error.errors) or [Problem("", error.detail)]
        except Conflict as error:
            raise used(call, form, who) from error
        else:
            await recorded(gateway, form, who, requested)
            token = sent_token(gateway.keyring, ticket_of(form, who, requested.run))
            return _strict(web.Response(status=303, headers={"Location": f"{PAGE}/{form.id}/sent?of={token}"}), form)
    page = _page(of, who, fields, texts, by_field(fields, problems), sending)
    page.set_status(422)
    return page


def _page(
    of: OpenForm, who: FormSender, fields: list[FormField], given: dict[str, str] | None, problems: dict[str, str], sending: str
) -> web.Response:
    spec = of.form.spec
    hidden = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">'
        for name, value in (who.fields | {"sending": sending}).items()
    )
    takes_files = any(one.kind == "file" for one in fields)
    how = ' enctype="multipart/form-data"' if takes_files else ""
    again = '<p class="of">Files are to be chosen anew.</p>' if takes_files and given is not None else ""
    depends = any(one.options is not None and one.options.input for one in spec.fields) or any(one.lacks for one in fields)
    choices = ' <button name="do" value="choices">Show the choices</button>' if depends else ""
    check, head = "", ""
    if spec.check is not None and not who.has_role:
        check = _check(spec.check.element, spec.check.site_key)
        head = "" if spec.check.script is None else f'<script src="{escape(spec.check.script)}" async defer></script>'
    more = (
        f'{complaints(fields, problems)}<form method="post" action="{PAGE}/{of.form.id}"{how} novalidate>{hidden}'
        f'{shown(fields, given, problems)}{again}{check}<p><button name="do" value="send">Send</button>{choices}</p></form>'
    )
    as_whom = "" if who.via == "anybody" else f" You send it as {who.actor}."
    title = escape(spec.title or of.form.name)
    page = person_page(title, spec.text, f"Fill this in, and send it.{as_whom}", more, head=head)
    return _strict(page, of.form, who)


def _check(element: str, site_key: str) -> str:
    """Return the place where the service's script shows that somebody is a person."""
    without = "<noscript><p>This form takes a browser with scripts: it is to be shown that you are a person.</p></noscript>"
    return f'<div class="{escape(element)}" data-sitekey="{escape(site_key)}"></div>{without}'


def _outcome(form: FormEntry, token: str, view: SubmissionView, n: int) -> web.Response:
    """Return the page that says how it is with a run: it loads itself again while that is about to change."""
    goes_on = not view.ended and form.spec.show != "nothing"
    next_one = f"{PAGE}/{form.id}/sent?of={escape(token)}&amp;n={min(n + 1, MOST_LOOKS)}"
    head = ""
    if goes_on and n < MOST_LOOKS:
        head = f'<meta http-equiv="refresh" content="{WAITS[min(n, len(WAITS) - 1)]};url={next_one}">'
    again = f'<p><a href="{next_one}">Look again</a></p>' if goes_on else ""
    steps = "".join(f"<li>{escape(one)}</li>" for one in view.steps)
    more = f'<div role="status">{f"<p>{escape(view.words)}</p>" if form.spec.show != "nothing" else ""}'
    more += f"<p>Done so far:</p><ol>{steps}</ol>" if steps and goes_on else ""
    more += f"{_value(view.result)}</div>{again}" if view.has_result else f"</div>{again}"
    kind = "well" if view.status == "succeeded" or form.spec.show == "nothing" else "asks" if goes_on else "wrong"
    do = "You can close this page." if not goes_on else "This page looks again by itself; you can close it as well."
    page = person_page("Sent", form.spec.thanks or "This was sent.", do, more, kind=kind, head=head)
    return _strict(page, form)


def _value(value: Any) -> str:
    """Return a result as people read it: an object as a list of its members, text as it is, all else as JSON."""
    if isinstance(value, dict) and value:
        return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{_value(one)}</dd>' for name, one in value.items())}</dl>"
    if isinstance(value, list) and value and not any(isinstance(one, dict | list) for one in value):
        return f"<ul>{''.join(f'<li>{_value(one)}</li>' for one in value)}</ul>"
    if isinstance(value, str):
        return f"<p>{escape(value)}</p>"
    return "" if value is None else f"<code>{escape(msgspec.json.encode(value).decode())}</code>"


def _strict(page: web.Response, form: FormEntry | None, who: FormSender | None = None) -> web.Response:
    """Return a page with what it may do: stand in frames of the form's pages, but not for who is signed in, and run its check."""
    spec = None if form is None else form.spec
    ancestors = [] if spec is None or (who is not None and who.has_role) else spec.embed_on
    check = None if spec is None or who is None or who.has_role else spec.check
    page.headers["Content-Security-Policy"] = policy(
        ancestors=ancestors, script=None if check is None else check.script, frames=() if check is None else check.frames
    )
    page.headers["Cache-Control"] = "no-store"
    # Its own address holds the link. With `no-referrer` a browser would not say that it is this page that sends the form.
    page.headers["Referrer-Policy"] = "same-origin"
    return page


ENDPOINTS: tuple[Endpoint, ...] = (show_form, send_form, show_sent)
