"""Forms, as the gateway shows them: found by id, and their fields made of the workflow's schema."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from services.gateway.form_fields import FormField, fields_of
from services.gateway.rates import Rate, SharedBuckets
from services.gateway.visitors import AddressBuckets, Visitors
from shared.errors import NotFound, RateExceeded, TooMany, Unavailable
from shared.messages.declaration import KEY
from shared.questions.resources import FindResource, Found, of
from shared.registry import Entry, RegistryView
from shared.resources.form import FieldOfForm, Form, FormEntry

# Forms that the registry does not know are asked for; a flood of made-up ids must not become a flood of questions.
ASKING = 8
ASK_TIMEOUT = 3.0
# Of a public form: what it starts unless it says so, and what one address may send, which may be that of an office.
PUBLIC, SENDER = Rate(1.0, 20), Rate(0.2, 10)
# Of all forms: a page is looked at again while its run goes on, and may wait for its choices, which is no load.
LOOKS, EACH, TOGETHER = Rate(5.0, 60), 8, 256
# Of the forms of one organization, whose choices may take long.
SHARE = 64
# Runs of data providers for those without the role, by form: there are as many as somebody thinks of values.
MADE = Rate(1.0, 60)


class Forms:
    """Forms by id, and what may be sent to them how often."""

    def __init__(
        self, view: RegistryView[FormEntry], find: Callable[[FindResource, float], Awaitable[Found]], buckets: SharedBuckets
    ) -> None:
        self._view = view
        self._find = find
        self._buckets = buckets
        self._senders = AddressBuckets(SENDER)
        self._asking = asyncio.Semaphore(ASKING)
        self.visitors = Visitors(LOOKS, each=EACH, together=TOGETHER, share=SHARE)

    async def form(self, id_: str, *, closed: bool = False) -> FormEntry:
        """Return a form that can be opened, or is `closed` too. Raises `NotFound`, `Unavailable`."""
        entry = self._view.get(id_) or await self._asked(id_)
        if entry.value is None or not (entry.value.spec.enabled or closed):
            raise NotFound("this form is not open, or there is none at this address")
        return entry.value

    def take_choices(self, form: FormEntry) -> None:
        """Count a run that makes choices for somebody without the role. Raises `TooMany`."""
        if wait := self._buckets.bucket(f"choices:{form.id}", MADE).take(time.monotonic()):
            raise TooMany("the choices of this form are made too often for now", retry_after=wait)

    def take_sender(self, form: FormEntry, address: str | None) -> None:
        """Count what an address sends to a public form. Raises `TooMany`."""
        if address is not None and (wait := self._senders.take(f"{form.id} {address}")):
            raise TooMany("this address sends too often", retry_after=wait)

    def take(self, form: FormEntry) -> None:
        """Count a run that a form starts. Raises `RateExceeded`."""
        spec = form.spec
        rate = Rate(spec.rate, spec.burst) if spec.rate is not None else PUBLIC if spec.access == "public" else None
        if rate is not None and (wait := self._buckets.bucket(f"form:{form.id}", rate).take(time.monotonic())):
            raise RateExceeded("form", "this form is sent too often for now", retry_after=wait)

    async def _asked(self, id_: str) -> Entry[FormEntry]:
        if not KEY.match(id_):
            raise NotFound("there is no form at this address")
        if self._asking.locked():
            raise Unavailable("too many unknown forms are being looked up", retry_after=1)
        async with self._asking:
            try:
                found = await self._find(of(FindResource, "form", org="global", id=id_), ASK_TIMEOUT)
            except NotFound as error:
                raise NotFound("there is no form at this address") from error
        value = None if found.value is None else msgspec.convert(found.value, FormEntry)
        entry = Entry(found.seq, value)
        self._view.learn(id_, entry)
        return self._view.get(id_) or entry


def asked(spec: Form, schema: Mapping[str, Any]) -> list[FormField]:
    """Return the fields of a form, by the schema of its workflow. Those that this does not have, by now, are left out."""
    there = [one for one in fields_of(schema) if one.path[0] not in spec.input]
    if not spec.fields:
        return there
    made: list[FormField] = []
    for field in spec.fields:
        path = tuple(field.name.split("."))
        if field.file is not None:
            made += _file(field, path, there, schema)
            continue
        found = [one for one in there if one.path[: len(path)] == path]
        made += [_told(one, field) for one in found] if len(found) == 1 and found[0].path == path else found
    return made


def _told(one: FormField, field: FieldOfForm) -> FormField:
    """Return a field with what the form says of it."""
    kind = one.kind if field.options is None else "options" if one.is_list else "option"
    help_ = one.help if field.help is None else field.help
    return msgspec.structs.replace(one, kind=kind, label=field.label or one.label, help=help_)


def _file(field: FieldOfForm, path: tuple[str, ...], there: Sequence[FormField], schema: Mapping[str, Any]) -> list[FormField]:
    """Return the field of a file: the schema has text, for its path, or an object, which may have fields of its own."""
    within = [one for one in there if one.path[: len(path)] == path]
    if not within or field.file is None:
        return []
    exact = within[0] if within[0].path == path else None
    properties = schema.get("properties", {})
    about = properties.get(path[0], {}) if len(path) == 1 else {}
    return [
        FormField(
            path=path,
            kind="file",
            label=field.label or (exact.label if exact is not None else str(about.get("title") or " / ".join(path))),
            help=field.help if field.help is not None else exact.help if exact is not None else "",
            is_required=exact.is_required if exact is not None else True,
            is_null=exact is not None and exact.is_null,
            is_text=exact is not None and exact.is_text,
            accept=",".join(field.file.types),
        )
    ]
