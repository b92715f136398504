"""A request as its sender sent it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from shared.errors import MillraceError, Unauthenticated
from shared.values import decode_sent

# More fields than any form has.
MOST_FIELDS = 10_000
_PORTS = {"http": 80, "https": 443}


class Headers(Protocol):
    """Headers by name, in any case, in the order in which they came."""

    def getall(self, key: str, default: tuple[str, ...], /) -> Sequence[str]:
        """Return every value of a header."""

    def keys(self) -> Iterable[str]:
        """Return the names of all headers, each as often as it stands."""

    def items(self) -> Iterable[tuple[str, str]]:
        """Return names and values, in order."""


class Received:
    """A request: `target` is its path and query as they were sent, `base` the part before them in the source's address."""

    __slots__ = ("_document", "_form", "_query", "base", "body", "headers", "method", "target")

    def __init__(self, method: str, headers: Headers, base: str, target: str, body: bytes = b"") -> None:
        self.method = method
        self.headers = headers
        self.base = base
        self.target = target
        self.body = body
        self._query: dict[str, list[str]] | None = None
        self._form: dict[str, list[str]] | None = None
        self._document: tuple[Any] | MillraceError | None = None

    @property
    def query(self) -> dict[str, list[str]]:
        """Return the query's parameters, each with all its values."""
        if self._query is None:
            self._query = _fields(self.target.partition("?")[2])
        return self._query

    @property
    def form(self) -> dict[str, list[str]]:
        """Return the fields of a form in the body, each with all its values. Raises `Unauthenticated` for too many."""
        if self._form is None:
            self._form = _fields(self.body.decode(errors="replace"))
        return self._form

    @property
    def document(self) -> Any:
        """Return the body as JSON. Raises `Unauthenticated` where it is none."""
        self.read()
        if isinstance(self._document, MillraceError):
            raise Unauthenticated(f"the body cannot be read: {self._document.detail}") from self._document
        return self._document[0] if self._document else None

    @property
    def names(self) -> list[str]:
        """Return the names of all headers."""
        return list(self.headers.keys())

    def having(self, *, base: str | None = None, target: str | None = None, body: bytes | None = None) -> Received:
        """Return the same request with another part."""
        return Received(
            self.method,
            self.headers,
            self.base if base is None else base,
            self.target if target is None else target,
            self.body if body is None else body,
        )

    def read(self) -> None:
        """Read the body as JSON, once, for when it is asked for; that takes its time."""
        if self._document is None:
            try:
                self._document = (decode_sent(self.body),)
            except MillraceError as error:
                self._document = error

    def named(self, name: str) -> str:
        """Return the value of a template's name that is the same in every scheme."""
        if name == "method":
            return self.method
        if name == "url":
            return self.base + self.target
        if name == "authority":
            return urlsplit(self.base).netloc
        if name == "url_other_port":
            return _with_other_port(self.base) + self.target
        return "".join(name + value for name in sorted(self.form) for value in sorted(set(self.form[name])))


def _fields(text: str) -> dict[str, list[str]]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise Unauthenticated(f"a form has up to {MOST_FIELDS:,} fields") from error
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    return fields


def _with_other_port(base: str) -> str:
    parts = urlsplit(base)
    host, colon, port = parts.netloc.rpartition(":")
    bare = not colon or not port.isdigit()
    return parts._replace(netloc=f"{parts.netloc}:{_PORTS.get(parts.scheme, 443)}" if bare else host).geturl()
