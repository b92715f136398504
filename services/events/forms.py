"""Rules of forms that no schema can state, and warnings about what would make nothing that is sent fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from services.events.subscriptions import Workflows, absent, missing_parameters, unknown_parameters
from shared.errors import Invalid, Problem
from shared.owners.rules import Draft, Rules
from shared.questions.workflows import WorkflowEntry
from shared.resources.declaration import Resource
from shared.resources.form import MOST_BYTES, MOST_JSON, PAGE, FieldOfForm, Form
from shared.values import moment_at, near

_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*){0,3}")
# Both stand in a header of the page, where some characters would end what they are said to be.
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_FRAMES = re.compile(r"https://(?:\*\.)?[a-z0-9.-]+(?::[0-9]{1,5})?")
_SCRIPT = re.compile(r"https://[a-z0-9.-]+(?::[0-9]{1,5})?/[A-Za-z0-9._~/-]*(?:\?[A-Za-z0-9._~=&-]*)?")
_VERIFY = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/[A-Za-z0-9._~/-]*")
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
_TYPE = re.compile(r"\.[A-Za-z0-9]{1,20}|[a-z]+/(\*|[A-Za-z0-9.+-]+)")


class FormRules(Rules[Form]):
    """The fields of a form go together; its workflow need not exist yet."""

    def __init__(self, workflows: Workflows) -> None:
        self._workflows = workflows

    async def check(self, draft: Draft[Form]) -> Form:
        """Return the spec if a page can be made of it."""
        before = set() if draft.before is None else draft.kept & draft.before.sealed.keys()
        problems = list(_problems(draft.spec, has_secret="check_secret" in before | draft.secrets.keys()))
        if problems:
            raise Invalid("; ".join(f"{one.path} {one.message}" for one in problems[:5]), errors=tuple(problems))
        if draft.spec.links_after is not None:
            moment_at(draft.spec.links_after, "links_after")
        return draft.spec

    async def shown(self, found: Sequence[Resource[Form]]) -> Sequence[dict[str, Any]]:
        """Return with each where it is opened, and what its workflow does not have now."""
        known = {org: self._workflows.known(org) for org in {one.org for one in found}}
        return [
            {"url": f"{PAGE}/{one.id}", "warnings": msgspec.to_builtins([*warnings(one.spec, known[one.org])])} for one in found
        ]


def _problems(spec: Form, *, has_secret: bool) -> Iterator[Problem]:
    before: dict[str, FieldOfForm] = {}
    for number, field in enumerate(spec.fields):
        for part, message in _of_field(field, before):
            yield Problem(f"fields[{number}].{part}", message)
        if field.name.partition(".")[0] in spec.input:
            yield Problem(f"fields[{number}].name", "is given by input, and so nobody is asked for it")
        before[field.name] = field
    if sum(one.file.most_bytes for one in spec.fields if one.file is not None) > MOST_BYTES:
        yield Problem("fields", f"take files of more than {MOST_BYTES} bytes together")
    if len(msgspec.json.encode(spec)) > MOST_JSON:
        yield Problem("fields", f"and the other parts of the form are more than {MOST_JSON} bytes of JSON together")
    if spec.burst is not None and spec.rate is None:
        yield Problem("burst", "is for a form with a rate")
    for origin in spec.embed_on:
        if not _ORIGIN.fullmatch(origin):
            yield Problem("embed_on", f"{origin[:100]!r} is no origin, such as https://www.example.com, without a path")
    if spec.embed_on and spec.access == "role":
        # A page that is in somebody else's frame is not told who is signed in.
        yield Problem("embed_on", "is for a form with the access link or public")
    yield from _of_check(spec, has_secret=has_secret)


def _of_field(field: FieldOfForm, before: dict[str, FieldOfForm]) -> Iterator[tuple[str, str]]:
    if not _PATH.fullmatch(field.name):
        yield "name", "is a parameter, or one within it: `customer.name`, with three dots at most"
    if field.name in before:
        yield "name", "stands there twice"
    if field.options is not None and field.file is not None:
        yield "file", "has no options"
    for parameter, name in () if field.options is None else field.options.input.items():
        given = before.get(name)
        if given is None:
            yield f"options.input.{parameter}", f"names no field that stands before{near(name, before)}"
        elif given.file is not None:
            yield f"options.input.{parameter}", "names a file"
    for one in () if field.file is None else field.file.types:
        if not _TYPE.fullmatch(one):
            yield "file.types", f"{one[:50]!r} is no type, such as application/pdf, image/* or .csv"


def _of_check(spec: Form, *, has_secret: bool) -> Iterator[Problem]:
    check = spec.check
    if check is None:
        if has_secret:
            yield Problem("check_secret", "is of no use without check: to end a check, clear both")
        return
    if not has_secret:
        yield Problem("check_secret", "is required with check")
    if not _VERIFY.fullmatch(check.verify):
        yield Problem("check.verify", "is the address of a service, without a query")
    if check.script is not None and not _SCRIPT.fullmatch(check.script):
        yield Problem("check.script", "is the https address of a script")
    for name in ("field", "element", "site_key"):
        value = getattr(check, name)
        if value and not _TOKEN.fullmatch(value):
            yield Problem(f"check.{name}", "has letters, digits, - and _ alone")
    for origin in check.frames:
        if not _FRAMES.fullmatch(origin):
            yield Problem("check.frames", f"{origin[:100]!r} is no origin, such as https://challenges.example.com")


def warnings(spec: Form, workflows: dict[str, WorkflowEntry]) -> Iterator[Problem]:
    """Yield what a form asks of its workflow, and of data providers, that they do not have now, or needs and does not ask for."""
    for number, field in enumerate(spec.fields):
        if field.options is not None:
            yield from _of_provider(f"fields[{number}].options", field, workflows)
    workflow = workflows.get(spec.workflow)
    if workflow is None:
        yield absent(spec.workflow, workflows)
        return
    given = {*spec.input, *(one.name.partition(".")[0] for one in spec.fields)}
    yield from unknown_parameters(workflow, given, lambda name: "input" if name in spec.input else "fields")
    for name in missing_parameters(workflow, given) if spec.fields else ():
        yield Problem("fields", f"workflow {workflow.name!r} needs the parameter {name!r}, which is not asked for")


def _of_provider(path: str, field: FieldOfForm, workflows: dict[str, WorkflowEntry]) -> Iterator[Problem]:
    assert field.options is not None  # noqa: S101 - it was looked at
    providers = {name: one for name, one in workflows.items() if one.policy.options is not None}
    name = field.options.provider
    found = providers.get(name)
    if found is None:
        yield Problem(f"{path}.provider", f"there is no data provider {name!r} yet{near(name, providers)}")
        return
    parameters = found.input_schema.get("properties") or {}
    for parameter in field.options.input:
        if parameter not in parameters:
            message = f"data provider {name!r} has no parameter {parameter!r}{near(parameter, parameters)}"
            yield Problem(f"{path}.input.{parameter}", message)
