"""Traces: which spans there are, of which trace, and that nothing is there where none are wanted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from millrace import Connection
from millrace._outgoing import outgoing, redirected, with_credentials
from services.executor.runs.traced import AttemptSpans
from services.executor.sandbox import frames
from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.interface import ToldSpan
from shared import trace_settings, tracing
from shared.config import ConfigError, Environment
from shared.envelope import Envelope, Sealed, new_id, open_envelope, seal, utc_now
from shared.messages import Logged, RunRequested, RunStarted
from shared.messages.log import SERVICES
from shared.projected import traces_of
from shared.pull import Delivered
from shared.traceparent import SpanContext, only, parsed, trace_of

ROOT = Path(__file__).parents[2]
ON = {"OTEL_TRACES_EXPORTER": "otlp"}
THEIRS = SpanContext(0xAAAA_0000_0000_0000_0000_0000_0000_0001, 0xBBBB_0000_0000_0002)


@pytest.fixture
def spans() -> Iterator[list[tracing.Span]]:
    """The spans that are made during a test, in the order of their ends; every trace is sampled whose id is even."""
    found: list[tracing.Span] = []
    tracing.start(tracing.Tracer(found.append, lambda trace: trace % 2 == 0, lambda parent: parent.sampled))
    yield found
    tracing.start(None)


def even() -> str:
    """Return an id whose trace is sampled."""
    return new_id()[:-1] + "0"


def requested(run: str, cause: Envelope | None = None, correlation: str | None = None) -> Sealed[RunRequested]:
    message = RunRequested(run=run, workflow="w", version="v", input={}, requested_by="test", timeout=1.0)
    return seal(message, service="gateway", org="o", now=utc_now(), id=run, cause=cause, correlation=correlation)


def started(cause: Envelope) -> Sealed[RunStarted]:
    message = RunStarted(run=cause.subject, attempt=1, executor="e", tier="A")
    return seal(message, service="executor", org="o", now=utc_now(), cause=cause)


def test_services_that_do_not_trace_import_nothing_for_it() -> None:
    apps = ", ".join(f"services.{service}.app" for service in SERVICES)
    # FastStream looks whether there is OpenTelemetry by importing an empty package of it.
    code = f"""
import sys, {apps}
found = {{".".join(name.split(".")[:2]) for name in sys.modules if name.startswith(("opentelemetry.", "google."))}}
sys.exit(" ".join(found - {{"opentelemetry.semconv"}}) or 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_a_tracer_messages_are_as_they_were() -> None:
    sealed = requested(even())
    assert (sealed.span, sealed.envelope.traceparent) == (None, msgspec.UNSET)
    assert b"traceparent" not in sealed.document
    with tracing.span("nothing") as span:
        assert span is None


def test_a_chain_begins_a_trace_of_its_own_id_and_what_follows_is_below(spans: list[tracing.Span]) -> None:
    first = requested(even())
    assert first.span is not None
    assert first.span.context.trace == trace_of(first.envelope.id)
    assert f"{first.span.context.trace:032x}" == first.envelope.correlationid.replace("-", "")
    read = open_envelope(first.document)
    second = started(read)
    assert second.span is not None
    assert second.span.parent == first.span.context
    assert not spans  # none has been stored
    second.span.finish()
    assert spans == [second.span]


def test_what_is_not_sampled_at_its_beginning_never_is(spans: list[tracing.Span]) -> None:
    first = requested(new_id()[:-1] + "1")
    assert first.span is None
    read = open_envelope(first.document)
    assert started(read).span is None
    # Nor is it by a message that is known only to be of the chain.
    assert requested(even(), correlation=first.envelope.correlationid).span is None


def test_rows_that_are_made_anew_of_old_messages_are_in_no_trace(spans: list[tracing.Span]) -> None:
    sealed, now = requested(even()), utc_now()
    fresh = Delivered(subject="run.r.requested", data=sealed.document, sequence=1, time=now, headers={}, pending=0)
    # What the data says is nothing to it.
    theirs = b'"input":{"traceparent":"%b"}' % str(THEIRS).encode()
    other = fresh.data.replace(b'"traceparent"', b'"other"').replace(b'"input":{}', theirs)
    batch = [fresh, msgspec.structs.replace(fresh, data=other), msgspec.structs.replace(fresh, data=b'"traceparent"')]
    assert list(traces_of(batch, now)) == [("run.requested", sealed.envelope.traceparent)]
    assert list(traces_of(batch, now + timedelta(seconds=1))) == []


def test_records_of_the_log_are_in_no_trace(spans: list[tracing.Span]) -> None:
    with tracing.within(tracing.child(THEIRS, "request")):
        logged = Logged(service="gateway", level="info", event="e", fields={})
        assert seal(logged, service="gateway", org="global", now=utc_now()).span is None


def test_a_request_is_of_the_trace_of_the_chain_that_it_begins(spans: list[tracing.Span]) -> None:
    root = tracing.Root("POST /", {}, THEIRS)
    with tracing.within(root):
        sealed = requested(even())
    assert root.span is not None
    assert root.span.context.trace == trace_of(sealed.envelope.id)
    assert (root.span.parent, root.span.links) == (None, (THEIRS,))
    assert sealed.span is not None
    assert sealed.span.parent == root.span.context
    assert root.span.start <= sealed.span.start


def test_a_chain_within_another_trace_points_there(spans: list[tracing.Span]) -> None:
    root = tracing.Root("POST /", {}, THEIRS)
    with tracing.within(root):
        root.adopt()
        sealed = requested(new_id())
    assert sealed.span is not None
    assert root.span is not None
    assert sealed.span.context.trace == THEIRS.trace
    (pointer,) = (one for one in spans if one.name == "chain")
    assert (pointer.context.trace, pointer.links) == (trace_of(sealed.envelope.id), (root.span.context,))


def test_a_caller_that_does_not_record_has_nothing_recorded(spans: list[tracing.Span]) -> None:
    root = tracing.Root("POST /", {}, SpanContext(THEIRS.trace, THEIRS.span, sampled=False))
    with tracing.within(root):
        root.adopt()
        assert requested(even()).span is None
        with tracing.span("part") as span:
            assert span is None
    assert not spans


def test_what_follows_a_message_of_another_trace_is_of_that(spans: list[tracing.Span]) -> None:
    first = requested(even())
    with tracing.within(tracing.child(THEIRS, "retry")):
        second = started(first.envelope)
    assert second.span is not None
    assert second.span.parent == SpanContext(*parsed(str(first.envelope.traceparent)))  # type: ignore[misc]


def test_a_span_that_fails_tells_the_type_of_the_error_and_nothing_else(spans: list[tracing.Span]) -> None:
    with pytest.raises(ValueError, match="secret"), tracing.within(tracing.child(THEIRS, "part")):
        raise ValueError("a secret")
    assert (spans[0].error, spans[0].attributes) == ("ValueError", {"error.type": "ValueError"})


@pytest.mark.parametrize(
    "chain", ["019a0000-0000-7000-8000-000000000000", "alert-0190a5b0-0000-7000-8000-000000000000", "", "x" * 1000]
)
def test_every_chain_has_a_trace(chain: str) -> None:
    assert 0 < trace_of(chain) < 2**128
    assert trace_of(chain) == trace_of(chain)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("00-" + "1" * 32 + "-" + "2" * 16 + "-01", True),
        ("00-" + "1" * 32 + "-" + "2" * 16 + "-03", True),
        ("00-" + "1" * 32 + "-" + "2" * 16 + "-02", False),
        ("cc-" + "1" * 32 + "-" + "2" * 16 + "-01-what-comes", True),
        (" 00-" + "1" * 32 + "-" + "2" * 16 + "-01\t", True),
    ],
)
def test_a_traceparent_is_read(header: str, expected: bool) -> None:
    assert parsed(header) == SpanContext(int("1" * 32, 16), int("2" * 16, 16), expected)


def test_of_two_traceparents_none_is_read() -> None:
    one = str(THEIRS)
    assert only([one]) == THEIRS
    assert only([one, one]) is None
    assert only([]) is None


TOLD = {"name": "n", "id": "a" * 16, "parent": None, "start": 1.0, "seconds": 1.0, "attributes": {"a": 1}, "error": None}


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "0" * 16},
        {"id": "a" * 15},
        {"id": "A" * 16},
        {"id": "a" * 16 + "\n"},
        {"parent": "no"},
        {"name": ""},
        {"name": "x" * 221},
        {"start": -1.0},
        {"start": 1e30},
        {"seconds": -1.0},
        {"seconds": 1e300},
        # No collector takes it, nor the batch that it is in.
        {"attributes": {"a": 2**63}},
        {"attributes": {"a": [1]}},
        {"attributes": {"a": "x" * 1101}},
        {"attributes": dict.fromkeys(map(str, range(33)), 1)},
        {"error": "x" * 301},
    ],
)
def test_a_span_that_no_collector_would_take_is_no_frame(wrong: dict[str, Any]) -> None:
    assert isinstance(frames.decode(msgspec.json.encode({"kind": "span", "span": TOLD})), frames.SpanFrame)
    with pytest.raises(FrameError):
        frames.decode(msgspec.json.encode({"kind": "span", "span": TOLD | wrong}))


def test_spans_of_an_attempt_stay_within_it_whatever_they_say(spans: list[tracing.Span]) -> None:
    attempt = tracing.child(THEIRS, "attempt")
    within = AttemptSpans(attempt)
    told = msgspec.convert(TOLD, ToldSpan)
    names = {"b": "a" * 16, "c": "e" * 16, "d": "d" * 16}
    for letter, parent in names.items():
        within.authored(msgspec.structs.replace(told, id=letter * 16, parent=parent, start=2.0**33, seconds=1e6))
    within.authored(told)
    within.authored(told)  # of the same id
    within.authored(msgspec.structs.replace(told, id=f"{attempt.context.span:016x}"))
    within.finish()
    assert attempt.attributes["millrace.spans.dropped"] == 2
    by = {f"{one.context.span:016x}"[0]: one for one in spans}
    assert by["b"].parent == by["a"].context
    assert by["c"].parent == by["d"].parent == by["a"].parent == attempt.context
    assert all(attempt.start <= one.start <= (one.end or 0) <= time.time_ns() for one in spans)


def test_a_request_goes_on_with_the_trace_only_where_its_credentials_go(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection("halo", "a-token", base_url="https://halo.example/api")
    request = outgoing("halo", "GET", "/pages", {"headers": {"X-Own": "1"}}, connection, 30.0)
    elsewhere = redirected(request, "https://other.example/pages")
    assert elsewhere is not None
    assert "traceparent" not in with_credentials(request, connection)[1]
    monkeypatch.setattr("millrace._run.job", {"traceparent": str(THEIRS)})
    assert with_credentials(request, connection)[1]["traceparent"] == str(THEIRS)
    assert with_credentials(elsewhere, connection)[1] == {}
    own = outgoing("halo", "GET", "/pages", {"headers": {"TraceParent": "mine"}}, connection, 30.0)
    assert {name: value for name, value in with_credentials(own, connection)[1].items() if name.lower() == "traceparent"} == {
        "TraceParent": "mine"
    }
    nowhere = Connection("any", "a-token")
    anywhere = outgoing("any", "GET", "https://any.example/", {}, nowhere, 30.0)
    assert "traceparent" not in with_credentials(anywhere, nowhere)[1]


@pytest.mark.parametrize("ratio", [0.01, 0.5, 0.9])
def test_so_many_traces_are_sampled_as_are_wanted(ratio: float) -> None:
    # Of UUIDs the upper of the lower 64 bits are always the same: by those a hundredth would be none.
    samples = trace_settings.samples_of(trace_settings.TraceSettings(sampler="parentbased_traceidratio", ratio=ratio))
    found = sum(samples(trace_of(new_id())) for _ in range(20_000)) / 20_000
    assert abs(found - ratio) < 0.02


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, None),
        ({**ON, "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_SERVICE_NAME": "x"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, trace_settings.TraceSettings()),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, trace_settings.TraceSettings()),
        (
            {**ON, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25", "OTEL_BSP_MAX_QUEUE_SIZE": "10"},
            trace_settings.TraceSettings(sampler="traceidratio", ratio=0.25, queue=10, batch=10),
        ),
    ],
)
def test_the_environment_says_whether_and_how(variables: dict[str, str], expected: trace_settings.TraceSettings | None) -> None:
    environment = Environment(variables)
    assert trace_settings.read(environment) == expected
    environment.check()


@pytest.mark.parametrize(
    "wrong",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {**ON, "OTEL_TRACES_SAMPLER": "some"},
        {**ON, "OTEL_TRACES_SAMPLER_ARG": "2"},
        {**ON, "OTEL_TRACES_SAMPLER_ARG": "nan"},
        {**ON, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {**ON, "OTEL_BSP_MAX_QUEUE_SIZE": "0"},
    ],
)
def test_what_is_wrong_is_named(wrong: dict[str, str]) -> None:
    environment = Environment(wrong)
    trace_settings.read(environment)
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
        environment.check()
