"""The registering of sources with their senders, as adapters declare it: the resource of a sender's API that has events sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal
from urllib.parse import quote

import msgspec

LONGEST_ADDRESS = 500
_API = {
    "type": "string",
    "description": "The address of the sender's API, where it is another one than that of its public cloud.",
    "pattern": r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~-]+)*$",
    "maxLength": LONGEST_ADDRESS,
}

Notice = Literal["renew", "create", "missed"]


class Given(Enum):
    """A value in the body of a request that is known only when it is sent."""

    CALLBACK = "callback"
    SECRET = "secret"  # noqa: S105 - the name of the place
    EXPIRES = "expires"


class SenderResource(msgspec.Struct, frozen=True, kw_only=True):
    """What is made at a sender for one source: the path of its collection below the API's address, and the bodies of requests.

    `created` is sent to the collection by POST, `renewed` to the resource by PATCH; both hold `Given` values.
    """

    collection: str
    created: dict[str, Any]
    renewed: dict[str, Any]


class Registering(msgspec.Struct, frozen=True, kw_only=True):
    """The registering of sources with one kind of sender.

    `settings`, `required` and `one_of` are the schema of a source's setting `registration`, whose `api_url` replaces `api`;
    `resource` makes of it what is to be at the sender. In the sender's answers `id`, `callback` and `expires` are the dotted paths
    of a resource's id, of the address that it notifies and of when it ends (None: never), `items` that of a list of them, and
    `next` that of the next page's address (else it is the header `Link`). One lives for `lifetime` seconds, unless the source's
    setting of that name says how long. Of the sender's own events `notices` are about the registration: they ask for it to be
    renewed or created anew, or say that events were missed; `noticed` is the path of the id in them.
    `advice` says by error status what a person can do about it. `generates`: the sender is told the source's secret, so that any
    will do.
    """

    api: str
    settings: dict[str, dict[str, Any]]
    resource: Callable[[Mapping[str, Any]], SenderResource]
    required: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    headers: dict[str, str] = {}
    id: str = "id"
    items: str = ""
    next: str | None = None
    callback: str
    expires: str | None = None
    lifetime: int = 0
    notices: dict[str, Notice] = {}
    noticed: str | None = None
    advice: dict[int, str] = {}
    generates: bool = True

    @property
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the setting `registration`."""
        several = {"oneOf": [{"required": [name]} for name in self.one_of]} if self.one_of else {}
        return several | {
            "type": "object",
            "description": "Have the source registered with the sender, and kept so, by the token of its integration's connection.",
            "properties": {**self.settings, "api_url": _API},
            "required": [*self.required],
            "additionalProperties": False,
        }


def segment(text: str) -> str:
    """Return a text as one part of a path. Raises ValueError for one that would lead elsewhere."""
    if not 0 < len(text) <= LONGEST_ADDRESS or text in {".", ".."}:
        raise ValueError(f"{text[:80]!r} cannot be part of an address")
    return quote(text, safe="")


def filled(value: Any, given: Mapping[Given, Any]) -> Any:
    """Return the body of a request with its `Given` values."""
    if isinstance(value, Given):
        return given[value]
    if isinstance(value, dict):
        return {name: filled(one, given) for name, one in value.items()}
    return [filled(one, given) for one in value] if isinstance(value, list) else value
