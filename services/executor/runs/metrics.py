"""The ends of runs as metrics: how many by workflow and outcome, how long they took, and how long they waited for a worker."""

from __future__ import annotations

from datetime import datetime

from prometheus_client import Counter, Histogram

from services.executor.runs.run_state import RunState, queue_ms
from shared.health import Health
from shared.metrics import Bounded

# Workflows that have metrics of their own: the first to end a run. Those of all organizations of one name count together.
WORKFLOWS = 50
# Seconds: a run may wait or take from some milliseconds to a day.
BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)


class RunMetrics:
    """Counts runs that end while this process lives; the projection of runs, which one replica keeps, calls it for each.

    Ends that were stored before `since` are old: they come again where rows are made anew. A batch that Postgres refused and that
    is offered again counts twice.
    """

    def __init__(self, health: Health, since: datetime) -> None:
        self._since = since
        self._workflows = Bounded(WORKFLOWS)
        service, registry = health.service, health.registry
        ended = Counter("millrace_runs_ended", "Runs that ended.", ("service", "workflow", "status", "reason"), registry=registry)
        duration = Histogram(
            "millrace_run_duration_seconds",
            "Duration of the last attempt of runs that ended.",
            ("service", "workflow"),
            buckets=BUCKETS,
            registry=registry,
        )
        queue = Histogram(
            "millrace_run_queue_seconds",
            "Time that runs that ended had waited for a worker before they began.",
            ("service",),
            buckets=BUCKETS,
            registry=registry,
        )
        self._service, self._ended, self._duration, self._queue = service, ended, duration, queue.labels(service)

    def ended(self, state: RunState, at: datetime) -> None:
        """Count a run whose end was stored `at`."""
        if at < self._since:
            return
        workflow = self._workflows.of(state.workflow)
        self._ended.labels(self._service, workflow, state.status, state.reason or "").inc()
        if state.duration_ms is not None:
            self._duration.labels(self._service, workflow).observe(state.duration_ms / 1000)
        if (waited := queue_ms(state)) is not None:
            self._queue.observe(waited / 1000)
