"""What OpenTelemetry's environment variables say of traces (its specification, "Environment Variable Specification")."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from shared.config import Environment
from shared.traceparent import SpanContext

SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    *(f"parentbased_{one}" for one in ("always_on", "always_off", "traceidratio")),
)
# Whose `traceparent` goes on here: that of callers with a key, of everybody, of nobody. Others' are linked to.
PARENTS = ("keys", "all", "none")
# Trace ids are UUIDs. Of version 7 the upper bits are a time and a counter, and two bits are always the same; the lowest 32 are
# random, as they are in every other version, and in the ids of others.
_RANDOM = 2**32


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How to trace. `ratio` is of the traces that begin here; `queue` and `batch` count spans, `delay` is in seconds."""

    sampler: str = "parentbased_always_on"
    ratio: float = 1.0
    queue: int = 2048
    batch: int = 512
    delay: float = 5.0


def read(environment: Environment) -> TraceSettings | None:
    """Return the settings; None where no traces are wanted, as where nothing is set. `environment` remembers what is wrong."""
    if (environment.optional("OTEL_SDK_DISABLED") or "").lower() == "true":
        return None
    exporter = environment.choice("OTEL_TRACES_EXPORTER", ("otlp", "none"))
    places = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if exporter == "none" or (exporter is None and not any(environment.optional(place) for place in places)):
        return None
    for protocol in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        environment.choice(protocol, ("http/protobuf",))
    sampler = environment.choice("OTEL_TRACES_SAMPLER", SAMPLERS) or TraceSettings().sampler
    queue = environment.integer("OTEL_BSP_MAX_QUEUE_SIZE", 2048, minimum=1, maximum=1_000_000)
    return TraceSettings(
        sampler=sampler,
        ratio=_ratio(environment),
        queue=queue,
        batch=min(queue, environment.integer("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512, minimum=1, maximum=100_000)),
        delay=environment.integer("OTEL_BSP_SCHEDULE_DELAY", 5000, minimum=1, maximum=3_600_000) / 1000,
    )


def samples_of(settings: TraceSettings) -> Callable[[int], bool]:
    """Return the decision about a trace that begins here, by its id: the same in every process with these settings."""
    kind = settings.sampler.removeprefix("parentbased_")
    least = {"always_on": _RANDOM, "always_off": 0}.get(kind, round(settings.ratio * _RANDOM))
    return lambda trace: trace % _RANDOM < least


def follows_of(settings: TraceSettings) -> Callable[[SpanContext], bool]:
    """Return the decision about a trace that goes on here from outside."""
    if settings.sampler.startswith("parentbased_"):
        return lambda parent: parent.sampled
    samples = samples_of(settings)
    return lambda parent: samples(parent.trace)


def _ratio(environment: Environment) -> float:
    name = "OTEL_TRACES_SAMPLER_ARG"
    given = environment.optional(name)
    try:
        ratio = 1.0 if given is None else float(given)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        environment.complain(name, "must be a number from 0 to 1")
        return 1.0
    return ratio
