"""The HTTP API as this command speaks it: one kept connection, problem documents as errors, lists page by page.

On the standard library: the SDK, which this is shipped with, depends on nothing.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from email.message import Message
from typing import Any, BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from millrace.cli.show import plain

Document = dict[str, Any]
Query = Mapping[str, str | int | float | None]

# Seconds. An answer may take as long as the longest `wait` of a run, and the registration of a workspace's code.
CONNECTED_WITHIN = 10.0
ANSWERED_WITHIN = 90.0
# A stream sends something at least every 15 s.
SILENT_FOR = 45.0
LARGEST_PAGE = 1000
UNAUTHENTICATED = 401
TOO_MANY = 429
# Bytes of an answer that is passed on as it comes.
PART = 64 * 1024
# Errors of a connection; a host's name that cannot be encoded is a UnicodeError.
FAILURES = (OSError, http.client.HTTPException, UnicodeError)


class Refused(Exception):
    """The API answered no. As text: one sentence that names each `errors[].path`, and of a 429 when to try `again`, in seconds."""

    def __init__(self, status: int, document: Any, again: str | None = None) -> None:
        when = f": try again in {plain(again)} s" if again and status == TOO_MANY else ""
        super().__init__(f"{_sentence(status, document)}{when}")
        self.status = status
        self.document: Document = document if isinstance(document, dict) else {}
        self.problems = _problems(document) or [("", str(self))]

    @property
    def is_passing(self) -> bool:
        """Whether to ask again: a part of the other side is away, as at every restart."""
        return self.status in {502, 503, 504}


class Unreachable(Exception):
    """No server answers at an address. As text: the address, and the reason."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot reach {url}: {reason}")


class Api:
    """Speaks to one address; `key` and `org` go with every request."""

    def __init__(self, url: str, *, key: str | None = None, org: str | None = None) -> None:
        self.url = url
        parts = urlsplit(url)
        self._prefix = parts.path
        self._key, self._org = key, org
        self._secure = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port
        self._headers = {"Accept": "application/json", "User-Agent": "millrace"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        if org is not None:
            self._headers["X-Millrace-Org"] = org
        self._connection: http.client.HTTPConnection | None = None

    def another(self) -> Api:
        """Return another one to the same address, with a connection of its own: one is for one thread."""
        return Api(self.url, key=self._key, org=self._org)

    def get(self, *path: str, query: Query | None = None) -> Any:
        """Return the document at a path below /api/v1: the first part as it is, the others quoted."""
        return self.call("GET", *path, query=query)

    def call(
        self, method: str, *path: str, query: Query | None = None, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Any:
        """Return the answer's document, None for an empty one; `body` is sent as JSON. Raises `Refused`, `Unreachable`."""
        content = None if body is None else json.dumps(body).encode()
        given = dict(headers or {}) if body is None else {"Content-Type": "application/json", **(headers or {})}
        return self.send(method, address(f"/api/v1{path[0]}", *path[1:], query=query), content, given)[1]

    def change(
        self,
        method: str,
        *path: str,
        query: Query | None = None,
        body: Any = None,
        org: str,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Document, str]:
        """Put or patch a resource of an organization; returns it, and the effect: created, changed, none."""
        given = {"Content-Type": "application/json", "X-Millrace-Org": org, **(headers or {})}
        target = address(f"/api/v1{path[0]}", *path[1:], query=query)
        _, answered, document = self.answered(method, target, json.dumps(body).encode(), given)
        return document, answered.get("X-Millrace-Change", "changed")

    def put_file(self, path: str, content: BinaryIO, size: int, headers: Mapping[str, str], query: Query | None = None) -> Document:
        """Store a workspace file, streamed; returns its view, with the problems of the workspace's code."""
        given = {"Content-Length": str(size), "Content-Type": "application/octet-stream", **headers}
        target = address("/api/v1/workspace/files", *path.split("/"), query=query)
        view: Document = self.send("PUT", target, content, given)[1]
        return view

    def commit(self, tar: BinaryIO, size: int, query: Query | None = None) -> Document:
        """Change workspace files by a tar, all or none; returns their views by path, and the problems of the workspace."""
        given = {"Content-Length": str(size), "Content-Type": "application/x-tar"}
        done: Document = self.send("POST", address("/api/v1/workspace/commits", query=query), tar, given)[1]
        return done

    def read_file(self, path: str) -> bytes:
        """Return the content of a workspace file. Raises `Refused`, `Unreachable`."""
        status, _, body = self.exchange("GET", address("/api/v1/workspace/files", *path.split("/")), None, {})
        if status != 200:
            raise Refused(status, _json_or_none(body))
        return body

    def pages(self, *path: str, query: Query | None = None, limit: int = 0, headers: Mapping[str, str] | None = None) -> Document:
        """Return a list as one document of up to `limit` items, 0 for all; it has a `next_cursor` if there are more."""
        items: list[Any] = []
        cursor: str | None = None
        while True:
            wanted = min(LARGEST_PAGE, limit - len(items)) if limit else LARGEST_PAGE
            page = self.call("GET", *path, query={**(query or {}), "limit": wanted, "cursor": cursor}, headers=headers)
            if not isinstance(page, dict) or not isinstance(page.get("items"), list) or "next_cursor" not in page:
                raise Refused(200, {"detail": f"{self.url} answered with something else than a list"})
            items += page["items"]
            if cursor is not None and page["next_cursor"] == cursor:
                raise Refused(200, {"detail": f"{self.url} answered with the same page again"})
            cursor = page["next_cursor"]
            if cursor is None or (limit and len(items) >= limit):
                return {"items": items, "next_cursor": cursor}

    def send(self, method: str, target: str, content: bytes | BinaryIO | None, headers: Mapping[str, str]) -> tuple[int, Any]:
        """Return the status and the document of one request to an absolute path. Raises `Refused`, `Unreachable`."""
        status, _, document = self.answered(method, target, content, headers)
        return status, document

    def answered(
        self, method: str, target: str, content: bytes | BinaryIO | None, headers: Mapping[str, str]
    ) -> tuple[int, Message, Any]:
        """Return the status, the headers and the document of one request. Raises as `send`."""
        status, answered, body = self.exchange(method, target, content, headers)
        try:
            document = json.loads(body) if body else None
        except (ValueError, RecursionError):
            document = {"detail": f"{self.url} answered {status} with {answered.get_content_type()} instead of JSON"}
            status = max(status, 400)
        if status >= 300:
            raise Refused(status, document, answered["Retry-After"])
        return status, answered, document

    def exchange(
        self, method: str, target: str, content: bytes | BinaryIO | None, headers: Mapping[str, str]
    ) -> tuple[int, Message, bytes]:
        """Return the status, headers and body of any answer. Raises `Unreachable`."""
        # A request that does something each time it is sent must not meet a connection that the other end has given up.
        kept = self._connection is not None and method != "POST"
        try:
            return self._exchange(method, target, content, headers, fresh=not kept)
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            if not kept:
                raise Unreachable(self.url, _reason(error)) from error
        except FAILURES as error:
            self.close()
            raise Unreachable(self.url, _reason(error)) from error
        if isinstance(content, io.IOBase):
            content.seek(0)
        try:
            return self._exchange(method, target, content, headers, fresh=True)
        except FAILURES as error:
            self.close()
            raise Unreachable(self.url, _reason(error)) from error

    def lines(self, *path: str, query: Query | None = None, headers: Mapping[str, str], until: float) -> Iterator[str]:
        """Yield the lines of an answer that goes on, over a connection of its own, to its end or up to a time (monotonic).

        Raises `Refused`, `Unreachable`, also when nothing is heard for much longer than the other end is ever silent.
        """
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connected()
            given = {**self._headers, **headers, "Accept": "text/event-stream"}
            connection.request("GET", self._prefix + address(f"/api/v1{path[0]}", *path[1:], query=query), None, given)
            sock = connection.sock
            response = connection.getresponse()
            if response.status >= 300:
                raise Refused(response.status, _json_or_none(response.read()))
            while True:
                sock.settimeout(max(0.001, min(SILENT_FOR, until - time.monotonic())))
                line = response.readline()
                if not line:
                    return
                yield line.decode()
        except FAILURES as error:
            if isinstance(error, TimeoutError) and time.monotonic() >= until:
                return
            raise Unreachable(self.url, _reason(error)) from error
        finally:
            if connection is not None:
                connection.close()

    def parts(self, *path: str, query: Query | None = None) -> Iterator[bytes]:
        """Yield the body at a path below /api/v1 as it comes, over a connection of its own. Raises `Refused`, `Unreachable`."""
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._connected()
            connection.request("GET", self._prefix + address(f"/api/v1{path[0]}", *path[1:], query=query), None, self._headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise Refused(response.status, _json_or_none(response.read()))
            while part := response.read1(PART):
                yield part
            if response.length:
                raise Unreachable(self.url, f"the answer ended {response.length} bytes too early")
        except FAILURES as error:
            raise Unreachable(self.url, _reason(error)) from error
        finally:
            if connection is not None:
                connection.close()

    def close(self) -> None:
        """Give the connection up."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(
        self, method: str, target: str, content: bytes | BinaryIO | None, headers: Mapping[str, str], *, fresh: bool
    ) -> tuple[int, Message, bytes]:
        if fresh or self._connection is None:
            self.close()
            self._connection = self._connected()
        # A refusal may come before a body is sent whole; then it is read all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.request(method, self._prefix + target, content, {**self._headers, **headers})
        response = self._connection.getresponse()
        body = response.read()
        if response.will_close:
            self.close()
        return response.status, response.headers, body

    def _connected(self) -> http.client.HTTPConnection:
        if self._secure:
            context = ssl.create_default_context()
            made: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECTED_WITHIN, context=context
            )
        else:
            made = http.client.HTTPConnection(self._host, self._port, timeout=CONNECTED_WITHIN)
        made.connect()
        made.sock.settimeout(ANSWERED_WITHIN)
        return made


def address(*path: str, query: Query | None = None) -> str:
    """Return a path for a request: the first part as it is, the others quoted whole, then what is asked that is not None."""
    quoted = "/".join([path[0], *(quote(part, safe="", errors="surrogateescape") for part in path[1:])])
    asked = {name: value for name, value in (query or {}).items() if value is not None and value != ""}
    return f"{quoted}?{urlencode(asked, errors='replace')}" if asked else quoted


def _json_or_none(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _sentence(status: int, document: Any) -> str:
    document = document if isinstance(document, dict) else {}
    detail = str(document.get("detail") or document.get("title") or f"the answer was {status}").rstrip(".")
    # The sentence may have these already.
    problems = [one for one in _problems(document) if not (detail.startswith(f"{one[0]} ") and one[1] in detail)]
    paths = "; ".join(path if message in detail else f"{path}: {message}" for path, message in problems)
    return plain(" ".join((f"{detail} ({paths})" if paths else detail).split()))


def _problems(document: Any) -> list[tuple[str, str]]:
    """Return the path and the message of each problem that the answer names."""
    errors = document.get("errors") if isinstance(document, dict) else None
    found = [error for error in errors if isinstance(error, dict)] if isinstance(errors, list) else []
    return [(str(error.get("path")), str(error.get("message"))) for error in found]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
