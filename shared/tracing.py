"""Spans of this process, where it traces: what they are of, what they belong to, and when they began and ended.

Nothing here imports OpenTelemetry or costs more than a look at a variable until `start` is called (`shared.exporting`), which
happens only where the environment asks for traces. A trace that is not sampled has no spans at all, and messages of it say
nothing of it: whoever reads a message goes on with its trace, or with none.

A chain's trace has the chain's correlation id, without the dashes, as its id. So the trace of anything that shows a correlation id
is known, and no row holds it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

from shared.traceparent import SpanContext, parsed, trace_of

Value: TypeAlias = str | int | float | bool
Kind = Literal["internal", "server", "client", "producer", "consumer"]
# Streams whose first messages begin a chain: a trace may begin with one. All others are written for something that goes on.
BEGINNING = frozenset({"WEBHOOKS", "EVENTS", "RUNS"})
# Its records are not written by, nor part of, what is traced.
_UNTRACED = frozenset({"LOGS"})


class Enveloped(Protocol):
    """An envelope, as spans have it."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def correlationid(self) -> str:
        """That of its chain."""

    @property
    def org(self) -> str:
        """Its organization."""


class Span:
    """One span. It is exported once it has ended; one that never ends is not."""

    __slots__ = ("attributes", "context", "end", "error", "kind", "links", "name", "parent", "start")

    def __init__(
        self,
        name: str,
        kind: Kind,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: Mapping[str, Value] | None = None,
        *,
        start: int | None = None,
        links: Sequence[SpanContext] = (),
    ) -> None:
        """`start` and `end` are nanoseconds since 1970."""
        self.name = name
        self.kind = kind
        self.context: SpanContext = context
        self.parent = parent
        self.attributes: dict[str, Value] = dict(attributes or ())
        self.links = tuple(links)
        self.start = time.time_ns() if start is None else start
        self.end: int | None = None
        self.error: str | None = None

    def fail(self, kind: str) -> None:
        """Record that it failed, by the type of the error: its words may repeat what somebody sent."""
        self.error = kind
        self.attributes["error.type"] = kind

    def finish(self, end: int | None = None) -> None:
        """End it, and have it exported. A second time does nothing."""
        if self.end is None and _tracer is not None:
            self.end = max(self.start, time.time_ns() if end is None else end)
            _tracer.export(self)


class Root:
    """A request of somebody outside, whose trace is not decided yet: the span begins when it is, with the time of the request.

    It is decided by `adopt`, by the chain that the request begins, or by the first span that needs a parent.
    """

    __slots__ = ("attributes", "fallback", "name", "offered", "span", "start", "undecided")

    def __init__(self, name: str, attributes: dict[str, Value], offered: SpanContext | None) -> None:
        """`offered` is what the request names as its parent."""
        self.name = name
        self.attributes = attributes
        self.offered = offered
        self.fallback: str | None = None
        self.start = time.time_ns()
        self.undecided = True
        self.span: Span | None = None

    def decide(self, trace: int) -> None:
        """Begin a trace of our own, linked to the offered one, unless it is decided."""
        if self.undecided:
            self._begin(SpanContext(trace, _new_span(), _sampled(trace)), None, () if self.offered is None else (self.offered,))

    def adopt(self) -> None:
        """Go on with the trace that was offered, sampled if it is, unless it is decided."""
        if self.undecided and self.offered is not None:
            sampled = _tracer is not None and _tracer.follows(self.offered)
            self._begin(SpanContext(self.offered.trace, _new_span(), sampled), self.offered, ())

    def _begin(self, context: SpanContext, parent: SpanContext | None, links: Sequence[SpanContext]) -> None:
        self.undecided = False
        if context.sampled:
            self.span = Span(self.name, "server", context, parent, self.attributes, start=self.start, links=links)
            self.attributes = self.span.attributes


class Tracer:
    """What a process does with spans: `export` takes those that ended; `samples` decides for a trace id that begins here.

    `follows` decides for a trace that goes on here from outside.
    """

    def __init__(
        self, export: Callable[[Span], None], samples: Callable[[int], bool], follows: Callable[[SpanContext], bool]
    ) -> None:
        self.export = export
        self.samples = samples
        self.follows = follows


_tracer: Tracer | None = None
_current: ContextVar[Span | Root | None] = ContextVar("span", default=None)
_NOTHING: AbstractContextManager[None] = nullcontext()


def start(tracer: Tracer | None) -> None:
    """Trace from now on, or no more."""
    global _tracer  # noqa: PLW0603 - one of the process, read on every hot path
    _tracer = tracer


def is_on() -> bool:
    """Return whether this process traces."""
    return _tracer is not None


def current() -> Span | None:
    """Return the span in which this is called; None where nothing is traced."""
    if _tracer is None:
        return None
    found = _current.get()
    if isinstance(found, Root):
        if found.undecided:
            found.decide(random.getrandbits(128) or 1 if found.fallback is None else trace_of(found.fallback))
        return found.span
    return found


def root() -> Root | None:
    """Return the request in which this is called, decided or not."""
    found = _current.get()
    return found if isinstance(found, Root) else None


def begin_chain(chain: str) -> None:
    """Have the request in which this is called be of the trace of a chain that it is about to begin, unless that is decided."""
    enclosing = root()
    if enclosing is not None:
        enclosing.decide(trace_of(chain))


class _Within:
    """Makes a span the current one for a block, and ends it with the block."""

    __slots__ = ("_span", "_token")

    def __init__(self, span: Span | Root) -> None:
        self._span = span

    def __enter__(self) -> Any:
        self._token = _current.set(self._span)
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _current.reset(self._token)
        span = self._span.span if isinstance(self._span, Root) else self._span
        if span is not None:
            if kind is not None:
                span.fail(kind.__name__)
            span.finish()


def within(span: Span | Root | None) -> AbstractContextManager[Any]:
    """Have a span be the current one for the block, and end with it; none: nothing is done."""
    return _NOTHING if span is None else _Within(span)


def span(name: str, kind: Kind = "internal", attributes: Mapping[str, Value] | None = None) -> AbstractContextManager[Span | None]:
    """Trace the block as a part of the current span; without one nothing is done."""
    if _tracer is None or (parent := current()) is None:
        return _NOTHING
    return _Within(child(parent.context, name, kind, attributes))


def child(
    parent: SpanContext,
    name: str,
    kind: Kind = "internal",
    attributes: Mapping[str, Value] | None = None,
    *,
    start: int | None = None,
    id: int | None = None,  # noqa: A002 - it is one
) -> Span:
    """Return a new span below `parent`, which has to be sampled."""
    return Span(name, kind, SpanContext(parent.trace, id or _new_span()), parent, attributes, start=start)


def received(traceparent: object) -> SpanContext | None:
    """Return the place in a trace that a message, or a question of ours, names; None where this process traces nothing of it."""
    if _tracer is None or not isinstance(traceparent, str):
        return None
    found = parsed(traceparent)
    return found if found is not None and found.sampled else None


def going_on(
    traceparent: object, name: str, kind: Kind, attributes: Callable[[], Mapping[str, Value]]
) -> AbstractContextManager[Span | None]:
    """Trace the block as a part of what a message or a question names; without that nothing is done."""
    parent = received(traceparent)
    return _NOTHING if parent is None else _Within(child(parent, name, kind, attributes()))


def published(
    type_: str, stream: str, id_: str, chain: str, org: str, now: datetime, *, cause: object, follows: bool, begins: bool
) -> Span | None:
    """Return the span of publishing a message, which ends when it is stored; None where it is not traced.

    `cause` is the traceparent of the message that it follows, if it `follows` one; `begins`: it is the first of its chain.
    """
    if _tracer is None or stream in _UNTRACED:
        return None
    enclosing = _current.get()
    trace = trace_of(chain) if not follows and stream in BEGINNING else None
    if begins and trace is not None and isinstance(enclosing, Root):
        enclosing.decide(trace)
    here, caused = current(), received(cause)
    parent = here.context if here is not None and (caused is None or caused.trace == here.context.trace) else caused
    if parent is None and (trace is None or enclosing is not None or not _tracer.samples(trace)):
        return None
    attributes: dict[str, Value] = {
        "messaging.system": "nats",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": stream,
        "messaging.message.id": id_,
        "messaging.message.conversation_id": chain,
        "millrace.organization": org,
    }
    if parent is None and trace is not None:
        return Span(f"publish {type_}", "producer", SpanContext(trace, _new_span()), None, attributes, start=nanoseconds(now))
    if parent is None:
        return None
    if begins and trace is not None and trace != parent.trace:
        # Whoever looks for the trace by the correlation id finds where it is.
        pointer = Span("chain", "internal", SpanContext(trace, _new_span()), None, attributes, links=(parent,))
        pointer.finish(pointer.start)
    return child(parent, f"publish {type_}", "producer", attributes, start=nanoseconds(now))


def of_message(stream: str, consumer: str, envelope: Enveloped) -> dict[str, Value]:
    """Return the attributes of handling a message (opentelemetry.io/docs/specs/semconv/messaging/messaging-spans)."""
    return {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": stream,
        "messaging.consumer.group.name": consumer,
        "messaging.message.id": envelope.id,
        "messaging.message.conversation_id": envelope.correlationid,
        "millrace.organization": envelope.org,
    }


def of_question(service: str, verb: str) -> dict[str, Value]:
    """Return the attributes of a question (opentelemetry.io/docs/specs/semconv/rpc/rpc-spans)."""
    return {"rpc.system": "nats", "rpc.service": service, "rpc.method": verb}


def wrote(traces: Iterable[tuple[str, object]], name: str, begun: int, attributes: Mapping[str, Value]) -> None:
    """Record that a batch of messages was written in one transaction, begun at a time: in the trace of each that has one."""
    for type_, traceparent in traces:
        parent = received(traceparent)
        if parent is not None:
            child(parent, f"{name} {type_}", "consumer", attributes, start=max(begun, 0)).finish()


def nanoseconds(moment: datetime) -> int:
    """Return a time since 1970, rounded up: a time of ours is cut to microseconds, and nothing begins before its cause."""
    return int(moment.timestamp() * 1_000_000 + 1) * 1000


def log_fields(_logger: Any, _method: str, record: Any) -> Any:
    """Add the ids of the current span to a record of the log; a processor of structlog."""
    found = _current.get()
    span = found.span if isinstance(found, Root) else found
    if span is not None:
        record.setdefault("trace_id", f"{span.context.trace:032x}")
        record.setdefault("span_id", f"{span.context.span:016x}")
    return record


def _sampled(trace: int) -> bool:
    return _tracer is not None and _tracer.samples(trace)


def _new_span() -> int:
    return random.getrandbits(64) or 1
