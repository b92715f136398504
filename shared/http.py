"""HTTP as Millrace speaks it: problem documents (RFC 9457), JSON answers, request ids."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import structlog
from aiohttp import web, web_response, web_urldispatcher

from shared import values
from shared.envelope import new_id
from shared.errors import Invalid, MillraceError, NotFound, Problem, TooLarge

PROBLEM_JSON = "application/problem+json"
# Bodies of API requests; files and webhooks have limits of their own.
JSON_LIMIT = 4 * 1024 * 1024

# aiohttp puts its version and Python's into every answer, also into those that it gives before a handler of ours is asked: this
# is the one place that both kinds look at.
web_response.SERVER_SOFTWARE = "millrace"  # type: ignore[attr-defined]

T = TypeVar("T")
Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
_log = structlog.get_logger()
_encoder = msgspec.json.Encoder()


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with `body` as JSON."""
    return web.Response(body=_encoder.encode(body), status=status, headers=headers, content_type="application/json")


def problem(
    status: int, title: str, detail: str, *, errors: tuple[Problem, ...] = (), retry_after: float | None = None
) -> web.Response:
    """Answer with a problem document (RFC 9457)."""
    document: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors:
        document["errors"] = errors
    headers = {} if retry_after is None else {"Retry-After": str(max(1, math.ceil(retry_after)))}
    return web.Response(body=_encoder.encode(document), status=status, headers=headers, content_type=PROBLEM_JSON)


def problem_of(error: MillraceError) -> web.Response:
    """Answer with the problem document of an error of the tree."""
    return problem(error.status, error.title, error.detail, errors=error.errors, retry_after=error.retry_after)


_continuing = web_urldispatcher._default_expect_handler  # noqa: SLF001


async def _expected(request: web.Request) -> web.StreamResponse | None:
    """Tell a client to go on that expects to be told so; what else it may expect, nobody here can do."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await _continuing(request)
        return None
    return problem(417, "Expectation failed", "Expect: the only thing that can be expected is 100-continue")


# Routes that do not exist expect the same, and only this name is asked for all of them. aiohttp's own repeats the header in its
# answer, and fails where that is no UTF-8.
web_urldispatcher._default_expect_handler = _expected  # type: ignore[assignment]  # noqa: SLF001


async def answered(request: web.Request, handler: Next) -> web.StreamResponse:
    """Give a request an id, have it handled, and turn every error into a problem document."""
    request_id = new_id()
    # A connection's requests come one after the other in one task, so nothing has to be undone: the next one binds its own.
    structlog.contextvars.bind_contextvars(request_id=request_id)
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


async def body_of(request: web.Request, limit: int) -> bytes:
    """Return the body, counted while it streams in. Raises `TooLarge` at the first byte over `limit`, also without a length."""
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge(f"the body is larger than {limit} bytes")
    if not request.can_read_body:
        return b""
    parts: list[bytes] = []
    size = 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > limit:
            raise TooLarge(f"the body is larger than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


async def json_of(request: web.Request, type_: type[T]) -> T:
    """Return the JSON body as `type_`. Raises `Malformed` for what is no JSON, `Invalid` with the path for what may not enter."""
    return values.decode(await body_of(request, JSON_LIMIT) or b"{}", type_)


def integer_of(request: web.Request, name: str, default: int, *, minimum: int, maximum: int) -> int:
    """Return a whole number of the query string. Raises `Invalid` naming the parameter."""
    raw = request.query.get(name)
    if raw is None:
        return default
    if not raw.isascii() or not raw.isdigit() or len(raw) > 19 or not minimum <= int(raw) <= maximum:
        raise Invalid(f"{name} must be a whole number from {minimum} to {maximum}", errors=(Problem(name, "out of range"),))
    return int(raw)


def no_such_route(request: web.Request) -> NotFound:
    """Return the error for a path that is nothing."""
    return NotFound(f"there is nothing at {request.path}")
