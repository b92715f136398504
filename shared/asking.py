"""Request/reply over the bus: a question or command and the answer or error that comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import nats.errors
import structlog
from faststream.nats import NatsBroker

from shared import values
from shared.errors import (
    ErrorDocument,
    Invalid,
    MillraceError,
    TooLarge,
    Unavailable,
    from_document,
    to_document,
)
from shared.questions import Command, QuestionDeclaration, asked_of

Answer = Callable[[Any, Any], Awaitable[Any]]
Questions = Mapping[type[msgspec.Struct], Answer]
"""An item of a service's QUESTIONS map: a question or command, and the function that answers it."""

_log = structlog.get_logger()


async def ask(broker: NatsBroker, asked: msgspec.Struct, *, timeout: float | None = None) -> Any:
    """Ask a question or give a command, and return the declared answer.

    Raises the owner's error, `Unavailable` without an answer in time, `TooLarge` for more than the broker carries.
    """
    declared = asked_of(asked)
    client = broker.connection
    if not client.is_connected:
        raise Unavailable("the broker is not connected")
    try:
        answer = await broker.request(_asking(asked), declared.subject, timeout=timeout or declared.timeout)
    except nats.errors.MaxPayloadError as error:
        raise TooLarge(f"this is larger than the {client.max_payload} bytes that can be asked at once") from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise Unavailable(f"the {declared.service} service did not answer {declared.verb!r} in time") from error
    frame = msgspec.json.decode(answer.body, type=_Frame)
    if frame.error is not None:
        raise from_document(frame.error)
    return msgspec.json.decode(frame.ok, type=declared.answer)


async def answered(cls: type[msgspec.Struct], function: Answer, body: bytes, deps: Any, *, largest: int) -> bytes:
    """Return the answer to a question or command of class `cls`, or the error of it; an answer has at most `largest` bytes."""
    asked = asked_of(cls)
    answer = await _answered(asked, cls, function, body, deps)
    if len(answer) > largest:
        # Unsaid, it would be waited for in vain.
        error = TooLarge(f"the answer is larger than the {largest} bytes that can be told at once")
        return msgspec.json.encode(_Frame(error=to_document(error)))
    return answer


class _Frame(msgspec.Struct):
    """An answer on the wire: one of the two fields."""

    ok: msgspec.Raw = msgspec.Raw(b"null")
    error: ErrorDocument | None = None


def _asking(asked: msgspec.Struct) -> bytes:
    try:
        return msgspec.json.encode(asked)
    except (UnicodeEncodeError, RecursionError) as error:
        raise Invalid(f"{type(asked).__name__} holds what JSON cannot: {error}") from error


async def _answered(asked: QuestionDeclaration, cls: type[msgspec.Struct], function: Answer, body: bytes, deps: Any) -> bytes:
    try:
        question = await values.aside(values.decode, body, cls, size=len(body))
        correlation = question.id if isinstance(question, Command) else None
        with structlog.contextvars.bound_contextvars(question=asked.subject, command_id=correlation):
            return msgspec.json.encode(_Frame(ok=msgspec.Raw(msgspec.json.encode(await function(question, deps)))))
    except MillraceError as error:
        return msgspec.json.encode(_Frame(error=to_document(error)))
    except Exception:
        _log.exception("question.failed", subject=asked.subject)
        return msgspec.json.encode(_Frame(error=ErrorDocument("error", f"{asked.subject} failed; see the log of {asked.service}")))
