"""The one declaration of an endpoint: routing, decoding, authorization, audit, the OpenAPI document and its page follow from it.

A handler is declared in place; its annotation names the structs of its query and its body:

    @endpoint("POST", "/api/v1/runs/{id}/cancel", role="operator", answers={202: Cancelling}, errors=(NotFound, Conflict),
              audit=Audit("run", "cancel", "id"))
    async def cancel_run(call: Call[None, None]) -> Cancelling:
        '''Ask a run to stop; durable when this answers.'''

Many alike are made of data, by the same struct. `name` is then the handler's name in the document, `doc` its docstring:

    Endpoint(
        method="PUT",
        path=f"/api/v1/{plural}/{{name}}",
        role=resource.write,
        name=f"put_{noun}",
        doc=f"Create or replace a {noun}.",
        body=resource.spec,
        answers={200: Reply(resource.view, headers=(ETAG,))},
        headers=(IF_MATCH, IF_NONE_MATCH),
        errors=(Conflict, PreconditionFailed),
        audit=Audit(noun, "put", "name"),
        example=Example(body=resource.example),
        handler=put,
    )

The handler gets a `Call`: `call.path["name"]`, `call.query`, `call.body` (decoded and checked), `call.caller.org`,
`await call.ask(command)`. It returns the body of the first declared answer, an `Answer` (another status, a tag, a location), or
a response of aiohttp's. Where a handler wants a looser body than the documented one (a merge patch), `body` is decoded
and `documented` is shown. The parts of a path are checked by their name (`PARTS`): an `{id}` is a key, and an `{org}` is the
organization of the request. Errors that follow (`Invalid`, `Malformed`, `TooLarge`, `Unavailable` ...) are not declared.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, get_args, get_origin

import msgspec
from aiohttp import web

from shared.errors import (
    AddressTooLong,
    Invalid,
    Malformed,
    MillraceError,
    NotFound,
    PermissionDenied,
    TooLarge,
    TooMany,
    TooSlow,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from shared.questions import Command, Question
from shared.values import Key, Name, Path

if TYPE_CHECKING:
    from services.gateway.api.access import Caller
    from services.gateway.parts import Gateway

Role = Literal["viewer", "operator", "developer", "admin"]
Own = Literal["caller", "user"]
A = TypeVar("A")
Q = TypeVar("Q")
B = TypeVar("B")
Handler = Callable[[Any], Awaitable[Any]]

API = "/api/v1"
# What `{name}` names in the paths of a group.
_NAMED = {"workflows": "workflow", "data-providers": "workflow", "sources": "source"}
Code = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z]{4}[ -]?[A-Za-z]{4}\Z")]
"""What a device that signs in shows to a person."""
# The type of a path's part, by its name.
PARTS: dict[str, Any] = {"id": Key, "org": Key, "name": Name, "path": Path, "stream": Key, "code": Code}


class Audit(msgspec.Struct, frozen=True):
    """The audit of calls; `target` names the part of the path, or the field of the body, with the target's name.

    Without one the handler records `target` itself.
    """

    category: str
    verb: str
    target: str | None = None


class Header(msgspec.Struct, frozen=True):
    """A header that an endpoint reads, or an answer has; `schema` is its type."""

    name: str
    description: str
    schema: Any = str


IF_MATCH = Header("If-Match", "The tag of the version that is to be there, else 412; `*` for any.")
IF_NONE_MATCH = Header("If-None-Match", "`*`: nothing of that name is to be there, else 412.")
IDEMPOTENCY_KEY = Header("Idempotency-Key", "A request that is sent again with its key, up to 255 characters, is done once.")
LAST_EVENT_ID = Header("Last-Event-ID", "The id of the last event that was received: the stream goes on after it.")
CACHED = Header("If-None-Match", "The tag of the content that is there already: 304 when it is still the same.")
CHANGE = Header("X-Millrace-Change", "What was done: created, changed, or none where it was so already.")
ETAG = Header("ETag", "The tag of this version.")
LOCATION = Header("Location", "Where what was made is found.")


class Streamed:
    """The body of a call whose handler reads it from `call.request`, part by part."""


class Reply(msgspec.Struct, frozen=True):
    """An answer: the type of its body (None: it has none), its headers, and its media type or one of the others."""

    body: Any
    headers: tuple[Header, ...] = ()
    media: str = "application/json"
    other_media: tuple[str, ...] = ()


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A call that works and the status of its answer; `path` holds the parts whose example is not the usual one."""

    path: dict[str, str] = {}
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    body: Any = None
    status: int | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A handler's answer with more than a body: `tag` becomes the ETag, quoted; no `status` means the first declared."""

    body: Any = None
    status: int | None = None
    tag: str | int | None = None
    location: str | None = None
    headers: dict[str, str] = {}


class Call(Generic[Q, B]):
    """A call of an endpoint: `query` and `body` are decoded, `path` holds the checked parts of the path by name.

    `verb`, where the handler sets it, takes the place of the one that its audit declares. `unchanged`: what was asked for was so
    already, and of that success there is no audit.
    """

    def __init__(self, gateway: Gateway, caller: Caller, request: web.Request) -> None:
        self.gateway = gateway
        self.caller = caller
        self.request = request
        self.path: Mapping[str, str] = request.match_info
        self.query: Q
        self.body: B
        self.notes: dict[str, Any] = {}
        self.verb: str | None = None
        self.unchanged = False
        self.record: Callable[[], None] = _nothing

    async def ask(self, asked: Question[A] | Command[A]) -> A:
        """Ask a question or give a command; returns the declared answer."""
        return await self.gateway.bus.ask(asked)

    def note(self, **fields: Any) -> None:
        """Add to the audit of this call."""
        self.notes |= fields

    def done(self) -> None:
        """Have the audit record success from now on: that the answer takes longer is no part of the action."""
        self.record()


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint. `method` `*` is any; `role` is the least that a caller needs, None means public.

    `query` is a struct whose fields are the parameters. `body` is the type of the JSON body: None takes in one that means nothing.
    `answers` holds the type, or the `Reply`, of each success by status; the first is the usual one. `errors` are those that
    do not follow from the rest. With `every_org`, `?org=*` means all organizations. `platform`: it is about all of them, for keys
    of `global` alone. `whole`: it is for no key that is narrowed by scopes. `own`: it is about who calls, and so for every
    caller, or every user, whatever the role and the scopes. `page` makes the answer to an error where who calls is a person's
    browser. With `delegates` a call stands for calls of other endpoints, each of which is authorized and audited as its own: scopes
    are asked for there.
    """

    method: str
    path: str
    handler: Handler
    role: Role | None
    name: str
    doc: str
    answers: Mapping[int, Any]
    query: Any = None
    body: Any = None
    documented: Any = None
    body_limit: int | None = None
    headers: tuple[Header, ...] = ()
    errors: tuple[type[MillraceError], ...] = ()
    audit: Audit | None = None
    every_org: bool = False
    platform: bool = False
    whole: bool = False
    own: Own | None = None
    delegates: bool = False
    example: Example = Example()
    page: Callable[[MillraceError], web.Response] | None = None

    def __post_init__(self) -> None:
        """Raise TypeError for a declaration without effect."""
        if self.role is not None and self.is_direct:
            raise TypeError(f"{self.name} is given the request before its caller is known, and so can need no role")
        if self.role is None and self.audit is not None:
            raise TypeError(f"{self.name} is audited, and so has to know its caller by a role")

    @property
    def parts(self) -> list[str]:
        """Return the names of the path's parts, in order."""
        return [part[1:-1].partition(":")[0] for part in self.path.split("/") if part.startswith("{")]

    @property
    def tag(self) -> str:
        """Return the group of this endpoint: the first part of its path, where there are more."""
        first, *more = self.path.removeprefix(API).split("/")[1:]
        return first if more or self.path.startswith("/api") else "service"

    def scopes(self, path: Mapping[str, str]) -> tuple[str, ...]:
        """Return the scopes of a call with these parts of its path: its group, and its workflow or source; each allows it."""
        noun = _NAMED.get(self.tag)
        return (self.tag,) if noun is None or "name" not in path else (self.tag, f"{noun}:{path['name']}")

    @property
    def is_stream(self) -> bool:
        """Return whether an answer may go on for long."""
        return any(reply.media != "application/json" for reply in self.replies().values())

    @property
    def is_direct(self) -> bool:
        """Return whether the handler is given aiohttp's request as it came, with nothing done before."""
        return self.body is web.Request

    @property
    def takes_body(self) -> bool:
        """Return whether requests have a body that is read."""
        return self.method in {"POST", "PUT", "PATCH", "*"}

    def replies(self) -> dict[int, Reply]:
        """Return the successes by status."""
        return {status: one if isinstance(one, Reply) else Reply(one) for status, one in self.answers.items()}

    def refusals(self) -> tuple[type[MillraceError], ...]:
        """Return every error that a call may end in: the declared ones, and those that follow."""
        found: dict[type[MillraceError], None] = {Unavailable: None} if not self.is_direct else {}
        if self.role is not None:
            found |= dict.fromkeys((Unauthenticated, PermissionDenied, UnsupportedMediaType, TooMany, Invalid))
        if not self.is_direct and (
            {"id", "org"}.intersection(self.parts) or (self.role is not None and not self.platform and self.own is None)
        ):
            # A key of another organization finds none.
            found[NotFound] = None
        if not self.is_direct and (self.query is not None or self.parts):
            found |= dict.fromkeys((Invalid, Malformed))
        if self.query is not None or self.parts:
            found[AddressTooLong] = None
        if self.takes_body:
            found |= dict.fromkeys((Invalid, Malformed, TooLarge, TooSlow))
        found |= dict.fromkeys(self.errors)
        return tuple(sorted(found, key=lambda error: error.status))


def endpoint(
    method: str,
    path: str,
    *,
    role: Role | None,
    answers: Mapping[int, Any] | None = None,
    documented: Any = None,
    body_limit: int | None = None,
    headers: tuple[Header, ...] = (),
    errors: tuple[type[MillraceError], ...] = (),
    audit: Audit | None = None,
    every_org: bool = False,
    platform: bool = False,
    whole: bool = False,
    own: Own | None = None,
    delegates: bool = False,
    example: Example | None = None,
    page: Callable[[MillraceError], web.Response] | None = None,
) -> Callable[[Handler], Endpoint]:
    """Declare the handler below. Its parameter is a `Call[Query, Body]`, or the request itself; its docstring is shown.

    Without `answers` there is one, 200 with the type that the handler returns.
    """

    def declare(handler: Handler) -> Endpoint:
        hints = typing.get_type_hints(handler)
        returned = hints.pop("return")
        (call,) = hints.values()
        query, body = get_args(call) if get_origin(call) is Call else (None, call)
        return Endpoint(
            method=method,
            path=path,
            handler=handler,
            role=role,
            name=handler.__name__,
            doc=inspect.getdoc(handler) or "",
            answers=answers if answers is not None else {int(HTTPStatus.OK): returned},
            query=_type_of(query),
            body=_type_of(body),
            documented=documented,
            body_limit=body_limit,
            headers=headers,
            errors=errors,
            audit=audit,
            every_org=every_org,
            platform=platform,
            whole=whole,
            own=own,
            delegates=delegates,
            example=example or Example(),
            page=page,
        )

    return declare


def _type_of(argument: Any) -> Any:
    return None if argument is type(None) else argument


def _nothing() -> None:
    """Record nothing: the call is of an endpoint without an audit."""
