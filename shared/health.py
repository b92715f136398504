"""The health of one service process, by part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry

from shared.envelope import rfc3339, utc_now


class Health:
    """The health of a process, by part; a part that was never reported counts as not ready only if it was expected.

    `registry` holds the metrics of the process that are no facts of `/readyz`.
    """

    def __init__(self, service: str) -> None:
        self.service = service
        self._parts: dict[str, str | None] = {}
        self._since: dict[str, str] = {}
        self._facts: dict[str, Any] = {}
        self._counters: set[tuple[str, str]] = set()
        self._labels: dict[tuple[str, str], str] = {}
        self.registry = CollectorRegistry()
        self._spared: set[str] = set()
        self.started = False

    @property
    def started(self) -> bool:
        """Whether the service has started, and is not stopping yet."""
        return self._started

    @started.setter
    def started(self, value: bool) -> None:
        self._started = value
        self._turned = rfc3339(utc_now())

    def report(self, part: str, problem: str | None) -> None:
        """Report the fault of `part`, or None when it is well."""
        self._parts[part] = problem
        if problem is None:
            self._since.pop(part, None)
        else:
            self._since.setdefault(part, rfc3339(utc_now()))

    def spare(self, part: str) -> None:
        """Have a fault of `part` be shown, and not make the process unready: what it is for goes on without it."""
        self._spared.add(part)

    @property
    def impaired(self) -> list[str]:
        """Return the parts that have a fault and are spared, by name."""
        return sorted(part for part in self._spared if self._parts.get(part) is not None)

    def problem(self, part: str) -> str | None:
        """Return the fault of `part`; None where it has none, or nothing is known."""
        return self._parts.get(part)

    def state(self, name: str, value: Any, *, counters: tuple[str, ...] = (), labels: Mapping[str, str] | None = None) -> None:
        """Publish a fact in `/readyz`, such as the sandbox's tier; a function is called for each answer.

        The numbers in a fact with fields are gauges in `/metrics` (`shared.metrics`), and so are those in a field with fields, by
        the label that `labels` has for the field; one without a label is left out there. The fields that `counters` names only
        grow while the process lives, and are counters there.
        """
        self._facts[name] = value
        self._counters |= {(name, field) for field in counters}
        self._labels |= {(name, field): label for field, label in (labels or {}).items()}

    def is_counter(self, fact: str, field: str) -> bool:
        """Return whether a field of a fact only grows while the process lives."""
        return (fact, field) in self._counters

    def label_of(self, fact: str, field: str) -> str | None:
        """Return the label of the numbers within a field of a fact; None where they are no metrics."""
        return self._labels.get((fact, field))

    @property
    def ready(self) -> bool:
        """Return whether the service has started and every part is well that it does not go on without."""
        return self.started and all(problem is None for part, problem in self._parts.items() if part not in self._spared)

    def document(self) -> dict[str, Any]:
        """Return the answer of `/readyz`; `since` of a part is when it ceased to be well (RFC 3339)."""
        parts = {
            part: {"ready": problem is None, "detail": problem, "since": self._since.get(part)}
            for part, problem in sorted(self._parts.items())
        }
        if not self.started:
            parts["start"] = {"ready": False, "detail": "starting or stopping", "since": self._turned}
        facts = {name: value() if callable(value) else value for name, value in self._facts.items()}
        return {"service": self.service, "ready": self.ready, "parts": parts, **facts}
