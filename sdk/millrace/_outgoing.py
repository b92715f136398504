"""Requests of a client: where they go, what they carry, and how far a redirect is followed."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict
from urllib.parse import quote, quote_plus, unquote, urlencode, urljoin, urlsplit

from millrace import _bounds
from millrace._connections import Connection
from millrace._runtime.encode import to_json
from millrace._trace import trace

_METHOD = re.compile("[A-Za-z]{1,20}")
_SCHEME = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_SAFE = "/%:@!$&'()*+,;=~-._"
_SHORTEST_SECRET = 8
"""Characters: a shorter text turns up by chance."""
_LONGEST = 16 * 1024
"""Characters of an address."""


class Options(TypedDict, total=False):
    """What a request may have besides.

    `params` are added to the query: lists several times, None not at all. `json` or `data`, which is bytes, text or the fields of a
    form, is the body. `timeout` is in seconds, until the last byte of the answer.
    """

    params: Mapping[str, Any] | None
    json: Any
    data: bytes | str | Mapping[str, Any] | None
    headers: Mapping[str, str] | None
    timeout: float


@dataclass(frozen=True)
class Outgoing:
    """A request to one address; `headers` are the author's. The credentials are added last: see `with_credentials`."""

    connection: str
    method: str
    url: str
    base_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    timeout: float = 30.0
    is_elsewhere: bool = False
    """Whether it goes to another place than that of the credentials, and therefore without any."""

    @property
    def path(self) -> str:
        """The address as it is given: below the base, else as a path from the root, else whole."""
        if self.is_elsewhere:
            return self.url
        base = (self.base_url or "").partition("?")[0].rstrip("/")
        if base and self.url.startswith((f"{base}/", f"{base}?")):
            return self.url.removeprefix(base)
        parts = urlsplit(self.url)
        return parts.path + (f"?{parts.query}" if parts.query else "")


def outgoing(name: str, method: str, url: str, options: Options, connection: Connection, timeout: float) -> Outgoing:
    """Answer the request that a call means. Raises TypeError or ValueError, which name what is wrong with it."""
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        msg = f"a method is letters, not {method!r}"
        raise ValueError(msg)
    wrong = options.keys() - Options.__annotations__.keys()
    if wrong:
        msg = f"{min(wrong)!r} is no option of a request: those are {', '.join(Options.__annotations__)}"
        raise TypeError(msg)
    headers = _headers(options.get("headers"))
    body, kind = _body(options)
    if kind is not None and "content-type" not in {name.lower() for name in headers}:
        headers["Content-Type"] = kind
    return Outgoing(
        connection=name,
        method=method.upper(),
        url=_address(url, connection, _pairs(options.get("params"), "params")),
        base_url=connection.base_url,
        headers=headers,
        body=body,
        timeout=_bounds.seconds(options.get("timeout", timeout), "timeout", above_zero=True),
    )


def with_credentials(request: Outgoing, connection: Connection) -> tuple[str, dict[str, str]]:
    """Answer the address and the headers that are sent: the connection's, in place of the author's of these names."""
    if request.is_elsewhere:
        return request.url, {}
    own = {name.lower() for name in connection.headers}
    headers = {name: value for name, value in request.headers.items() if name.lower() not in own} | connection.headers
    # Only to where the credentials go: whoever else is asked need not learn what the request is a part of.
    if (
        request.base_url is not None
        and (traceparent := trace.traceparent) is not None
        and "traceparent" not in map(str.lower, headers)
    ):
        headers["traceparent"] = traceparent
    return _with_query(request.url, list(connection.query.items())), headers


def redirected(request: Outgoing, location: str) -> Outgoing | None:
    """Answer the request that a redirect leads to, or None for one that is not followed.

    Only what reads is sent again. To another scheme, host or port it goes without credentials and without the author's headers; to
    http it does not go from https.
    """
    if request.method not in ("GET", "HEAD") or request.body is not None:
        return None
    try:
        url = _quoted(urljoin(request.url, location).partition("#")[0])
    except ValueError:
        return None
    if _problem(url) is not None or (urlsplit(request.url).scheme == "https" and urlsplit(url).scheme != "https"):
        return None
    is_elsewhere = request.is_elsewhere or _origin(url) != _origin(request.url)
    return replace(request, url=url, is_elsewhere=is_elsewhere, headers={} if is_elsewhere else request.headers)


def secrets_of(connection: Connection) -> tuple[str, ...]:
    """Answer the texts that must be in no error: the token, what carries it, and their forms in an address."""
    plain = {connection.token, *connection.headers.values(), *connection.query.values()}
    forms = {form for one in plain for form in (one, quote(one), quote(one, safe=""), quote_plus(one), json.dumps(one)[1:-1])}
    return tuple(form for form in forms if len(form) >= _SHORTEST_SECRET)


def _address(url: object, connection: Connection, params: list[tuple[str, str]]) -> str:
    given = _bounds.text(url, "the address of a request", _LONGEST, least=0).partition("#")[0]
    base = connection.base_url
    if _SCHEME.match(given):
        address = _quoted(given)
        problem = _problem(address)
        if problem is not None:
            msg = f"the address of a request {problem}"
            raise ValueError(msg)
        if base is not None and _origin(address) != _origin(base):
            msg = f"the credentials of connection {connection.name!r} are for {_shown(base)} only, not for {_shown(address)}"
            raise ValueError(msg)
        return _with_query(address, params)
    if base is None:
        msg = f"connection {connection.name!r} has no base_url: give the whole address, or the connection a base_url"
        raise ValueError(msg)
    path, _, query = given.partition("?")
    if any(unquote(segment) in (".", "..") for segment in re.split(r"[/\\]", path)):
        msg = "the path of a request has . and .. in no segment"
        raise ValueError(msg)
    root, _, of_base = base.partition("?")
    joined = f"{root.rstrip('/')}/{path.lstrip('/')}" if path else root
    whole = _quoted("?".join([joined, *filter(None, ["&".join(filter(None, [of_base, query]))])]))
    return _with_query(whole, params)


def _problem(address: str) -> str | None:
    """Answer what is wrong with a whole address, or None."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return "is none"
    if parts.scheme not in ("https", "http") or not parts.hostname or port == 0:
        return "begins with https:// or http:// and a host"
    return "has no user and no password" if "@" in parts.netloc else None


def _origin(address: str) -> tuple[str, str | None, int]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _shown(address: str) -> str:
    scheme, host, port = _origin(address)
    return f"{scheme}://{host}:{port}"


def _quoted(address: str) -> str:
    """Answer the address with everything percent-encoded that cannot stand in one."""
    head, _, query = address.partition("?")
    scheme, mark, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    made = f"{scheme.lower()}{mark}{host}{slash}{quote(path, safe=_SAFE)}"
    return f"{made}?{quote(query, safe=_SAFE + '?')}" if query else made


def _with_query(address: str, pairs: list[tuple[str, str]]) -> str:
    """Answer the address with these parameters, in place of those of their names."""
    if not pairs:
        return address
    head, _, query = address.partition("?")
    names = {name for name, _ in pairs}
    kept = [part for part in query.split("&") if part and unquote(part.partition("=")[0].replace("+", " ")) not in names]
    return f"{head}?{'&'.join([*kept, urlencode(pairs)])}"


def _pairs(given: object, what: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in _bounds.mapping(given, what).items():
        several: Iterable[Any] = value if isinstance(value, list | tuple | set | frozenset) else [value]
        found += [(name, str(one).lower() if isinstance(one, bool) else str(one)) for one in several if one is not None]
    return found


def _headers(given: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in _bounds.mapping(given, "headers").items():
        if not _HEADER.fullmatch(name) or not isinstance(value, str) or not _VALUE.fullmatch(value):
            msg = f"the header {name!r} cannot be sent: its value is text of latin-1 without line breaks"
            raise ValueError(msg)
        found[name] = value
    return found


def _body(options: Options) -> tuple[bytes | None, str | None]:
    """Answer the body of a request and its type."""
    data = options.get("data")
    if "json" in options:
        if data is not None:
            msg = "a request has json or data, not both"
            raise TypeError(msg)
        return to_json(options["json"], what="the json of a request", rich=True).encode(), "application/json"
    if data is None:
        return None, None
    if isinstance(data, bytes):
        return data, "application/octet-stream"
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    return urlencode(_pairs(data, "data")).encode(), "application/x-www-form-urlencoded"
