"""The words of a message: the line that a person reads, and the text that search looks through."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

# What is shown of bytes that cannot be read, and of long values within a line.
SHOWN = 2000
_FIELD_SHOWN = 200
# Postgres takes 1 MB of lexemes per row; text of this many characters stays below, also where it is split into many.
WORDS = 200_000
# Text that is nested deeper is found by its path only: nobody writes it, and looking for it costs the square of the depth.
DEPTH = 30
# A "word" longer than this is base64 or a token: nobody searches for it, and the index would hold it.
_LONGEST_WORD = 256
_SKIPPED = ("_base64", "_ref")
_SKIPPED_NAMES = {"sealed", "sha256"}
# Postgres takes `tickets.fetched` or `a/b` for one word, a host's or a path's: its parts are words as well.
_JOINED = re.compile(r"\w+(?:[./:@=]\w+)+")
_SEPARATORS = re.compile(r"[./:@=]")
_LONG = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")


def message_of(type_: str, key: str, data: dict[str, Any]) -> str:
    """Return the line for a message of any version: fields that are not there are left out, never an error."""
    noun = type_.partition(".")[0]
    wording = _BY_TYPE.get(type_) or _BY_NOUN.get(noun)
    said = wording(data).strip() if wording is not None else ""
    if not said:
        name = data.get("name") or data.get("path")
        said = f"{type_} {name if isinstance(name, str) else key}"
    return said


def words_of(type_: str, key: str, message: str, data: Any) -> str:
    """Return what full-text search looks through: the line, the type, and every text within the data; bounded."""
    pieces: list[str] = [message, type_, key]
    room = WORDS - len(message)
    for text in _texts(data):
        if room <= 0:
            break
        pieces.append(text)
        room -= len(text) + 1
    whole = _LONG.sub(" ", " ".join(pieces)[:WORDS])
    parts = [" ".join(_SEPARATORS.split(found)) for found in _JOINED.findall(whole[: WORDS // 2])]
    return " ".join((whole, *parts))


def _texts(value: Any, deeper: int = DEPTH) -> Iterator[str]:
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, bool) or value is None or deeper == 0:
        return
    elif isinstance(value, int | float):
        yield str(value)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, deeper - 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name not in _SKIPPED_NAMES and not str(name).endswith(_SKIPPED):
                yield from _texts(item, deeper - 1)


def _of(data: dict[str, Any], *names: str) -> list[str]:
    return [_short(data[name]) for name in names if data.get(name) not in (None, "")]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _FIELD_SHOWN else f"{text[:_FIELD_SHOWN]}…"


def _logged(data: dict[str, Any]) -> str:
    fields = data.get("fields")
    if not isinstance(fields, dict):
        fields = {}
    return " ".join((*_of(data, "event"), *(f"{name}={_short(value)}" for name, value in fields.items() if name != "service")))


def _ended(data: dict[str, Any]) -> str:
    error = data.get("error")
    if not isinstance(error, dict):
        return ""
    reason = _of(data, "reason")
    return ": ".join((*reason, *_of(error, "type"), str(error.get("message", ""))[:SHOWN]))


def _joined(template: str, *names: str) -> Callable[[dict[str, Any]], str]:
    """Return a wording that fills `template` with fields, and says nothing when one of them is missing."""

    def wording(data: dict[str, Any]) -> str:
        if not all(name in data for name in names):
            return ""
        return template.format(*(_short(data[name]) for name in names))

    return wording


_BY_NOUN: dict[str, Callable[[dict[str, Any]], str]] = {
    "log": _logged,
    "audit": _joined("{} {} {}: {}", "actor", "verb", "target", "outcome"),
    "dead": _joined("{} gave up {}: {} ({})", "consumer", "verb", "error", "reason"),
}
_BY_TYPE: dict[str, Callable[[dict[str, Any]], str]] = {
    "webhook.received": _joined("{} webhook for {}, {} bytes", "method", "adapter", "body_size"),
    "event.accepted": _joined("{} from {}", "type", "source_name"),
    "event.routed": _joined("{} was asked for as run {}", "workflow", "run"),
    "event.filtered": _joined("filtered: {}", "reason"),
    "event.unroutable": _joined("{} cannot run: {}", "workflow", "reason"),
    "run.requested": _joined("{} requested by {}", "workflow", "requested_by"),
    "run.started": _joined("attempt {} started by {}, tier {}", "attempt", "executor", "tier"),
    "run.step_completed": _joined("step {} completed", "name"),
    "run.succeeded": _joined("succeeded after {} ms", "duration_ms"),
    "run.cancelled": _joined("cancelled in attempt {}", "attempt"),
    "run.cancel_requested": _joined("cancel requested by {}", "requested_by"),
    "run.failed": _ended,
    "run.timed_out": _ended,
    "run.crashed": _ended,
}
