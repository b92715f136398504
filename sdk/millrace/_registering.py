"""How sources of an adapter are registered with their sender, as data: the platform asks the sender's API, with the token.

registering=Registering(
api="https://api.acme.example/v1",
collection=("shops", Setting("shop"), "hooks"),
created={"url": Given.CALLBACK, "key": Given.SECRET, "topics": Setting("topics")},
settings={"shop": {"type": "string"}, "topics": {"type": "array", "items": {"type": "string"}}},
required=("shop",),
callback="url",
)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal


class Given(Enum):
    """A value that is known only when the sender is asked: the source's address, its secret, and when a registration ends."""

    CALLBACK = "callback"
    SECRET = "secret"  # noqa: S105 - the name of the place
    EXPIRES = "expires"


@dataclass(frozen=True)
class Setting:
    """The value of a setting in a source's `registration`; where that is not set, the field that would hold it is left out."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Registering:
    """The resource of a sender's API that has events sent, and where its parts stand in answers.

    `created` is sent to `api` and `collection` by POST; `renewed` (else `created`) is sent to the resource by `renew`.
    It is looked for by GET of the collection and removed by DELETE. `settings` are JSON Schemas of what a source says about it in
    `registration`, of which some are `required`.

    Dotted paths: `items` is that of the list in the answer to GET, and `answer` that of the resource in any other ("": all of it);
    in a resource `id`, the `callback`, and when it `expires` (None: it does not); `next` is the name of the next page's address in
    a list (None: the header `Link` has it). One that `expires` lives for `lifetime` seconds. `secret` is that of the secret that
    the sender makes up, in the answer to the POST ("": it makes up none), which is kept as the source's. `form`: bodies are forms,
    with names such as `events[]` and `config[url]`, in place of JSON.
    """

    api: str
    collection: tuple[str | Setting, ...]
    created: Mapping[str, Any]
    callback: str
    renewed: Mapping[str, Any] | None = None
    renew: Literal["PATCH", "PUT", "POST"] = "PATCH"
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    id: str = "id"
    answer: str = ""
    items: str = ""
    next: str | None = None
    expires: str | None = None
    lifetime: int = 0
    secret: str = ""
    form: bool = False


def declared(made: Registering) -> dict[str, Any]:
    """Return it as JSON."""
    return {name: plain(value) for name, value in vars(made).items()}


def plain(value: Any) -> Any:
    """Return a value as JSON, `Given` and `Setting` as objects that stand for them."""
    if isinstance(value, Given):
        return {"$given": value.value}
    if isinstance(value, Setting):
        return {"$setting": value.name}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value
