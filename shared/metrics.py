"""The metrics of one service process, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shared.health import Health

CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(health: Health) -> bytes:
    """Return the answer of `/metrics` now: the parts and the numbers of `health`, and the use of the process."""
    registry = CollectorRegistry()
    for of_the_process in (ProcessCollector, PlatformCollector, GCCollector):
        of_the_process(registry=registry)
    registry.register(_Facts(health))
    return generate_latest(registry)


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
                numbers = _numbers(value)
                if not numbers:
                    continue
                family = CounterMetricFamily if self._health.is_counter(fact, field) else GaugeMetricFamily
                labels = ("service", "of") if isinstance(value, dict) else ("service",)
                metric = family(f"millrace_{fact}_{field}", f"`{fact}.{field}` of /readyz.", labels=labels)
                for of, number in numbers.items():
                    metric.add_metric((service, of)[: len(labels)], number)
                yield metric


def _numbers(value: Any) -> dict[str, float]:
    fields = value if isinstance(value, dict) else {"": value}
    return {of: number for of, number in fields.items() if isinstance(number, int | float)}
