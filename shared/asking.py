"""Request/reply over the bus: a question or command and the answer or error that comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shared import log, tracing, values
from shared.bounded import BoundedTasks, CappedTurns
from shared.client import drain, subscribe
from shared.errors import (
    ErrorDocument,
    Invalid,
    MillraceError,
    TooLarge,
    Unavailable,
    from_document,
    to_document,
)
from shared.questions import Command, Question, QuestionDeclaration, asked_of

A = TypeVar("A")
Answer = Callable[[Any, Any], Awaitable[Any]]
Questions = Mapping[type[msgspec.Struct], Answer]
"""An item of a service's QUESTIONS map: a question or command, and the function that answers it."""
Served = tuple[type[msgspec.Struct], Answer]

_log = structlog.get_logger()


class Asked(NamedTuple):
    """A question as it came, when, and the organization that it is asked for."""

    msg: Msg
    at: float
    org: str


class _Of(msgspec.Struct):
    """The part of a question by which its turn comes."""

    org: str = ""


async def ask(client: Client, asked: Question[A] | Command[A], *, timeout: float | None = None) -> A:
    """Ask a question or give a command, and return the declared answer.

    Raises the owner's error, `Unavailable` without an answer in time, `TooLarge` for more than the broker carries.
    """
    declared = asked_of(asked)
    if not client.is_connected:
        raise Unavailable("the broker is not connected")
    try:
        with tracing.span(
            f"{declared.service}/{declared.verb}", "client", tracing.of_question(declared.service, declared.verb)
        ) as span:
            # Without an answer in time it has failed; an answer that is a refusal is one.
            reply = await client.request(
                declared.subject,
                _asking(asked),
                timeout=timeout or declared.timeout,
                headers=None if span is None else {"traceparent": str(span.context)},
            )
    except nats.errors.MaxPayloadError as error:
        raise TooLarge(f"this is larger than the {client.max_payload} bytes that can be asked at once") from error
    except (nats.errors.Error, TimeoutError, OSError) as error:
        raise Unavailable(f"the {declared.service} service did not answer {declared.verb!r} in time") from error
    frame = msgspec.json.decode(reply.data, type=_Frame)
    if frame.error is not None:
        raise from_document(frame.error)
    answer: A = msgspec.json.decode(frame.ok, type=declared.answer)
    return answer


class Answering:
    """Answers the questions or the commands of one service, `at_once` of them at the same time; the rest wait.

    Organizations take turns. One has no more than `each` answered at a time, and half of what others leave: whoever comes need not
    wait for their slow ones. A question that has waited longer than its asker does is passed over. Replicas of a service share what
    is asked.
    """

    def __init__(
        self, client: Client, service: str, kind: str, served: Mapping[str, Served], deps: Any, *, at_once: int, each: int
    ) -> None:
        """Answer what is asked on `<kind>.<service>.*`, by subject."""
        self._client = client
        self._service = service
        self._kind = kind
        self._served = served
        self._deps = deps
        self._queue: CappedTurns[Asked] = CappedTurns(lambda one: one.org, each, at_once)
        self._tasks = BoundedTasks(self._answer, at_once, self._queue)
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._subscription = await subscribe(self._client, f"{self._kind}.{self._service}.*", self._arrived, queue=self._service)

    async def drain(self, within: float) -> None:
        """Take no more, and answer what was taken, as far as that ends within so many seconds."""
        if self._subscription is not None:
            await drain(self._client, self._subscription)
        await self._tasks.drain(within)

    def _arrived(self, msg: Msg) -> None:
        try:
            org = msgspec.json.decode(msg.data, type=_Of).org
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            org = ""  # its answer says why it is none
        self._tasks.offer(Asked(msg, asyncio.get_running_loop().time(), org))

    async def _answer(self, asked: Asked) -> None:
        try:
            await self._answer_now(asked)
        finally:
            self._queue.ended(asked)

    async def _answer_now(self, asked: Asked) -> None:
        cls, function = self._served[asked.msg.subject]
        if asyncio.get_running_loop().time() > asked.at + asked_of(cls).timeout:
            _log.warning("question.expired", subject=asked.msg.subject)
            return
        with self._traced(cls, asked.msg):
            answer = await answered(cls, function, asked.msg.data, self._deps, largest=self._client.max_payload)
        await self._client.publish(asked.msg.reply, answer)

    @staticmethod
    def _traced(kind: type[msgspec.Struct], msg: Msg) -> AbstractContextManager[Any]:
        if not tracing.is_on() or not msg.headers:
            return nullcontext()
        service, verb = (asked := asked_of(kind)).service, asked.verb
        return tracing.going_on(
            msg.headers.get("traceparent"), f"{service}/{verb}", "server", lambda: tracing.of_question(service, verb)
        )


async def answered(cls: type[msgspec.Struct], function: Answer, body: bytes, deps: Any, *, largest: int) -> bytes:
    """Return the answer to a question or command of class `cls`, or the error of it; an answer has at most `largest` bytes.

    To be called in a task of its own, whose log it binds to the question.
    """
    asked, begun = asked_of(cls), time.perf_counter()
    answer = await _answered(asked, cls, function, body, deps)
    if log.is_debugging():
        _log.debug("question.answered", bytes=len(answer), ms=log.ms_since(begun))
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
        structlog.contextvars.bind_contextvars(question=asked.subject, command_id=correlation)
        return msgspec.json.encode(_Frame(ok=msgspec.Raw(msgspec.json.encode(await function(question, deps)))))
    except MillraceError as error:
        return msgspec.json.encode(_Frame(error=to_document(error)))
    except Exception:
        _log.exception("question.failed", subject=asked.subject)
        return msgspec.json.encode(_Frame(error=ErrorDocument("error", f"{asked.subject} failed; see the log of {asked.service}")))
