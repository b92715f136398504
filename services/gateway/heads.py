"""The heads of requests, bounded: their size, how many parameters they have, how long one may be unfinished.

A path has one writing here. What a proxy in front could read as another path than we do is refused before anything is looked up
or authorized, and so is what says in two ways where a body ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web import RequestPayloadError

from shared.errors import AddressTooLong, Malformed

# Bytes of a head and of its lines: four times those of the heaviest known sender, and nginx's default.
MOST_HEAD = 32 * 1024
MOST_LINE = 8190
MOST_HEADERS = 128
MOST_PARAMETERS = 256
# Recognizes a first line that was too long: aiohttp's error names the limit only.
MOST_FIELD = MOST_LINE + 1

# Of a target without its query: an empty segment, one of dots, a backslash, a fragment, or an escape of one of these, of a
# slash or of NUL. Whoever joins such segments, or decodes once more, sees another path than who does not.
_OTHERWISE = re.compile(r"//|/(?:\.|%2[eE]){1,2}(?:/|$)|[\\#]|%(?:00|2[fF]|5[cC])")
# Escapes of bytes that are no ASCII: they have to be UTF-8, in its shortest form.
_NO_ASCII = re.compile(r"%[89a-fA-F]")

# Errors of aiohttp and llhttp for a header that stands twice and may stand once.
_TWICE = re.compile(r"Duplicate '?([A-Za-z-]+)")


class Unacceptable(HttpProcessingError):
    """A head that is HTTP and is not taken, with the title of its refusal."""

    def __init__(self, status: int, title: str, detail: str) -> None:
        super().__init__(code=status, message=detail)
        self.title = title


_LARGE = "Request header fields too large"


def too_large() -> Unacceptable:
    """Return the refusal of a head that is too large."""
    return Unacceptable(431, _LARGE, f"a request's head has up to {MOST_HEAD} bytes")


class Heads:
    """aiohttp's parser of one connection, watched: it is fed in the parser's place, and knows where in a request it is.

    `since`: when the head that is not finished began, in the loop's time, or None between two requests. `began`: when the last
    head was finished. `body`: that of the last request. `broken`: the input was refused, and the rest is not looked at.
    """

    def __init__(self, parser: Any, now: Callable[[], float]) -> None:
        self._parser = parser
        self._now = now
        self._size = 0
        self._previous = 0
        # A silent connection has an unfinished head as well.
        self.since: float | None = now()
        self.began = self.since
        self.body: StreamReader = EMPTY_PAYLOAD
        self.broken = False
        # The rest of a parser's interface.
        self.feed_eof = parser.feed_eof
        self.message_consumed = parser.message_consumed
        self.pause_reading = parser.pause_reading
        self.set_upgraded = parser.set_upgraded

    @property
    def silent(self) -> bool:
        """Return whether nothing of the next request has come."""
        return not self._size

    def feed_data(self, data: bytes) -> tuple[Sequence[Any], bool, bytes]:
        """Parse received bytes. Raises `HttpProcessingError`, once; then this connection yields nothing more."""
        if self.broken:
            return (), False, b""
        in_body = not self.body.is_eof()
        try:
            messages, upgraded, _ = self._parser.feed_data(data)
            if upgraded:
                raise BadHttpMessage("no other protocol is spoken here")
            if messages:
                self._finished(messages, len(data))
            elif data and not in_body:
                self._unfinished(len(data))
        except HttpProcessingError as error:
            self._break(error)
            raise
        except Exception as error:
            self._break(error)
            raise BadHttpMessage("the request is not HTTP/1.1") from error
        self._previous = len(data)
        return messages, False, b""

    def _finished(self, messages: Sequence[Any], came: int) -> None:
        # A head may have begun at the end of the earlier bytes, too.
        if self._previous + self._size + came > MOST_HEAD:
            for message, _ in messages:
                if len(message.path) + sum(len(name) + len(value) + 4 for name, value in message.raw_headers) > MOST_HEAD:
                    raise too_large()
        for message, _ in messages:
            _check(message)
        self.body = messages[-1][1]
        self.began = self._now()
        self.since = None
        self._size = 0

    def _unfinished(self, came: int) -> None:
        if self.since is None:
            self.since = self._now()
        self._size += came
        if self._size > MOST_HEAD:
            raise too_large()

    def _break(self, error: Exception) -> None:
        self.broken = True
        if not self.body.is_eof():
            # A reader would wait for the rest.
            self.body.set_exception(RequestPayloadError(str(error)))


def _check(message: Any) -> None:
    """Raise `Unacceptable` for a head whose path, or whose body's end, others could read in another way."""
    target: str = message.path
    if target.count("&") >= MOST_PARAMETERS:
        raise Unacceptable(AddressTooLong.status, AddressTooLong.title, f"a query string has up to {MOST_PARAMETERS} parameters")
    path = (target if target.startswith("/") else message.url.raw_path).partition("?")[0]
    found = _OTHERWISE.search(path)
    if found is not None:
        raise Unacceptable(400, Malformed.title, f"the path has {found[0]!r}, with which it could mean two things")
    if "%" in path and _NO_ASCII.search(path):
        try:
            unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            raise Unacceptable(400, Malformed.title, "the path has escaped bytes that are no UTF-8") from None
    encoding = message.headers.get("Transfer-Encoding")
    if encoding is not None and (encoding.lower() != "chunked" or message.version < HttpVersion11):
        raise Unacceptable(400, Malformed.title, "Transfer-Encoding: the only one is chunked, of HTTP/1.1")


def refusal_of(error: BaseException | None) -> tuple[int, str, str]:
    """Return the status, the title and the detail with which a head is refused."""
    if isinstance(error, LineTooLong):
        if error.args[1] == MOST_LINE:
            return AddressTooLong.status, AddressTooLong.title, f"the first line of a request has up to {MOST_LINE} bytes"
        return 431, _LARGE, f"a header has up to {MOST_FIELD} bytes"
    if isinstance(error, Unacceptable):
        return error.code, error.title, error.message
    text = error.message.partition("\n")[0] if isinstance(error, HttpProcessingError) else ""
    if text.startswith("Too many headers"):
        return 431, _LARGE, f"a request has up to {MOST_HEADERS} headers"
    twice = _TWICE.match(text)
    if twice is not None:
        return 400, "Malformed", f"the header {twice[1]} stands more than once"
    return 400, "Malformed", "the request is not HTTP/1.1 (RFC 9112)"
