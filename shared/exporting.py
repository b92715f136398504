"""Sends spans to a collector by OTLP over HTTP, as OpenTelemetry's environment variables say; imported only where they ask for it.

The exporter, its settings and the names of a process are those of OpenTelemetry's SDK. Spans are made by `shared.tracing`: they
cost the event loop less than the SDK's, ids can follow from what is traced, and spans can be told after the fact.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from importlib.metadata import version
from typing import Any

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from shared import tracing
from shared.health import Health
from shared.trace_settings import TraceSettings, follows_of, samples_of
from shared.traceparent import SpanContext as Place

# Seconds that the last spans may take to be sent when the process ends.
LAST = 2.0
_KINDS = {kind.name.lower(): kind for kind in SpanKind}
_log = structlog.get_logger()


class Exporter:
    """Holds ended spans, a bounded number, until its thread has sent them. What finds no room is dropped, and counted."""

    def __init__(self, service: str, settings: TraceSettings) -> None:
        self._settings = settings
        self._exporter = OTLPSpanExporter()
        named = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": f"millrace-{service}"}
        own = {"service.namespace": "millrace", "service.version": version("millrace")}
        own["service.instance.id"] = f"{socket.gethostname()}-{os.getpid()}"
        # What an operator says of the process comes before what it says of itself.
        self._resource = Resource(named | own).merge(Resource.create(named))
        self._scope = InstrumentationScope("millrace", version("millrace"))
        self._waiting: deque[tracing.Span] = deque()
        self._wanted = threading.Event()
        self._closing = False
        self._is_away = False
        self.exported = self.failed = self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self, health: Health) -> None:
        """Begin to send, and to trace."""
        counters = ("exported", "failed", "dropped")
        health.state("traces", self._fact, counters=counters)
        self._thread.start()
        tracing.start(tracing.Tracer(self.take, samples_of(self._settings), follows_of(self._settings)))

    def _fact(self) -> dict[str, int]:
        return {"exported": self.exported, "failed": self.failed, "dropped": self.dropped, "waiting": len(self._waiting)}

    def take(self, span: tracing.Span) -> None:
        """Take an ended span; never waits."""
        if len(self._waiting) >= self._settings.queue:
            self.dropped += 1
            return
        self._waiting.append(span)
        if len(self._waiting) == self._settings.batch:
            self._wanted.set()

    def close(self) -> None:
        """Trace no more, and send what waits, as far as that is done in time. Blocks."""
        tracing.start(None)
        self._closing = True
        self._wanted.set()
        self._thread.join(LAST)
        # Ends the pause between two tries of a collector that is away.
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        while True:
            self._wanted.wait(self._settings.delay)
            self._wanted.clear()
            while self._waiting:
                self._send([self._waiting.popleft() for _ in range(min(len(self._waiting), self._settings.batch))])
            if self._closing:
                return

    def _send(self, batch: list[tracing.Span]) -> None:
        try:
            sent = self._exporter.export([self._readable(span) for span in batch]) is SpanExportResult.SUCCESS
        except Exception:
            sent = False
        if sent:
            self.exported += len(batch)
        else:
            self.failed += len(batch)
        if self._is_away is sent:
            self._is_away = not sent
            _log.info("traces.go_on") if sent else _log.warning("traces.not_taken")

    def _readable(self, span: tracing.Span) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            _context(span.context, is_remote=False),
            None if span.parent is None else _context(span.parent, is_remote=True),
            self._resource,
            span.attributes,
            links=[Link(_context(one, is_remote=True)) for one in span.links],
            kind=_KINDS[span.kind],
            status=Status(StatusCode.UNSET if span.error is None else StatusCode.ERROR),
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=self._scope,
        )


def _context(of: Place, *, is_remote: bool) -> Any:
    return SpanContext(of.trace, of.span, is_remote, TraceFlags(of.sampled))
