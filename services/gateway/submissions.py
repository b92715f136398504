"""What is filled in on a form becomes a run: its choices, its files, who is a person, and the run that is asked for once."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec
import structlog

from services.gateway.form_bodies import SentFile
from services.gateway.form_fields import FormField, json_of, placed
from services.gateway.forms import asked
from services.gateway.idempotency import compare
from services.gateway.options import declared_of, options
from services.gateway.parts import Gateway
from services.gateway.starts import RequestedRun, Start, fingerprint, known, start
from shared import aggregate
from shared.encryption import CannotOpen
from shared.envelope import derived_id
from shared.errors import CodeFailed, Conflict, Invalid, MillraceError, NotFound, Problem, TooLarge, TooMany, Unavailable
from shared.questions.files import CommitFiles, FileChange
from shared.questions.workflows import WorkflowEntry
from shared.resources.form import FieldOfForm, FormEntry
from shared.values import check

# Seconds for which a page waits for choices that are still to be made: somebody looks at it.
CHOICES = 10.0
VERIFIED = 10.0
# Times, and seconds between them, that the same form which is sent twice at once is looked at: a person has clicked twice.
AGAIN, SOON, PAUSE = 20, 8, 0.25
USED = "this link was used already: it is for one form"
LACKING = "is to be filled in"
_log = structlog.get_logger()
_MISSING = object()


class OpenForm(msgspec.Struct, frozen=True, kw_only=True):
    """A form with its workflow, as it is now, and what is asked for."""

    form: FormEntry
    workflow: WorkflowEntry
    fields: list[FormField]


class FormSending(msgspec.Struct, frozen=True, kw_only=True):
    """A form that somebody sends: `data` by parameter, `files` by field. `run` is what it asks for, once.

    `once`: of a link that is of use once. `token` is what the form's check has made, from the address `remote`; `is_checked`: it is
    somebody who needs none.
    """

    actor: str
    run: str
    data: dict[str, Any]
    files: Mapping[str, SentFile]
    once: bool
    is_checked: bool
    token: str
    remote: str | None


async def opened(gateway: Gateway, id_: str) -> OpenForm:
    """Return a form to be shown. Raises `NotFound`, `Conflict` where it could start nothing."""
    form = await gateway.forms.form(id_)
    gateway.removing.check(form.org)
    try:
        workflow = await gateway.workflows.find(form.org, form.spec.workflow)
    except NotFound as error:
        raise Conflict("this form cannot be sent now: what it starts is not there") from error
    return OpenForm(form=form, workflow=workflow, fields=asked(form.spec, workflow.input_schema))


async def chosen(gateway: Gateway, of: OpenForm, actor: str, data: dict[str, Any], *, has_role: bool) -> list[FormField]:
    """Return the fields with the choices that there are by what is filled in; or with why there are none."""
    admit = None if has_role else functools.partial(gateway.forms.take_choices, of.form)
    declared = {one.name: one for one in of.form.spec.fields if one.options is not None}
    labels = {".".join(one.path): one.label for one in of.fields}

    async def with_choices(field: FormField) -> FormField:
        wanted = declared.get(".".join(field.path))
        if wanted is None or field.kind not in {"option", "options"}:
            return field
        try:
            found = await _choices(gateway, of.form, actor, wanted, data, labels, admit)
        except Unavailable:
            return msgspec.structs.replace(field, lacks="The choices are not there yet: show them again in a moment.")
        except TooMany:
            return msgspec.structs.replace(field, lacks="The choices cannot be made now: show them again later.")
        except (CodeFailed, NotFound) as error:
            _log.warning("form.without_choices", form=of.form.id, org=of.form.org, field=wanted.name, reason=error.detail)
            return msgspec.structs.replace(field, lacks="The choices could not be made; who made the form can see why.")
        except Invalid as error:
            return msgspec.structs.replace(field, lacks=error.detail)
        values, named = tuple(one["value"] for one in found), tuple(str(one["label"]) for one in found)
        return msgspec.structs.replace(field, choices=values, labels=named, lacks="" if found else "There are no choices for this.")

    return list(await asyncio.gather(*map(with_choices, of.fields)))


async def _choices(
    gateway: Gateway,
    form: FormEntry,
    actor: str,
    wanted: FieldOfForm,
    data: dict[str, Any],
    labels: Mapping[str, str],
    admit: Callable[[], None] | None,
) -> list[dict[str, Any]]:
    """Return the choices of a field. Raises `Invalid` with what is to be filled in before, and as `options` does."""
    assert wanted.options is not None  # noqa: S101 - it is asked for those that have some
    given = {parameter: _at(data, name) for parameter, name in wanted.options.input.items()}
    lacking = [labels.get(wanted.options.input[one], one) for one, value in given.items() if value is _MISSING]
    if lacking:
        raise Invalid(f"Fill in {' and '.join(lacking)} first, and then show the choices.")
    provider = await gateway.workflows.find(form.org, wanted.options.provider)
    declared_of(provider)
    try:
        check(given, "input")
        gateway.workflows.check(provider, given)
    except Invalid as error:
        named = " and ".join(labels.get(one, one) for one in wanted.options.input.values())
        raise Invalid(f"There are no choices for what {named} says." if named else "There are no choices.") from error
    found = await options(gateway, form.org, actor, provider, given, wait=CHOICES, newest=False, admit=admit)
    return found.options


def misfits(of: OpenForm, fields: Sequence[FormField], data: dict[str, Any], files: Mapping[str, SentFile]) -> list[Problem]:
    """Return what is lacking, and what does not fit of choices and files; the workflow's schema judges the rest.

    Paths begin with `input`.
    """
    found: list[Problem] = []
    most = {one.name: one.file.most_bytes for one in of.form.spec.fields if one.file is not None}
    for field in fields:
        name = ".".join(field.path)
        path = f"input.{name}"
        value = _at(data, name)
        if field.kind == "file":
            found += [Problem(path, message) for message in _of_file(field, files.get(name), most.get(name, 0))]
        elif value is _MISSING and field.is_required:
            found.append(Problem(path, LACKING))
        elif value in (_MISSING, None) or field.kind not in {"option", "options"}:
            continue
        elif field.lacks:
            found.append(Problem(path, field.lacks))
        else:
            several = value if field.kind == "options" and isinstance(value, list) else [value]
            if not {json_of(one) for one in several} <= {json_of(one) for one in field.choices}:
                found.append(Problem(path, "is none of the choices"))
    return found


def unfit(gateway: Gateway, of: OpenForm, data: dict[str, Any], found: Sequence[Problem]) -> list[Problem]:
    """Return what the workflow's schema says of other fields than those of `found`, but files: all is told at once.

    Where nothing else is wrong there is none: what is sent is judged as a whole, with its files.
    """
    if not found:
        return []
    try:
        gateway.workflows.check(of.workflow, data | of.form.spec.input)
    except Invalid as error:
        told = {one.path for one in found}
        places = [f"input.{'.'.join(one.path)}" for one in of.fields if one.kind != "file"]
        # The field of one that is within it, such as an item of a list; of others nobody here is asked.
        about = ((next((place for place in places if _is_in(one.path, place)), None), one) for one in error.errors)
        return [one for place, one in about if place is not None and place not in told]
    return []


def _is_in(path: str, place: str) -> bool:
    return path == place or path.startswith((f"{place}.", f"{place}["))


def _of_file(field: FormField, sent: SentFile | None, most: int) -> list[str]:
    if sent is None:
        return [LACKING] if field.is_required else []
    if len(sent.content) > most:
        return [f"has {len(sent.content)} bytes, and may have {most}"]
    accepted = field.accept.split(",") if field.accept else []
    if accepted and not any(_is_of(sent, one) for one in accepted):
        return [f"is to be one of {', '.join(accepted)}"]
    return []


def _is_of(sent: SentFile, accepted: str) -> bool:
    if accepted.startswith("."):
        return sent.name.lower().endswith(accepted.lower())
    return sent.type.startswith(accepted[:-1]) if accepted.endswith("/*") else sent.type == accepted


async def sent(gateway: Gateway, of: OpenForm, sending: FormSending) -> RequestedRun:
    """Have the run of a form that fits asked for; on disk when this returns. What was sent before asks for nothing more.

    Raises `Invalid` with paths that begin with `input`, or `check`; `Conflict` for a link that was used; `RateExceeded`,
    `TooMany`, `TooLarge`, `Unavailable`.
    """
    form, data = of.form, dict(sending.data)
    kept: dict[str, SentFile] = {}
    for field in of.fields:
        name = ".".join(field.path)
        if field.kind == "file" and (file := sending.files.get(name)) is not None:
            digest = hashlib.sha256(file.content).hexdigest()
            path = _path(sending.run, name, file, digest)
            kept[path] = file
            told = {"path": path, "name": file.name[:200], "type": file.type, "size": len(file.content), "sha256": digest}
            placed(data, field.path, path if field.is_text else told)
    given = data | form.spec.input
    check(given, "input")
    _check_input(gateway, of, sending, given)
    request = Start(run=sending.run, org=form.org, workflow=of.workflow, input=given, actor=sending.actor, repeatable=True)
    if await _is_known(gateway, request, once=sending.once):
        return RequestedRun(sending.run, None)
    if not sending.is_checked:
        try:
            await _verify(gateway, form, sending.token, sending.remote)
        except Invalid:
            # A solution is of use once: a second click has that of the first, whose run is being asked for at this moment.
            if sending.token and await _is_known_soon(gateway, request, once=sending.once):
                return RequestedRun(sending.run, None)
            raise
    gateway.forms.take(form)
    await _keep(gateway, form, sending, kept)
    try:
        return await _started(gateway, request, once=sending.once)
    except (TooMany, TooLarge):
        # Of whoever is second to ask for a run, a file is that of the first, who may have been in time.
        if not [one async for one in aggregate.history(gateway.bus.client, "run", sending.run)]:
            await _keep(gateway, form, sending, kept, removed=True)
        raise


async def _started(gateway: Gateway, request: Start, *, once: bool) -> RequestedRun:
    for _ in range(AGAIN):
        try:
            return await start(gateway, request)
        except Conflict:
            # The same form is being sent at this moment: what becomes of that is what becomes of this.
            await asyncio.sleep(PAUSE)
        except Invalid as error:
            raise _used(error, once=once) from error
    raise Unavailable("the same form is still being sent", retry_after=2)


async def _is_known(gateway: Gateway, request: Start, *, once: bool) -> bool:
    """Return whether this very form was sent before. Raises `Conflict` where its link was used for another."""
    earlier = await known(gateway, request.org, request.run)
    if earlier is None:
        return False
    try:
        compare(fingerprint(request), earlier.fingerprint)
    except Invalid as error:
        raise _used(error, once=once) from error
    return True


async def _is_known_soon(gateway: Gateway, request: Start, *, once: bool) -> bool:
    for _ in range(SOON):
        await asyncio.sleep(PAUSE)
        if await _is_known(gateway, request, once=once):
            return True
    return False


def _check_input(gateway: Gateway, of: OpenForm, sending: FormSending, given: dict[str, Any]) -> None:
    """Raise `Invalid` for what does not fit the workflow; `Conflict` where nobody was asked for it, and so is told of it."""
    try:
        gateway.workflows.check(of.workflow, given)
    except Invalid as error:
        asked_for = {one.path[0] for one in of.fields}
        others = [one.path for one in error.errors if one.path.startswith("input.") and one.path.split(".")[1] not in asked_for]
        if sending.is_checked or not others:
            raise
        _log.warning("form.does_not_fit", form=of.form.id, org=of.form.org, paths=others[:5])
        raise Conflict("this form cannot be sent now: what it gives besides does not fit") from error


def _used(error: Invalid, *, once: bool) -> MillraceError:
    of_key = any(one.path == "Idempotency-Key" for one in error.errors)
    return Conflict(USED) if once and of_key else error


async def _verify(gateway: Gateway, form: FormEntry, token: str, whence: str | None) -> None:
    """Ask the form's check whether a person has solved it. Raises `Invalid`, `Unavailable`."""
    asks = form.spec.check
    if asks is None:
        return
    if not token:
        raise Invalid("show that you are a person", errors=(Problem("check", "show that you are a person"),))
    try:
        secret = gateway.keyring.open(form.sealed["check_secret"], form.org, form.id, "check_secret")
        asked_with = {"secret": secret, "response": token, **({} if whence is None else {"remoteip": whence})}
        answer = await gateway.fetcher.send(
            form.org,
            "POST",
            asks.verify,
            timeout=VERIFIED,
            headers={"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
            body=urlencode(asked_with).encode(),
        )
        said: Any = msgspec.json.decode(answer.body)
    except (CannotOpen, KeyError, Unavailable, msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = error.detail if isinstance(error, Unavailable) else type(error).__name__
        _log.warning("form.unverified", form=form.id, org=form.org, reason=reason)
        raise Unavailable("who tells people from programs does not answer now", retry_after=10) from error
    if not isinstance(said, dict) or said.get("success") is not True:
        problem = Problem("check", "show once more that you are a person: it was not solved, or too long ago")
        raise Invalid(problem.message, errors=(problem,))


async def _keep(
    gateway: Gateway, form: FormEntry, sending: FormSending, kept: Mapping[str, SentFile], *, removed: bool = False
) -> None:
    """Have files kept among the artifacts of their run, before it begins; or removed, where there will be no run."""
    if not kept:
        return
    changes = [FileChange(path=path) for path in kept]
    if not removed:
        blobs = [await gateway.workspace.put(_whole(one.content)) for one in kept.values()]
        changes = [FileChange(path=path, sha256=one.sha256, size=one.size) for path, one in zip(kept, blobs, strict=True)]
    command = CommitFiles(
        id=derived_id(sending.run, "removed" if removed else "sent", *sorted(kept)),
        org=form.org,
        actor=sending.actor,
        changes=changes,
        note=f"of the form {form.name}",
    )
    try:
        await gateway.bus.ask(command)
    except (Invalid, Conflict) as error:
        _log.warning("form.files_refused", form=form.id, org=form.org, reason=error.detail)
        raise Unavailable("the files cannot be kept now", retry_after=60) from error


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _path(run: str, name: str, file: SentFile, digest: str) -> str:
    """Return where a file is kept: of its own name only what says its type, and never what would make it code."""
    ending = file.name.rpartition(".")[2].lower()
    is_plain = "." in file.name and ending.isascii() and ending.isalnum() and len(ending) <= 10 and not ending.startswith("py")
    return f"artifacts/{run}/sent/{name}-{digest[:16]}{f'.{ending}' if is_plain else ''}"


def _at(data: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(data, dict) or part not in data:
            return _MISSING
        data = data[part]
    return data
