"""The spans of a run: its wait for a worker, its attempts, its waits, and what an attempt tells of itself.

The id of an attempt's span follows from the run and its number. So the span of an attempt that was lost with its worker is told by
the next one, and what the lost one had told already has its parent.
"""

from __future__ import annotations

import time
from datetime import datetime

import msgspec

from services.executor.runs.run_state import RunState
from services.executor.sandbox.egress.network import Record
from services.executor.sandbox.interface import ToldSpan
from shared import tracing
from shared.envelope import Envelope, derived_id
from shared.messages import RunCancelled, RunCrashed, RunFailed, RunTimedOut, RunWaiting
from shared.messages.declaration import Message
from shared.runs import RUNS
from shared.traceparent import SpanContext, trace_of

# Spans of one attempt that its author's code may tell, and connections that it may make, before no more are traced.
MOST = 200
_NANO = 1_000_000_000


def dispatching(envelope: Envelope, consumer: str, *, again: bool) -> tracing.Span | None:
    """Return the span of looking at a work message up to the claim; of one that came for the first time its wait is told."""
    parent = tracing.received(envelope.traceparent)
    if parent is None:
        return None
    attributes = tracing.of_message(RUNS, consumer, envelope)
    if not again:
        tracing.child(parent, "queue", attributes=attributes, start=tracing.nanoseconds(envelope.time)).finish()
    return tracing.child(parent, f"process {envelope.type}", "consumer", attributes)


def attempt(envelope: Envelope, state: RunState) -> tracing.Span | None:
    """Return the span of a new attempt at a run that a message dispatches; an attempt that was lost before is told as well."""
    parent = tracing.received(envelope.traceparent)
    if parent is None:
        return None
    if state.held and state.started_at is not None:
        lost = _attempt(parent, state, state.attempt, start=tracing.nanoseconds(datetime.fromisoformat(state.started_at)))
        lost.fail("worker_lost")
        lost.finish()
    return _attempt(parent, state, state.attempt + 1)


def below(span: tracing.Span | None, envelope: Envelope) -> Envelope:
    """Return an envelope of which what follows becomes a part of a span."""
    return envelope if span is None else msgspec.structs.replace(envelope, traceparent=str(span.context))


def ended(span: tracing.Span | None, outcome: Message) -> None:
    """Note how an attempt ended."""
    if span is None:
        return
    span.attributes["millrace.run.outcome"] = type(outcome).__name__.removeprefix("Run").lower()
    if isinstance(outcome, RunFailed | RunTimedOut | RunCrashed | RunCancelled | RunWaiting):
        reason = getattr(outcome, "reason", None)
        if isinstance(outcome, RunWaiting):
            span.attributes["millrace.run.blocked_on"] = outcome.blocked_on
        if reason is not None:
            span.fail(reason)


def waited(state: RunState, cause: Envelope | None) -> tracing.Span | None:
    """Return the span of the wait that a run is about to be resumed from; it is to be finished when it is."""
    parent = None if cause is None else tracing.received(cause.traceparent)
    if parent is None or cause is None or state.blocked_on is None:
        return None
    begun = cause.time
    if state.attempts and (last := state.attempts[-1].finished_at) is not None:
        begun, parent = datetime.fromisoformat(last), SpanContext(parent.trace, _id_of(state.id, state.attempt))
    attributes = {"millrace.run.id": state.id}
    return tracing.child(parent, f"wait {state.blocked_on}", attributes=attributes, start=tracing.nanoseconds(begun))


class AttemptSpans:
    """What is traced of an attempt from within: a bounded number of spans, below that of the attempt."""

    def __init__(self, span: tracing.Span) -> None:
        self._span = span
        self._told: list[ToldSpan] = []
        self._ids = {f"{span.context.span:016x}"}
        self._connections = 0
        self._more = 0

    def connection(self, record: Record) -> None:
        """Trace a connection through the proxy, once it has ended."""
        self._connections += 1
        if self._connections > MOST:
            self._more += 1
            return
        now = time.time_ns()
        attributes: dict[str, tracing.Value] = {
            "http.request.method": "CONNECT",
            "server.address": record.host,
            "server.port": record.port,
            "millrace.egress.outcome": record.outcome,
            "millrace.egress.sent": record.sent,
            "millrace.egress.received": record.received,
        }
        start = max(self._span.start, now - record.duration_ms * 1_000_000)
        made = tracing.child(self._span.context, "CONNECT", "client", attributes, start=start)
        if record.outcome != "connected":
            made.fail(record.reason)
        made.finish(now)

    def authored(self, told: ToldSpan) -> None:
        """Take a span of the author's."""
        if len(self._told) >= MOST or told.id in self._ids:
            self._more += 1
        else:
            self._ids.add(told.id)
            self._told.append(told)

    def finish(self) -> None:
        """Have the author's spans exported, within the time of the attempt. Only now it is known which of them have a parent."""
        known = {int(told.id, 16) for told in self._told}
        own, now = self._span.context, time.time_ns()
        for told in self._told:
            above = 0 if told.parent is None else int(told.parent, 16)
            parent = SpanContext(own.trace, above) if above in known and above != int(told.id, 16) else own
            start = min(max(int(told.start * _NANO), self._span.start), now)
            made = tracing.child(parent, told.name, attributes=told.attributes, start=start, id=int(told.id, 16))
            if told.error is not None:
                made.fail(told.error)
            made.finish(min(start + int(told.seconds * _NANO), now))
        if self._more:
            self._span.attributes["millrace.spans.dropped"] = self._more


def _attempt(parent: SpanContext, state: RunState, number: int, *, start: int | None = None) -> tracing.Span:
    attributes: dict[str, tracing.Value] = {
        "millrace.organization": state.org,
        "millrace.run.id": state.id,
        "millrace.run.attempt": number,
        "millrace.workflow": state.workflow,
    }
    return tracing.child(parent, f"attempt {state.workflow}", attributes=attributes, start=start, id=_id_of(state.id, number))


def _id_of(run: str, attempt: int) -> int:
    return trace_of(derived_id(run, "attempt", str(attempt))) & 0x3FFF_FFFF_FFFF_FFFF or 1
