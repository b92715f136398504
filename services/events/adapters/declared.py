"""The declaration of an adapter, and the settings that sources of every adapter have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from services.events.adapters.registering import Registering, registering_of
from services.events.adapters.webhook import ParsedEvent, Webhook
from shared.questions.adapters import AdapterEntry
from shared.questions.events import AdapterExample, AdapterView, ExampleEvent
from shared.registering import REGISTRATION, DeclaredRegistering
from shared.verification import Verification

Parse = Callable[[Webhook], list[ParsedEvent]]
Declare = Callable[[Mapping[str, Any]], Verification]

# One source's rate at each gateway; above it senders get a 429.
RATE = {
    "type": "object",
    "description": "Webhooks a second in the long run, and how many at once after a rest (default: those of a second).",
    "properties": {
        "per_second": {"type": "number", "minimum": 0.001, "maximum": 1_000_000},
        "burst": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
    },
    "required": ["per_second"],
    "additionalProperties": False,
}
# The gateway bounds by it what may wait of one source while others wait.
WEIGHT = {
    "type": "integer",
    "description": "The source's share of the webhooks that may wait, as a multiple of that of a source without one.",
    "minimum": 1,
    "maximum": 10,
}
NETWORKS = {
    "type": "array",
    "description": "Only these addresses may send: 192.0.2.7, 2001:db8::/32.",
    "items": {"type": "string", "minLength": 1, "maxLength": 64},
    "minItems": 1,
    "maxItems": 500,
}
MAX_BODY = {
    "type": "integer",
    "description": "Bytes of the largest body that is taken, where every source takes more (default: MILLRACE_MAX_BODY).",
    "minimum": 1,
    "maximum": 1 << 30,
}
_PREVIOUS = "Accepted beside the secret while it is set: the one before a rotation. null removes it."


def text(description: str, **more: Any) -> dict[str, Any]:
    """Return the schema of a setting that is a text."""
    return {"type": "string", "minLength": 1, "description": description, **more}


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A request as the sender's documentation has it, without its signature, and the types of the events that it makes."""

    body: str = ""
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    settings: dict[str, Any] = {}
    events: tuple[str, ...]


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of sender. `link` is the sender's own page on its webhooks, `event_types` are those that it documents there.

    `secrets` and `settings` are the schemas of a source's settings; `required` are those without which a source is refused, and of
    each row in `one_of` there has to be at least one. `secret` gets a `previous_secret` beside it. `verification` declares for any
    settings, also none, how the gateway verifies; it raises ValueError, or `Invalid` with a path, for those that make nothing. A
    topic has no `parse`: it has no sender. `org` is the organization whose workspace has it; None: Millrace has it. `entity` is the
    path of the text in an event that says about which of the sender's customers it is. `registering` is how its sources are
    registered with the sender, where they can be. `opens` are the secrets that `parse` is given, each with what raises ValueError
    for one that it could not use.
    """

    name: str
    description: str
    link: str | None
    verification: Declare
    parse: Parse | None
    secrets: dict[str, dict[str, Any]] = {}
    settings: dict[str, dict[str, Any]] = {}
    required: tuple[str, ...] = ("secret",)
    one_of: tuple[tuple[str, ...], ...] = ()
    handshake: str | None = None
    event_types: tuple[str, ...] = ()
    sample: Sample | None = None
    org: str | None = None
    entity: str | None = None
    registering: Registering | None = None
    opens: Mapping[str, Callable[[str], Any]] = {}

    @property
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of a source's settings."""
        secret = self.secrets.get("secret")
        previous = {} if secret is None else {"previous_secret": secret | {"description": _PREVIOUS}}
        common = {} if self.parse is None else {"rate": RATE, "weight": WEIGHT, "networks": NETWORKS, "max_body": MAX_BODY}
        schema: dict[str, Any] = {"type": "object", "properties": {**self.secrets, **previous, **common, **self.settings}}
        if self.registering is not None:
            schema["properties"]["registration"] = self.registering.schema
        if self.required:
            schema["required"] = [*self.required]
        if self.one_of:
            schema["allOf"] = [{"anyOf": [{"required": [name]} for name in row]} for row in self.one_of]
        return schema | {"additionalProperties": False}

    def view(self) -> AdapterView:
        """Return the adapter as users are shown it."""
        previous = ("previous_secret",) if "secret" in self.secrets else ()
        return AdapterView(
            name=self.name,
            description=self.description,
            settings_schema=self.schema,
            secrets=[*self.secrets, *previous],
            link=self.link,
            handshake=self.handshake,
            event_types=[*self.event_types],
            example=self._example(),
            org=self.org,
            entity=self.entity,
        )

    def _example(self) -> AdapterExample | None:
        sample, parse = self.sample, self.parse
        if sample is None or parse is None:
            return None
        return AdapterExample(
            settings=sample.settings,
            headers=sample.headers,
            body=sample.body,
            events=[ExampleEvent(one.type, one.data) for one in parse(webhook_of(sample))],
        )


def custom(entry: AdapterEntry) -> Adapter:
    """Return an adapter of a workspace; the gateway takes its verification from its entry, and its code parses."""
    told = entry.declaration
    registering = None if told.registering is None else registering_of(msgspec.convert(told.registering, DeclaredRegistering))
    # A registered source is given a secret.
    gives = registering is not None and (registering.generates or registering.secret)
    or_registered = ("secret",) if gives and "secret" in told.required else ()
    handshake = "as its declaration or its code has it"
    return Adapter(
        name=entry.name,
        description=entry.doc or f"An adapter of the workspace: {entry.path}.",
        link=told.link,
        verification=lambda _settings: msgspec.convert(told.verification, Verification),
        parse=_in_its_sandbox,
        secrets={name: text(description) for name, description in told.secrets.items()},
        settings=told.settings,
        required=tuple(name for name in told.required if name not in or_registered),
        one_of=((*or_registered, REGISTRATION),) if or_registered else (),
        handshake=handshake if "handshake" in told.code or told.verification.get("handshakes") else None,
        event_types=tuple(told.event_types),
        org=entry.org,
        entity=told.entity,
        registering=registering,
    )


def _in_its_sandbox(_webhook: Webhook) -> list[ParsedEvent]:
    raise NotImplementedError("the executor has the code of workspaces")


def webhook_of(sample: Sample) -> Webhook:
    """Return the request of a sample as its adapter reads it."""
    headers = {name.lower(): value for name, value in sample.headers.items()}
    return Webhook(headers, sample.query, sample.body.encode(), sample.settings)
