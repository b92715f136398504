"""Shared by the handlers: lists, versions and entity bodies over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

import msgspec
from aiohttp import web

from services.gateway.domain import expected_version
from shared.errors import Conflict, Malformed, PreconditionFailed
from shared.questions import Page
from shared.values import storable

MAX_LIMIT = 1000
MAX_IDEMPOTENCY_KEY = 255
Object = dict[str, Any]


class Paged(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of a list."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT, description="Items of one page.")] = 100
    cursor: Annotated[str, msgspec.Meta(description="The `next_cursor` of the page before.")] | None = None

    @property
    def page(self) -> Page:
        """Return the part of the list that is asked for."""
        return Page(limit=self.limit, cursor=self.cursor)


@contextlib.contextmanager
def creating(what: str, name: str) -> Iterator[None]:
    """Raise `Conflict` where the block finds that there is one of that name already, or that it is no name for a new one."""
    try:
        yield
    except PreconditionFailed as error:
        detail = error.detail if error.errors else f"there is a {what} {name!r} already"
        raise Conflict(detail, errors=error.errors) from error


def idempotency_key_of(request: web.Request) -> str | None:
    """Return the key by which a request that is sent again is known, as text that can be stored. Raises `Malformed`."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY:
        raise Malformed(f"an idempotency key has up to {MAX_IDEMPOTENCY_KEY} characters")
    return storable(key)


async def expected_of(request: web.Request, present: Callable[[], Awaitable[Any]]) -> int | None:
    """Return the version that If-Match or If-None-Match demand: 0 for none, None for any.

    `present` answers the entity with its `version`, or None where it is not there; it is asked only by `If-Match: *`.
    Raises `PreconditionFailed`.
    """
    if_match = request.headers.get("If-Match")
    if if_match is not None and if_match.strip() == "*":
        found = await present()
        if found is None:
            raise PreconditionFailed("If-Match: * wants it to be there, and it is not")
        return int(found.version)
    return expected_version(if_match, request.headers.get("If-None-Match"))
