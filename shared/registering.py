"""The declaration by which sources of an adapter, in a workspace, are registered with their sender: data, as JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from shared.schemas import checker_of
from shared.verification import Declared

# Objects of one field stand for values that are known later: those that the platform gives, and those of a source's settings.
GIVEN, SETTING = "$given", "$setting"
_GIVEN = frozenset({"callback", "secret", "expires"})
# The setting of a source that asks for it, and the one that every adapter's has.
REGISTRATION, API_URL = "registration", "api_url"
ADDRESS = r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~-]+)*$"
_PART = re.compile(r"[A-Za-z0-9._~-]{1,200}\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}\Z")
# The token is put in by the platform, and the rest makes out what is asked.
_OWN_HEADERS = frozenset({"authorization", "connection", "content-length", "content-type", "cookie", "host", "transfer-encoding"})
LONGEST_LIFE = 400 * 86400


class DeclaredRegistering(Declared, frozen=True, kw_only=True):
    """See `millrace.Registering`."""

    api: str
    collection: list[str | dict[str, str]]
    created: dict[str, Any]
    callback: str
    renewed: dict[str, Any] | None = None
    renew: Literal["PATCH", "PUT", "POST"] = "PATCH"
    settings: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    required: list[str] = msgspec.field(default_factory=list)
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    id: str = "id"
    answer: str = ""
    items: str = ""
    next: str | None = None
    expires: str | None = None
    lifetime: int = 0
    secret: str = ""
    form: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for what can never register a source, or would have more sent than it says."""
        if not re.match(ADDRESS, self.api) or len(self.api) > 500:
            raise ValueError(f"registering: api is the https address of an API without a query, not {self.api[:120]!r}")
        for part in self.collection:
            if isinstance(part, str) and (not _PART.match(part) or part in {".", ".."}):
                raise ValueError(f"registering: {part[:120]!r} is no part of a path: each part stands for itself")
        if not self.collection or len(self.collection) > 20:
            raise ValueError("registering: collection has 1 to 20 parts")
        for name in self.settings:
            if not _NAME.match(name) or name == API_URL:
                raise ValueError(f"registering: {name[:120]!r} cannot be the name of a setting")
        checker_of(msgspec.json.encode({"type": "object", "properties": self.settings}))
        self._check_values()
        for name, value in self.headers.items():
            if not _HEADER.match(name) or name.lower() in _OWN_HEADERS or not (value.isascii() and value.isprintable()):
                raise ValueError(f"registering: {name[:120]!r} is no header that an adapter sends")
        if not self.callback or not self.id:
            raise ValueError("registering: id and callback say where these stand in the sender's answers")
        if not 0 <= self.lifetime <= LONGEST_LIFE or (self.expires is not None and not self.lifetime):
            raise ValueError("registering: what expires has a lifetime, in seconds")

        if self.secret and self.tells_secret:
            raise ValueError("registering: the secret is made up by the platform, or by the sender, not by both")

    def _check_values(self) -> None:
        used = list(stands_for([self.collection, self.created, self.renewed]))
        for kind, name in used:
            if name not in (_GIVEN if kind == GIVEN else self.settings):
                raise ValueError(f"registering: {name[:120]!r} is nowhere declared")
        if any(isinstance(part, dict) and SETTING not in part for part in self.collection):
            raise ValueError("registering: a part of collection is a text or a Setting")
        if (GIVEN, "callback") not in stands_for(self.created):
            raise ValueError("registering: created tells the sender no Given.CALLBACK, so that nothing would be sent here")
        unknown = next((name for name in self.required if name not in self.settings), None)
        if unknown is not None:
            raise ValueError(f"registering: it requires {unknown[:120]!r}, which is none of its settings")

    @property
    def tells_secret(self) -> bool:
        """Return whether the sender is told the source's secret."""
        return (GIVEN, "secret") in stands_for(self.created)


def stands_for(value: Any) -> Iterator[tuple[str, str]]:
    """Yield what stands for a value that is known later, anywhere within. Raises ValueError for an object that only half does."""
    if isinstance(value, dict):
        kind = next((kind for kind in (GIVEN, SETTING) if kind in value), None)
        if kind is not None:
            if len(value) != 1 or not isinstance(value[kind], str):
                raise ValueError(f"registering: an object with {kind} has that alone")
            yield kind, value[kind]
            return
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from stands_for(one)
