"""`@adapter`: a kind of sender that Millrace has no adapter for, understood by a class of the workspace.

    from millrace import Event, Place, Request, Scheme, adapter

    @adapter(scheme=Scheme(signature=Place(header="x-acme-signature", prefix="sha256=")))
    class Acme:
        def parse(self, request: Request) -> Event:
            body = request.json()
            return Event(f"order.{body['state']}", body)

Its methods are called in a sandbox: no network, no credentials but the source's own, three seconds.
"""

import base64
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from millrace import _bounds, _declare
from millrace._registering import Registering, declared
from millrace._schemes import AnyScheme, Handshake, MessageSignature, Place, Scheme, WebToken

C = TypeVar("C", bound=type)

_METHODS = ("handshake", "verify", "delivery", "parse")
_MOST_CHALLENGE = 64 * 1024


class Unverified(Exception):
    """Raised by `verify`: the request is not the sender's. The message says why, to whoever tests the source."""


@dataclass(frozen=True)
class Event:
    """One thing that happened: its type, as the sender names it, and its data. `headers` are those that mean something."""

    type: str
    data: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """The answer to a handshake: `text/plain` or `application/json`; its headers have names that begin with X- or WebHook-."""

    body: str | bytes = ""
    status: int = 200
    content_type: str = "text/plain"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request to the source's address: header names in lower case, the body exactly as it came.

    Of a header or parameter that stands several times the last one is in `headers` and `query`, and all of them are in
    `all_headers` and `all_query`. `settings` and `secrets` are the source's. Of a request that is parsed, signatures and
    credentials in headers are not kept.
    """

    method: str = "POST"
    url: str = ""
    all_headers: tuple[tuple[str, str], ...] = ()
    all_query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    settings: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """The headers, by name in lower case."""
        return dict(self.all_headers)

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query."""
        return dict(self.all_query)

    def json(self) -> Any:
        """Answer the body as JSON. Raises ValueError."""
        return json.loads(self.body)

    def form(self) -> dict[str, list[str]]:
        """Answer the fields of a form, each with all its values."""
        found: dict[str, list[str]] = {}
        for name, value in parse_qsl(self.body.decode(errors="replace"), keep_blank_values=True):
            found.setdefault(name, []).append(value)
        return found

    def text(self) -> str:
        """Answer the body as UTF-8; other bytes become U+FFFD."""
        return self.body.decode(errors="replace")


@dataclass(frozen=True)
class Declared:
    """What a class declares for requests to be judged by."""

    schemes: list[AnyScheme]
    handshakes: list[Handshake]
    credentials: list[Place] = field(default_factory=list)


_DECLARED: dict[type, Declared] = {}


def adapter_of(target: object) -> Declared | None:
    """Answer what an adapter declares; None for what is no adapter."""
    return _DECLARED.get(target) if isinstance(target, type) else None


def adapter(
    *,
    name: str | None = None,
    scheme: AnyScheme | Sequence[AnyScheme] = (),
    handshakes: Sequence[Handshake] = (),
    secrets: Sequence[str] | Mapping[str, str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    required: Sequence[str] | None = None,
    methods: Sequence[str] = ("POST",),
    content_types: Sequence[str] | None = None,
    event_types: Sequence[str] = (),
    link: str | None = None,
    entity: str | None = None,
    credentials: Sequence[Place] = (),
    registering: Registering | None = None,
) -> Callable[[C], C]:
    """Declare a class as an adapter, which sources of the organization may name; the class itself is returned unchanged.

    `parse(request)` answers the `Event` that a genuine request means, or several. A request is genuine when any `scheme` says so,
    or where there is none, when `verify(request)` answers True; it may raise `Unverified` with the reason. `handshake(request)`
    answers a `Response` to a question whether the address takes webhooks, else None, and is asked first; where there is a scheme,
    only of requests that are not genuine by it. `delivery(request)` answers the sender's own id of a delivery, where `verify`
    decides.

    `name` is the class's own in lower case unless given. `secrets` names the settings that are secret, with a description if you
    like: `secret` unless given, and none where no scheme and no `verify` wants one; a `previous_secret` goes with it. `settings`
    are JSON Schemas of others. `required` are those without which no source is made: the secrets unless given. `entity` is the path
    in an event of what tells whose it is, such as `event.data.account`, for a source that serves several organizations.
    `credentials` are headers and query parameters whose values are not kept, nor given to `parse`, besides those of the schemes and
    those that hold a secret of the source: a code that `verify` computes, for instance.
    With `registering` a source may have itself registered with the sender.

    Raises TypeError or ValueError at once for a declaration that can never work.
    """

    def declare(target: C) -> C:
        if not isinstance(target, type):
            msg = f"only a class can be an adapter, not {type(target).__name__}"
            raise TypeError(msg)
        schemes = [scheme] if isinstance(scheme, AnyScheme) else list(scheme)
        code = [method for method in _METHODS if callable(getattr(target, method, None))]
        _check(target, code, schemes)
        hidden = _hidden(credentials)
        named = dict.fromkeys(secrets, "") if secrets is not None and not isinstance(secrets, Mapping) else secrets
        if named is None:
            named = {"secret": "Shared with the sender."} if _wants_secret(schemes, handshakes, code) else {}
        told = {
            "verification": {
                "schemes": [_plain(one) for one in schemes if isinstance(one, Scheme)],
                **_of_kind("tokens", schemes, WebToken),
                **_of_kind("messages", schemes, MessageSignature),
                "handshakes": [_plain(one) for one in handshakes],
                "methods": list(methods),
                **({} if content_types is None else {"content_types": list(content_types)}),
                **({"redacted": hidden} if hidden else {}),
            },
            "secrets": {one: str(text) for one, text in named.items()},
            "settings": {one: dict(schema) for one, schema in (settings or {}).items()},
            "required": list(named if required is None else required),
            "code": [one for one in code if one != "parse"],
            "event_types": list(event_types),
            "link": link,
            "entity": entity,
            **({} if registering is None else {"registering": declared(registering)}),
        }
        chosen = target.__name__.lower() if name is None else name
        _declare.register_adapter(_answering(target), chosen, told)
        _DECLARED[target] = Declared(schemes, list(handshakes), list(credentials))
        return target

    return declare


def _check(target: type, code: Sequence[str], schemes: Sequence[object]) -> None:
    """Raise TypeError or ValueError for a class that can be no adapter."""
    if "parse" not in code:
        msg = f"{target.__name__} has no method parse, which makes the events of a request"
        raise TypeError(msg)
    for method in code:
        if inspect.iscoroutinefunction(getattr(target, method)) or inspect.isasyncgenfunction(getattr(target, method)):
            msg = f"{target.__name__}.{method} is a coroutine: the methods of an adapter are plain functions"
            raise TypeError(msg)
    for one in schemes:
        if not isinstance(one, AnyScheme):
            msg = f"scheme is a Scheme, a WebToken or a MessageSignature, or several, not {type(one).__name__}"
            raise TypeError(msg)
    if schemes and "verify" in code:
        msg = f"{target.__name__} has both a scheme and a method verify: either decides whether a request is genuine"
        raise ValueError(msg)
    if not schemes and "verify" not in code:
        msg = f'{target.__name__} verifies nothing: give it a scheme or a method verify; Scheme(algorithm="none") asks for none'
        raise ValueError(msg)
    if schemes and "delivery" in code:
        msg = f"{target.__name__}.delivery is never called: where there is a scheme, its `delivery` is the place of the sender's id"
        raise ValueError(msg)


def _hidden(credentials: Sequence[object]) -> list[Any]:
    """Return the places of credentials as JSON. Raises TypeError or ValueError for one whose value could not be left out."""
    for one in credentials:
        if not isinstance(one, Place):
            msg = f"credentials are places, such as Place(header=...), not {type(one).__name__}"
            raise TypeError(msg)
        if (one.header is None) == (one.query is None):
            msg = "a credential's place is a header or a query parameter: a body is kept as it came"
            raise ValueError(msg)
    return [_plain(one) for one in credentials]


def _of_kind(name: str, schemes: Sequence[AnyScheme], kind: type) -> dict[str, Any]:
    found = [_plain(one) for one in schemes if isinstance(one, kind)]
    return {name: found} if found else {}


def _wants_secret(schemes: Sequence[AnyScheme], handshakes: Sequence[Handshake], code: Sequence[str]) -> bool:
    of_scheme = any("secret" in one.keys and (not isinstance(one, Scheme) or one.algorithm != "none") for one in schemes)
    return of_scheme or "verify" in code or any(one.digest or one.token for one in handshakes)


def _plain(value: Any) -> Any:
    """Answer a declaration as JSON, without what is as it is anyway."""
    if is_dataclass(value) and not isinstance(value, type):
        found = {}
        for one in fields(value):
            given = getattr(value, one.name)
            usual = one.default_factory() if one.default_factory is not MISSING else one.default
            if given != usual:
                found[one.name] = _plain(given)
        return found
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _answering(target: type) -> Callable[..., dict[str, Any]]:
    """Return the function by which a child serves the adapter."""

    def answer(act: str, request: dict[str, Any], settings: dict[str, Any], secrets: dict[str, str]) -> dict[str, Any]:
        asked = Request(
            method=request["method"],
            url=request["url"],
            all_headers=tuple((name.lower(), value) for name, value in request["headers"]),
            all_query=tuple((name, value) for name, value in request["query"]),
            body=base64.b64decode(request["body_base64"]),
            settings=settings,
            secrets=secrets,
        )
        return answered(target(), act, asked)

    answer.__module__, answer.__qualname__, answer.__doc__ = target.__module__, target.__qualname__, target.__doc__
    return answer


def answered(served: Any, act: str, request: Request) -> dict[str, Any]:
    """Have an adapter do one thing: `parse`, or `receive`, which is a handshake and the verification, or the `handshake` alone."""
    if act == "parse":
        return {"events": [_event(one) for one in _several(served.parse(request))]}
    handshake = getattr(served, "handshake", None)
    response = None if handshake is None else handshake(request)
    if response is not None:
        return {"reply": _reply(response)}
    if act == "handshake":
        return {}
    try:
        genuine = served.verify(request)
    except Unverified as error:
        return {"refused": str(error) or "the adapter's verify raised Unverified, without a reason"}
    if genuine is not True:
        if genuine is not False:
            # Code that has forgotten to return what it found out would let everybody in.
            msg = f"verify answers True or False, not {genuine!r}"
            raise TypeError(msg)
        return {"refused": "the adapter's verify answered False"}
    delivery = getattr(served, "delivery", None)
    named = None if delivery is None else delivery(request)
    return {"genuine": True, "delivery": None if named is None else _bounds.text(named, "the sender's id of a delivery")}


def _several(made: Any) -> list[Any]:
    if made is None or isinstance(made, Event):
        return [] if made is None else [made]
    if isinstance(made, Iterable) and not isinstance(made, str | bytes | Mapping):
        return list(made)
    msg = f"parse answers an Event or several, not {type(made).__name__}"
    raise TypeError(msg)


def _event(made: Any) -> dict[str, Any]:
    if not isinstance(made, Event):
        msg = f"parse answers an Event or several, and one of them is {type(made).__name__}"
        raise TypeError(msg)
    headers = {str(name): str(value) for name, value in made.headers.items()}
    return {"type": _bounds.text(made.type, "an event's type"), "data": made.data, "headers": headers}


def _reply(made: Any) -> dict[str, Any]:
    if not isinstance(made, Response):
        msg = f"handshake answers a Response or None, not {type(made).__name__}"
        raise TypeError(msg)
    body = made.body.encode() if isinstance(made.body, str) else bytes(made.body)
    if len(body) > _MOST_CHALLENGE:
        msg = f"the answer to a handshake has at most {_MOST_CHALLENGE} bytes"
        raise ValueError(msg)
    return {
        "status": _bounds.whole(made.status, "status", 200, 599),
        "content_type": made.content_type,
        "headers": {str(name): str(value) for name, value in made.headers.items()},
        "body_base64": base64.b64encode(body).decode(),
    }
