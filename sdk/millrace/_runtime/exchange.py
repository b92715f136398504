"""HTTP requests and their answers, by the standard library and through the proxy that the environment names.

Loaded with a run's first request by a client: what it needs takes longer to load than most runs last. A connection by TLS is kept
for the run's next request to the same place; a plain one carries one request, since that is what the proxy serves.
"""

import base64
import contextlib
import functools
import http.client
import os
import select
import ssl
import threading
import time
import urllib.request
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from millrace import _run

Answered = tuple[int, str, list[tuple[str, str]], bytes]
"""Status, reason, headers and body."""
LARGEST = 64 * 1024 * 1024
"""Bytes of an answer."""

_PIECE = 1 << 16
_REPEATED = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))
"""Methods that mean the same done twice (RFC 9110): sent again where a kept connection turns out to be gone."""
_RESTS, _RESTS_SHORTLY = 30.0, 3.0
"""Seconds that a connection may have rested: servers close those at rest, few within 5 s. What is not repeated takes no chances."""
_KEPT = 8
"""Connections at rest: each counts towards what the run may have open."""


class Unanswered(Exception):
    """There is no whole answer, for this reason."""


class _Gone(Exception):
    """A kept connection has ended, and nothing of an answer has come."""


class _Place(NamedTuple):
    """Where a connection leads, and by which way."""

    host: str
    port: int | None
    proxy: str | None
    cafile: str | None


class _Request(NamedTuple):
    """What is sent, until a time of the clock that does not go back."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes | None
    until: float


class _Rested(NamedTuple):
    place: _Place
    since: float
    connection: http.client.HTTPConnection


class _Kept:
    """Connections at rest, of one run: another one of this process, or another process of it, has none of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._of: tuple[int, Any] = (0, None)
        self._resting: list[_Rested] = []

    def take(self, place: _Place, rests: float) -> http.client.HTTPConnection | None:
        """Answer a connection to this place that lives, by all signs, and has rested for so many seconds at most."""
        with self._lock:
            self._begin()
            now = time.monotonic()
            found = [one for one in self._resting if one.place == place and now - one.since < rests]
            while found:
                one = found.pop()  # the one that has rested least
                self._resting.remove(one)
                if not _has_ended(one.connection):
                    return one.connection
                one.connection.close()
        return None

    def put(self, place: _Place, connection: http.client.HTTPConnection) -> None:
        """Have a connection rest, in place of the one that has longest where there are too many."""
        with self._lock:
            self._begin()
            self._resting.append(_Rested(place, time.monotonic(), connection))
            while len(self._resting) > _KEPT:
                self._resting.pop(0).connection.close()

    def close(self) -> None:
        with self._lock:
            while self._resting:
                self._resting.pop().connection.close()

    def _begin(self) -> None:
        of = os.getpid(), _run.job
        if of[0] != self._of[0] or of[1] is not self._of[1]:
            self._of, resting, self._resting = of, self._resting, []
            for one in resting:
                # Of a process that was forked off this closes its own descriptor, and says nothing to the server.
                one.connection.close()


_kept = _Kept()
close = _kept.close


def exchanged(
    method: str, url: str, headers: dict[str, str], body: bytes | None, *, timeout: float, cafile: str | None
) -> Answered:
    """Send a request and answer status, reason, headers and body of the answer, whatever it is. Raises `Unanswered`.

    No redirect is followed. `timeout` is in seconds, until the last byte. `cafile` has further authorities. Raises OSError where it
    is none.
    """
    _context(cafile)
    until = time.monotonic() + timeout
    if "user-agent" not in {name.lower() for name in headers}:
        headers = {"User-Agent": "millrace", **headers}
    parts = urlsplit(url)
    # Anew for each, since a process may serve several runs, each with a proxy of its own.
    proxy = None if urllib.request.proxy_bypass(parts.netloc) else urllib.request.getproxies().get(parts.scheme)
    try:
        place = _Place(parts.hostname or "", parts.port, proxy, cafile)
        if parts.scheme != "https":
            connection, more = _plain(place)
            with contextlib.closing(connection):
                target = _target(url) if proxy is None else url
                return _told(connection, _Request(method, target, headers | more, body, until))
        request = _Request(method, _target(url), headers, body, until)
        kept = _kept.take(place, _RESTS if method in _REPEATED else _RESTS_SHORTLY)
        if kept is not None:
            try:
                return _by(kept, place, request, is_kept=True)
            except _Gone:
                if method not in _REPEATED:
                    raise Unanswered("the connection ended before the answer") from None
        return _by(_secure(place), place, request)
    except TimeoutError:
        raise Unanswered(f"no whole answer came in {timeout:g} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unanswered(f"{type(error).__name__}: {error}") from None


def _by(connection: http.client.HTTPConnection, place: _Place, request: _Request, *, is_kept: bool = False) -> Answered:
    """Send a request over a connection, which rests then if the server lets it."""
    try:
        told = _told(connection, request, is_kept=is_kept)
    except BaseException:
        connection.close()
        raise
    if connection.sock is not None:
        _kept.put(place, connection)
    return told


def _told(connection: http.client.HTTPConnection, request: _Request, *, is_kept: bool = False) -> Answered:
    """Send a request and answer what came back. Raises `_Gone`, `Unanswered`, TimeoutError, OSError, HTTPException."""
    connection.timeout = max(request.until - time.monotonic(), 0.001)
    if connection.sock is not None:
        connection.sock.settimeout(connection.timeout)
    try:
        try:
            connection.request(request.method, request.target, request.body, request.headers)
        except TimeoutError:
            raise
        except OSError as error:
            if is_kept:
                raise
            # What a proxy says of a tunnel stands in its text.
            raise Unanswered(str(error)) from None
        answer = connection.getresponse()
    except (ConnectionError, ssl.SSLError):
        if is_kept:
            raise _Gone from None
        raise
    with contextlib.closing(answer):
        content = _content(answer, request.until)
    told = answer.headers.get("Proxy-Status") or ""
    if told.startswith("millrace;") and not isinstance(connection, http.client.HTTPSConnection):
        raise Unanswered(content.decode(errors="replace").strip())
    return answer.status, answer.reason, answer.headers.items(), content


def _target(url: str) -> str:
    """Answer the part of an address that a server is sent."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _plain(place: _Place) -> tuple[http.client.HTTPConnection, dict[str, str]]:
    """Answer a connection for one request, and its further headers."""
    closing = {"Connection": "close"}
    if place.proxy is None:
        return http.client.HTTPConnection(place.host, place.port), closing
    host, port, credentials = _proxied(place.proxy)
    return http.client.HTTPConnection(host, port), closing | credentials


def _secure(place: _Place) -> http.client.HTTPSConnection:
    context = _context(place.cafile)
    if place.proxy is None:
        return http.client.HTTPSConnection(place.host, place.port, context=context)
    host, port, credentials = _proxied(place.proxy)
    connection = http.client.HTTPSConnection(host, port, context=context)
    connection.set_tunnel(place.host, place.port, credentials)
    return connection


def _proxied(proxy: str) -> tuple[str, int | None, dict[str, str]]:
    """Answer host and port of a proxy's address, and the header with its user and password."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if not parts.username:
        return parts.hostname or "", parts.port, {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return parts.hostname or "", parts.port, {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def _has_ended(connection: http.client.HTTPConnection) -> bool:
    """Answer whether the other side has closed a connection at rest, or said what nobody has asked."""
    looked = select.poll()
    looked.register(connection.sock, select.POLLIN)
    return bool(looked.poll(0))


def _content(answer: http.client.HTTPResponse, until: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := answer.read1(_PIECE):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise Unanswered(f"the answer has more than {LARGEST} bytes")
        if time.monotonic() > until:
            raise TimeoutError
    if answer.length:
        raise Unanswered(f"the answer ended {answer.length} bytes too early")
    return b"".join(parts)


@functools.cache
def _context(cafile: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cafile is not None:
        context.load_verify_locations(cafile)
    context.set_alpn_protocols(["http/1.1"])
    return context
