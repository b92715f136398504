"""The text format of Prometheus, as far as the metrics of a stack need it; on the standard library."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Sample:
    """A number and its labels."""

    labels: dict[str, str]
    value: float


@dataclass
class Samples:
    """Samples by the name of their metric."""

    by_name: dict[str, list[Sample]] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Add those of an exposition; a line that is none is passed over."""
        for line in text.splitlines():
            found = None if line.startswith("#") else _SAMPLE.fullmatch(line)
            if found is None:
                continue
            labels = {name: _ESCAPED.sub(_unescaped, value) for name, value in _LABEL.findall(found[2] or "")}
            try:
                sample = Sample(labels, float(found[3]))
            except ValueError:
                continue
            self.by_name.setdefault(found[1], []).append(sample)

    def of(self, name: str, **labels: str) -> Iterator[Sample]:
        """Yield the samples of a metric that have these labels."""
        for sample in self.by_name.get(name, ()):
            if labels.items() <= sample.labels.items():
                yield sample

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric that have these labels."""
        return sum(sample.value for sample in self.of(name, **labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Return the sums of the samples of a metric by the value of a label."""
        found: dict[str, float] = {}
        for sample in self.of(name, **labels):
            key = sample.labels.get(label, "")
            found[key] = found.get(key, 0.0) + sample.value
        return found


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]
