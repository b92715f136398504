"""The registering of sources with their senders, as adapters declare it: the resource of a sender's API that has events sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal
from urllib.parse import quote

import msgspec

from shared.registering import ADDRESS, API_URL, GIVEN, SETTING, DeclaredRegistering

LONGEST_ADDRESS = 500
_API = {
    "type": "string",
    "description": "The address of the sender's API, where it is another one than that of its public cloud.",
    "pattern": ADDRESS,
    "maxLength": LONGEST_ADDRESS,
}

Notice = Literal["renew", "create", "missed"]


class Given(Enum):
    """A value in the body of a request that is known only when it is sent."""

    CALLBACK = "callback"
    SECRET = "secret"  # noqa: S105 - the name of the place
    EXPIRES = "expires"
    CERTIFICATE = "certificate"
    CERTIFICATE_ID = "certificate_id"


# The secret of a source that a value is made of.
SECRET_OF = {Given.SECRET: "secret", Given.CERTIFICATE: "certificate", Given.CERTIFICATE_ID: "certificate"}


class SenderResource(msgspec.Struct, frozen=True, kw_only=True):
    """What is made at a sender for one source: the path of its collection below the API's address, and the bodies of requests.

    `created` is sent to the collection by POST, `renewed` to the resource; both hold `Given` values.
    """

    collection: str
    created: dict[str, Any]
    renewed: dict[str, Any]


class Registering(msgspec.Struct, frozen=True, kw_only=True):
    """The registering of sources with one kind of sender.

    `settings`, `required` and `one_of` are the schema of a source's setting `registration`, whose `api_url` replaces `api`;
    `resource` makes of it what is to be at the sender. In the sender's answers `id`, `callback` and `expires` are the dotted paths
    of a resource's id, of the address that it notifies and of when it ends (None: never), `items` that of a list of them, `answer`
    that of one in any other answer, and `next` the name of the next page's address (else it is the header `Link`). `renew` is the
    method by which one is renewed. One lives for `lifetime` seconds, unless the source's
    setting of that name says how long. Of the sender's own events `notices` are about the registration: they ask for it to be
    renewed or created anew, or say that events were missed; `noticed` is the path of the id in them.
    `advice` says by error status what a person can do about it. `generates`: the sender is told the source's secret, so that any
    will do. `secret` is the path of the one that the sender makes up, in the answer to creation and nowhere else ("": it makes up
    none). `form`: bodies are forms, of names such as `events[]` and `config[url]`, not JSON.
    """

    api: str
    settings: dict[str, dict[str, Any]]
    resource: Callable[[Mapping[str, Any]], SenderResource]
    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    id: str = "id"
    answer: str = ""
    items: str = ""
    renew: str = "PATCH"
    next: str | None = None
    callback: str
    expires: str | None = None
    lifetime: int = 0
    notices: dict[str, Notice] = {}
    noticed: str | None = None
    advice: dict[int, str] = {}
    generates: bool = True
    secret: str = ""
    form: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the setting `registration`."""
        several = {"oneOf": [{"required": [name]} for name in self.one_of]} if self.one_of else {}
        return several | {
            "type": "object",
            "description": "Have the source registered with the sender, and kept so, by the token of its integration's connection.",
            "properties": {**self.settings, API_URL: _API},
            "required": [*self.required],
            "additionalProperties": False,
        }


def registering_of(declared: DeclaredRegistering) -> Registering:
    """Return the registering that an adapter of a workspace declares."""

    def resource(given: Mapping[str, Any]) -> SenderResource:
        parts = [part if isinstance(part, str) else segment(str(given.get(part[SETTING], ""))) for part in declared.collection]
        created = _known(declared.created, given)
        renewed = created if declared.renewed is None else _known(declared.renewed, given)
        return SenderResource(collection="/".join(parts), created=created, renewed=renewed)

    same = (
        *("api", "settings", "headers", "id", "answer", "items", "renew", "next", "callback", "expires", "lifetime"),
        *("secret", "form"),
    )
    return Registering(
        **{name: getattr(declared, name) for name in same},
        required=tuple(declared.required),
        resource=resource,
        generates=declared.tells_secret,
    )


def _known(value: Any, settings: Mapping[str, Any]) -> Any:
    """Return a declared body with a source's settings, and `Given` members for what is known later."""
    if isinstance(value, dict):
        if GIVEN in value:
            return Given(value[GIVEN])
        if SETTING in value:
            return settings[value[SETTING]]
        return {name: _known(one, settings) for name, one in value.items() if _is_there(one, settings)}
    return [_known(one, settings) for one in value if _is_there(one, settings)] if isinstance(value, list) else value


def _is_there(value: Any, settings: Mapping[str, Any]) -> bool:
    return not isinstance(value, dict) or SETTING not in value or value[SETTING] in settings


def segment(text: str) -> str:
    """Return a text as one part of a path. Raises ValueError for one that would lead elsewhere."""
    if not 0 < len(text) <= LONGEST_ADDRESS or text in {".", ".."}:
        raise ValueError(f"{text[:80]!r} cannot be part of an address")
    return quote(text, safe="")


def secrets_in(value: Any) -> frozenset[str]:
    """Return the secrets of a source that the body of a request is made of."""
    if isinstance(value, Given):
        return frozenset({SECRET_OF[value]} if value in SECRET_OF else ())
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return frozenset[str]().union(*map(secrets_in, parts))


def filled(value: Any, given: Mapping[Given, Any]) -> Any:
    """Return the body of a request with its `Given` values."""
    if isinstance(value, Given):
        return given[value]
    if isinstance(value, dict):
        return {name: filled(one, given) for name, one in value.items()}
    return [filled(one, given) for one in value] if isinstance(value, list) else value
