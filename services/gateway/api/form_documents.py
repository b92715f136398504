"""/api/v1/forms/{id}/…: forms for a front end of one's own, which may be a page of another origin; and links to forms."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any

import msgspec

from services.gateway.api.access import address
from services.gateway.api.endpoint import IDEMPOTENCY_KEY, Audit, Call, Endpoint, Example, Streamed, endpoint
from services.gateway.api.form_access import sender, used
from services.gateway.api.form_views import SubmissionView, outcome_of, recorded, ticket_of
from services.gateway.api.forms import most_of, ticketed
from services.gateway.api.headers import READERS
from services.gateway.api.lists import idempotency_key_of
from services.gateway.form_bodies import SentFile
from services.gateway.form_fields import FormField, initial, picked
from services.gateway.links import form_token, sent_token
from services.gateway.starts import known
from services.gateway.submissions import FormSending, chosen, misfits, opened, sent, unfit
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import (
    Conflict,
    Invalid,
    Malformed,
    NotFound,
    PermissionDenied,
    Problem,
    TooMany,
    Unauthenticated,
)
from shared.http import body_of
from shared.questions.resources import GetResource, of
from shared.resources.declaration import about
from shared.resources.form import PAGE, FormEntry
from shared.values import Instant, Name, Opaque, Words, aside, decode, later, moment_at

LINK, LONGEST_LINK = 7 * 86_400.0, 365 * 86_400.0
_ERRORS = (TooMany, Unauthenticated, PermissionDenied, NotFound, Conflict)


class FieldsOfFormQuery(msgspec.Struct, frozen=True):
    """How a form is opened, and what is filled in so far: choices depend on it."""

    link: Annotated[Opaque, about("The token of a link.")] = ""
    values: Annotated[str, about("A JSON object: what is filled in so far.")] = "{}"


class SubmissionQuery(msgspec.Struct, frozen=True):
    """What is looked at."""

    of: Annotated[Opaque, about("The ticket that the answer to a form that was sent has.")]


class ChoiceView(msgspec.Struct, frozen=True):
    """A choice of a field."""

    value: Any
    label: str


class FormFieldView(msgspec.Struct, frozen=True, kw_only=True):
    """A field; `kind` is `text`, `lines`, `number`, `flag`, `choice`, `options` (several), `json`, `file`, `date`, `email`, `url`.

    `lacks` says why there are no choices yet. A `file` takes those of `accept`, of at most `most_bytes`.
    """

    name: str
    kind: str
    label: str
    help: str
    required: bool
    default: Any
    choices: list[ChoiceView]
    lacks: str
    accept: list[str]
    most_bytes: int | None


class CheckView(msgspec.Struct, frozen=True):
    """What tells people from programs: its solution is sent as `check`."""

    script: str | None
    element: str
    site_key: str


class OpenFormView(msgspec.Struct, frozen=True, kw_only=True):
    """A form that is open: what is asked for, in order."""

    id: str
    title: str
    text: str
    fields: list[FormFieldView]
    check: CheckView | None


class FileOfSubmission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file."""

    name: Words
    content_base64: str
    type: Words = ""


class SubmissionBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A form that is filled in: `values` by parameter, `files` by field; `check` is the solution of its check."""

    values: dict[str, Any] = {}
    files: dict[Name, FileOfSubmission] = {}
    link: Opaque = ""
    check: Annotated[str, msgspec.Meta(max_length=8192)] = ""


class Submitted(msgspec.Struct, frozen=True):
    """A form was sent; `ticket` is a secret by which what became of it is looked at, at `url` by people."""

    ticket: str
    url: str
    run: str | None


class FormLinkBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For whom a link is, which is on record with what is sent; until when, a week unless given; and whether it is of use once."""

    name: Name = "somebody"
    ends_at: Instant | None = None
    once: bool = True


class MadeFormLink(msgspec.Struct, frozen=True):
    """A secret link by which a form is opened without an account, until `ends_at`."""

    url: str
    ends_at: str
    once: bool

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "MadeFormLink(...)"


@endpoint(
    "GET",
    "/api/v1/forms/{id}/fields",
    role=None,
    answers={200: OpenFormView},
    errors=_ERRORS,
)
async def get_form_fields(call: Call[FieldsOfFormQuery, None]) -> OpenFormView:
    """Show what a form asks for, with the choices that there are by what is filled in so far."""
    return await _fields(call, await _form(call))


@endpoint(
    "POST",
    "/api/v1/forms/{id}/submissions",
    role=None,
    answers={202: Submitted},
    documented=SubmissionBody,
    headers=(IDEMPOTENCY_KEY,),
    errors=_ERRORS,
    example=Example(body={"values": {"limit": 20}}),
)
async def send_submission(call: Call[None, Streamed]) -> Submitted:
    """Send a form; complaints name fields as `input.NAME`. Pages of the origins in `embed_on` may do so without a key."""
    return await _submitted(call, await _form(call))


@endpoint(
    "GET",
    "/api/v1/forms/{id}/submission",
    role=None,
    answers={200: SubmissionView},
    errors=_ERRORS,
    example=Example(query={"of": "unknown"}, status=404),
)
async def get_submission(call: Call[SubmissionQuery, None]) -> SubmissionView:
    """Show what became of a form that was sent, as far as it says so."""
    return await _looked_at(call, await _form(call, closed=True))


@endpoint(
    "POST",
    "/api/v1/forms/{name}/links",
    role="developer",
    answers={201: MadeFormLink},
    errors=(NotFound, Conflict),
    audit=Audit("form", "link", "name"),
    example=Example(path={"name": "open"}, body={"name": "ada@example.com"}),
)
async def make_form_link(call: Call[None, FormLinkBody]) -> MadeFormLink:
    """Make a link by which somebody without an account opens a form. It is a secret, and shown here alone."""
    body, org, now = call.body, call.caller.org, utc_now()
    found = await call.ask(of(GetResource, "form", org=org, name=call.path["name"]))
    if found.fields["access"] == "role":
        raise Conflict("this form opens to those with its role alone: its access is to be link, or public")
    until = later(now, LINK) if body.ends_at is None else moment_at(body.ends_at, "ends_at")
    if not now < until <= later(now, LONGEST_LINK):
        detail = "is a time to come, within a year"
        raise Invalid(f"ends_at {detail}", errors=(Problem("ends_at", detail),))
    id_ = found.fields["id"]
    call.note(for_=body.name, once=body.once, ends_at=rfc3339(until))
    token = form_token(
        call.gateway.keyring,
        org=org,
        form=id_,
        name=body.name,
        made=now.timestamp(),
        until=until.timestamp(),
        once=body.once,
    )
    return MadeFormLink(f"{call.gateway.public_url}{PAGE}/{id_}?link={token}", rfc3339(until), body.once)


async def _fields(call: Call[FieldsOfFormQuery, None], entry: FormEntry) -> OpenFormView:
    gateway, query = call.gateway, call.query
    try:
        values: Any = decode(query.values.encode())
    except Malformed as error:
        raise Malformed(f"values is no JSON: {error.detail}", errors=(Problem("values", "no JSON"),)) from error
    if not isinstance(values, dict):
        raise Invalid("values is a JSON object", errors=(Problem("values", "is to be an object"),))
    with gateway.forms.visitors.one(address(gateway, call.request), entry.org):
        form = await opened(gateway, call.path["id"])
        who = await sender(call, get_form_fields, form.form, query.link, is_page=False)
        if who.once and await known(gateway, form.form.org, who.run(form.form)) is not None:
            raise used(call, form.form, who)
        fields = await chosen(gateway, form, who.actor, initial(form.fields) | values, has_role=who.has_role)
    spec = form.form.spec
    most = {one.name: one.file.most_bytes for one in spec.fields if one.file is not None}
    check = spec.check
    return OpenFormView(
        id=form.form.id,
        title=spec.title or form.form.name,
        text=spec.text,
        fields=[_shown(one, most) for one in fields],
        check=None if check is None or who.has_role else CheckView(check.script, check.element, check.site_key),
    )


def _shown(field: FormField, most: dict[str, int]) -> FormFieldView:
    name = ".".join(field.path)
    labels = field.labels or [one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in field.choices]
    return FormFieldView(
        name=name,
        kind="choice" if field.kind == "option" else field.kind,
        label=field.label,
        help=field.help,
        required=field.is_required,
        default=field.default,
        choices=[ChoiceView(value, label) for value, label in zip(field.choices, labels, strict=True)],
        lacks=field.lacks,
        accept=field.accept.split(",") if field.accept else [],
        most_bytes=most.get(name),
    )


async def _submitted(call: Call[None, Streamed], entry: FormEntry) -> Submitted:
    gateway, request = call.gateway, call.request
    where = address(gateway, request)
    with (
        gateway.forms.visitors.one(where, entry.org),
        gateway.memory.hold(org=entry.org, address=where) as held,
    ):
        # A file is a third longer as base64.
        raw = await body_of(request, most_of(entry) * 4 // 3, held.take)
        body: SubmissionBody = await aside(decode, raw or b"{}", SubmissionBody, size=len(raw))
        form = await opened(gateway, entry.id)
        who = await sender(call, send_submission, form.form, body.link, is_page=False)
        if not who.has_role and entry.spec.access == "public":
            gateway.forms.take_sender(entry, who.address)
        data = picked(form.fields, body.values)
        if data != body.values:
            extra = next((name for name, value in body.values.items() if name not in data or data[name] != value), "")
            raise Invalid(
                f"this form does not ask for {extra[:100]!r}", errors=(Problem(f"input.{extra[:100]}", "is not asked for"),)
            )
        files = {name: _file(name, one) for name, one in body.files.items()}
        asked = {".".join(one.path) for one in form.fields if one.kind == "file"}
        if unknown := sorted(files.keys() - asked):
            raise Invalid(f"{unknown[0]!r} takes no file", errors=(Problem(f"files.{unknown[0]}", "takes no file"),))
        fields = await chosen(gateway, form, who.actor, data, has_role=who.has_role)
        problems = misfits(form, fields, data, files)
        problems += unfit(gateway, form, data, problems)
        if problems:
            raise Invalid(f"{problems[0].path} {problems[0].message}", errors=tuple(problems))
        key = idempotency_key_of(request)
        sending = FormSending(
            actor=who.actor,
            # Strangers may choose the same key.
            run=who.run(entry, new_id() if key is None else f"key {'' if who.has_role else where} {key}"),
            data=data,
            files=files,
            once=who.once,
            is_checked=who.has_role,
            token=body.check,
            remote=who.remote,
        )
        try:
            requested = await sent(gateway, form, sending)
        except Conflict as error:
            raise used(call, entry, who) from error
    await recorded(gateway, entry, who, requested)
    token = sent_token(gateway.keyring, ticket_of(entry, who, requested.run))
    url = f"{gateway.public_url}{PAGE}/{entry.id}/sent?of={token}"
    return Submitted(token, url, requested.run if who.has_role else None)


def _file(name: str, sent_: FileOfSubmission) -> SentFile:
    try:
        content = base64.b64decode(sent_.content_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        problem = Problem(f"files.{name}.content_base64", "is no base64")
        raise Invalid(f"{problem.path} {problem.message}", errors=(problem,)) from error
    return SentFile(sent_.name, sent_.type.partition(";")[0].strip().lower()[:100], content)


async def _looked_at(call: Call[SubmissionQuery, None], form: FormEntry) -> SubmissionView:
    with call.gateway.forms.visitors.one(address(call.gateway, call.request), form.org):
        link = await ticketed(call, get_submission, form, call.query.of, is_page=False)
        return await outcome_of(call.gateway, form, link)


async def _form(call: Call[Any, Any], *, closed: bool = False) -> FormEntry:
    """Return the form that is asked about; pages that may show it may read the answer, or refusal, from here on."""
    form = await call.gateway.forms.form(call.path["id"], closed=closed)
    call.request[READERS] = frozenset(form.spec.embed_on)
    return form


ENDPOINTS: tuple[Endpoint, ...] = (get_form_fields, send_submission, get_submission, make_form_link)
