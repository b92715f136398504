"""HTTP as Millrace speaks it: problem documents (RFC 9457), JSON answers, request ids, bodies read in bounds."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web, web_response, web_urldispatcher

from shared import tracing
from shared.envelope import new_id
from shared.errors import (
    Malformed,
    MethodNotAllowed,
    MillraceError,
    NotFound,
    Problem,
    RangeNotSatisfiable,
    RateExceeded,
    TooLarge,
    TooSlow,
)

PROBLEM_JSON = "application/problem+json"
# The type of problem that draft-ietf-httpapi-ratelimit-headers registers.
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
# Bodies of API requests; files and webhooks have limits of their own.
JSON_LIMIT = 4 * 1024 * 1024

# aiohttp puts its version and Python's into every answer, also into those that it gives before a handler of ours is asked: this
# is the one place that both kinds look at.
web_response.SERVER_SOFTWARE = "millrace"  # type: ignore[attr-defined]

# Sent once a body is wanted, to a client that asks before it sends one.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

T = TypeVar("T")
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger()
_encoder = msgspec.json.Encoder()


class Pace(msgspec.Struct, frozen=True):
    """The slowest arrival of a body.

    A reader waits at most `grace` seconds for it; each `rate` bytes that arrive give a second of that back. The whole body is
    there after `whole` seconds. Time without a reader does not count against the grace.
    """

    grace: float
    rate: float
    whole: float


# A sender that is well has sent 64 KiB within one round trip, and one that loses packets is silent for some seconds while TCP
# tries again: ten are enough for both, and for a small body on any line. The least rate is below that of a modem; the largest
# webhook, 25 MiB, takes two minutes at 1.7 Mbit/s, and no known sender waits half as long for its answer.
PACE = Pace(grace=10.0, rate=1024.0, whole=120.0)

# Counts the bytes that a request holds in memory, if set: called before they are kept, raises where there is no room.
TAKE: web.RequestKey[Callable[[int], None]] = web.RequestKey("take")


class ProblemDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a request was refused (RFC 9457). `errors` names the faulty parts of an input, `violated-policies` the limits."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[Problem, ...] = ()
    violated_policies: tuple[str, ...] = msgspec.field(default=(), name="violated-policies")


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with `body` as JSON."""
    return web.Response(body=_encoder.encode(body), status=status, headers=headers, content_type="application/json")


def problem(
    status: int,
    title: str,
    detail: str,
    *,
    errors: tuple[Problem, ...] = (),
    retry_after: float | None = None,
    violated: tuple[str, ...] = (),
) -> web.Response:
    """Answer with a problem document (RFC 9457); with the names of limits, where such were `violated`."""
    kind = QUOTA_EXCEEDED if violated else "about:blank"
    document = ProblemDocument(type=kind, title=title, status=status, detail=detail, errors=errors, violated_policies=violated)
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return web.Response(body=_encoder.encode(document), status=status, headers=headers, content_type=PROBLEM_JSON)


def problem_of(error: MillraceError) -> web.Response:
    """Answer with the problem document of an error of the tree."""
    violated = (error.limit,) if isinstance(error, RateExceeded) else ()
    answer = problem(error.status, error.title, error.detail, errors=error.errors, retry_after=error.retry_after, violated=violated)
    if isinstance(error, MethodNotAllowed):
        answer.headers["Allow"] = ", ".join(error.allowed)
    if isinstance(error, RangeNotSatisfiable):
        answer.headers["Content-Range"] = f"bytes */{error.size}"
    return answer


async def _expected(request: web.Request) -> web.StreamResponse | None:
    """Refuse any unknown expectation. `100 Continue` is sent once the body is read (`Arriving`), not before."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        return None
    answer = problem(417, "Expectation failed", "Expect: the only thing that can be expected is 100-continue")
    answer.force_close()
    return answer


# Routes that do not exist expect the same, and only this name is asked for all of them. aiohttp's own repeats the header in its
# answer, and fails where that is no UTF-8.
web_urldispatcher._default_expect_handler = _expected  # type: ignore[assignment]  # noqa: SLF001


async def answered(request: web.Request, handler: Next) -> web.StreamResponse:
    """Give a request an id, have it handled, and turn every error into a problem document."""
    request_id = new_id()
    # A connection's requests come one after the other in one task, so nothing has to be undone: the next one binds its own.
    structlog.contextvars.bind_contextvars(request_id=request_id)
    if (root := tracing.root()) is not None:
        root.fallback = request_id
    try:
        response = await handler(request)
    except MillraceError as error:
        response = problem_of(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        response = problem(error.status, error.reason, f"{request.method} {request.path}: {error.reason}")
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    except (asyncio.CancelledError, ConnectionResetError):
        raise
    except Exception:
        _log.exception("http.failed", method=request.method, path=request.path)
        response = problem(500, "Internal error", f"the request failed; its id in the log is {request_id}")
    if not response.prepared:
        response.headers["X-Request-Id"] = request_id
        if response.status == TooLarge.status or not request.content.is_eof():
            # The rest of the body is not worth reading.
            response.force_close()
    return response


@web.middleware
async def problems(request: web.Request, handler: Next) -> web.StreamResponse:
    """Answer as `answered` does, for all routes of an application."""
    return await answered(request, handler)


def with_problems(handler: Next) -> Next:
    """Answer as `answered` does, for one route of an application without middlewares, which would cost a hot path a tenth."""

    @functools.wraps(handler)
    async def wrapped(request: web.Request) -> web.StreamResponse:
        return await answered(request, handler)

    return wrapped


class Arriving:
    """A body on its way."""

    def __init__(self, request: web.Request, pace: Pace) -> None:
        self._request = request
        self._pace = pace
        self._left = pace.grace
        self._until: float | None = None

    async def part(self) -> bytes:
        """Return the bytes since the last call; none at the end. Raises `TooSlow`, `Malformed` for broken HTTP."""
        try:
            return await self._next()
        except web.RequestPayloadError as error:
            raise Malformed("the body is not sent as HTTP/1.1 has it") from error
        except TimeoutError as error:
            pace = self._pace
            raise TooSlow(
                f"a body has to arrive at {pace.rate:g} bytes a second, without a rest of {pace.grace:g} s, "
                f"and whole within {pace.whole:g} s"
            ) from error

    async def _next(self) -> bytes:
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._until is None:
            self._until = began + self._pace.whole
            await self._send_continue()
        async with asyncio.timeout_at(min(began + self._left, self._until)):
            part = await self._request.content.readany()
        left = self._left - (loop.time() - began) + len(part) / self._pace.rate
        self._left = min(self._pace.grace, left)
        return part

    async def _send_continue(self) -> None:
        request = self._request
        if request.headers.get("Expect") and request.version >= (1, 1) and not request.content.total_bytes:
            await request.writer.write(CONTINUE)
            # It is no part of the answer.
            request.writer.output_size = 0


async def body_of(request: web.Request, limit: int, take: Callable[[int], None] | None = None) -> bytes:
    """Return the body, exactly as it was sent. `take`, or else `TAKE`, is called with the number of bytes before they are kept.

    Raises `TooLarge` at the first byte over `limit`, also without a length, `TooSlow`, `Malformed`, and the errors of `take`.
    """
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge(f"the body is larger than {limit} bytes")
    if not request.can_read_body:
        return b""
    if take is None:
        take = request.get(TAKE)
    content = request.content
    if content.is_eof() and content.total_bytes <= limit:
        # All of it is there, as most bodies are: the hot path.
        if take is not None:
            take(content.total_bytes)
        return await content.readany()
    arriving = Arriving(request, PACE)
    # One buffer: a sender that sends single bytes makes as many parts, each with forty bytes of its own.
    body = bytearray()
    while part := await arriving.part():
        if len(body) + len(part) > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        if take is not None:
            take(len(part))
        body += part
    return bytes(body)


def no_such_route(request: web.Request) -> NotFound:
    """Return the error for a path that is nothing."""
    return NotFound(f"there is nothing at {request.path}")
