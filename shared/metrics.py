"""The metrics of one service process, in the text format of Prometheus.

What OpenTelemetry has a convention for has its name, as its specification "Prometheus and OpenMetrics Compatibility" renders it:
dots become underscores, the unit is appended (none for annotations such as `{connection}`), and counters end in `_total`. The
conventions are those of opentelemetry.io/docs/specs/semconv: `http/http-metrics`, `messaging/messaging-metrics`,
`database/database-metrics`. All else begins with `millrace_` and has the label `service`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.health import Health

# When a series began is of no use to those who read rates, and a third of all lines.
disable_created_metrics()  # type: ignore[no-untyped-call]
CONTENT_TYPE = CONTENT_TYPE_LATEST
# Seconds: those that the conventions of OpenTelemetry advise for durations of HTTP requests, and for the handling of messages.
DURATIONS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
# The value of a label that stands for all values beyond the bound of `Bounded`.
OTHER = "other"
# Endings of the fields of `/readyz`, and what they are in the name of a metric.
_UNITS = (("_per_s", "_per_second"), ("_s", "_seconds"))


class Bounded:
    """The values of a label that users choose: the first `most` of them, and `other` for all that come later."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """Return the value of the label for `value`."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value


def exposition(health: Health) -> bytes:
    """Return the answer of `/metrics` now: the parts and the numbers of `health`, its registry, and the use of the process."""
    registry = CollectorRegistry()
    for of_the_process in (ProcessCollector, PlatformCollector, GCCollector):
        of_the_process(registry=registry)
    registry.register(_Facts(health))
    return generate_latest(registry) + generate_latest(health.registry)


class _Facts(Collector):
    """Collects the health of a service: `millrace_part_ready`, and `millrace_<fact>_<field>` of every number."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        document = self._health.document()
        service = self._health.service
        ready = GaugeMetricFamily("millrace_part_ready", "Whether a part of the service is well.", labels=("service", "part"))
        for part, state in document.pop("parts").items():
            ready.add_metric((service, part), int(state["ready"]))
        yield ready
        for fact, fields in document.items():
            for field, value in fields.items() if isinstance(fields, dict) else ():
                label = self._health.label_of(fact, field)
                if not isinstance(value, int | float) and not (label is not None and isinstance(value, dict)):
                    continue
                family = CounterMetricFamily if self._health.is_counter(fact, field) else GaugeMetricFamily
                labels = ("service",) if label is None else ("service", label)
                metric = family(f"millrace_{fact}_{_with_unit(field)}", f"`{fact}.{field}` of /readyz.", labels=labels)
                for of, number in _numbers(value).items():
                    metric.add_metric((service, of)[: len(labels)], number)
                yield metric


def _numbers(value: Any) -> dict[str, float]:
    fields = value if isinstance(value, dict) else {"": value}
    return {of: number for of, number in fields.items() if isinstance(number, int | float)}


def _with_unit(field: str) -> str:
    for ending, unit in _UNITS:
        if field.endswith(ending):
            return field.removesuffix(ending) + unit
    return field
