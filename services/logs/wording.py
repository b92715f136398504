"""The words of a message: the line that a person reads, and the text that search looks through."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from typing import Any

from services.logs import lexemes
from shared.messages import declaration_of
from shared.runs import EFFECTS

# Shown for bytes that cannot be read, and of long values within a line.
SHOWN = 2000
_FIELD_SHOWN = 200
# Postgres takes 1 MB of lexemes per row; text of this many characters stays below, with the positions of all words.
WORDS = 100_000
# Text that is nested deeper is found by its path only: it is rare, and looking for it costs the square of the depth.
DEPTH = 30
# A "word" longer than this is base64 or a token: it is not searched for, and the index would hold it.
_LONGEST_WORD = 256
_SKIPPED = ("_base64", "_ref")
_SKIPPED_NAMES = {"sealed", "sha256"}
_formatter = string.Formatter()


def message_of(type_: str, key: str, data: dict[str, Any]) -> str:
    """Return the line for a message of any version: fields that are not there are left out, never an error."""
    noun = type_.partition(".")[0]
    wording = _BY_TYPE.get(type_) or _BY_NOUN.get(noun)
    said = wording(data).strip() if wording is not None else ""
    if not said:
        name = data.get("name") or data.get("path")
        said = f"{type_} {name if isinstance(name, str) else key}"
    return said


def words_of(type_: str, key: str, message: str, data: Any, marks: Iterable[bytes] = ()) -> bytes:
    """Return what full-text search looks through, as `lexemes` keep it: the line, the type, every text within the data."""
    pieces = [message, type_, key]
    complete = _add_texts(data, pieces, DEPTH)
    whole = " ".join(pieces)
    if len(whole) > WORDS:
        whole, complete = whole[:WORDS], False
    if max(map(len, pieces)) > _LONGEST_WORD:
        words = whole.split()
        short = [word for word in words if len(word) <= _LONGEST_WORD]
        whole, complete = " ".join(short), complete and len(short) == len(words)
    return lexemes.kept(whole, marks, complete=complete)


def is_kept(path: Iterable[str]) -> bool:
    """Return whether the words of a row have those of the data at this place."""
    return not any(name in _SKIPPED_NAMES or name.endswith(_SKIPPED) for name in path)


def _add_texts(value: Any, found: list[str], deeper: int) -> bool:
    """Add every text and number within a value; return whether these are all, and none is too deep to be looked for."""
    if isinstance(value, str):
        if value:
            found.append(value)
        return True
    if value is None or isinstance(value, bool):
        return True
    if deeper == 0:
        return False
    if isinstance(value, dict):
        inner = [item for name, item in value.items() if name not in _SKIPPED_NAMES and not name.endswith(_SKIPPED)]
    elif isinstance(value, list):
        inner = value
    else:
        found.append(str(value))
        return True
    complete = True
    for item in inner:
        if type(item) is str:
            if item:
                found.append(item)
        elif not _add_texts(item, found, deeper - 1):
            complete = False
    return complete


def _of(data: dict[str, Any], *names: str) -> list[str]:
    return [_short(data[name]) for name in names if data.get(name) not in (None, "")]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= _FIELD_SHOWN else f"{text[:_FIELD_SHOWN]}…"


def _logged(data: dict[str, Any]) -> str:
    said = _of(data, "event")
    fields = data.get("fields")
    if isinstance(fields, dict):
        said += [f"{name}={_short(value)}" for name, value in fields.items() if name != "service"]
    return " ".join(said)


def _shown(name: str, value: Any) -> str:
    """Return a field's value in a line: of an error its type and message, of the waits that are over their names."""
    if name == "error" and isinstance(value, dict):
        return ": ".join((*_of(value, "type"), str(value.get("message", ""))[:SHOWN]))
    if name == "resolved" and isinstance(value, list):
        return _short(", ".join(" ".join(_of(wait, "kind", "name")) for wait in value if isinstance(wait, dict)))
    return _short(value)


def _filled(first: str, *others: str) -> Callable[[dict[str, Any]], str]:
    """Return a wording that fills templates with fields: the first one, or nothing, and of the others those that have values."""
    templates = [[template, *(name for _, name, _, _ in _formatter.parse(template) if name)] for template in (first, *others)]

    def wording(data: dict[str, Any]) -> str:
        if not all(name in data for name in templates[0][1:]):
            return ""
        said = [
            template.format_map({name: _shown(name, data[name]) for name in names})
            for number, (template, *names) in enumerate(templates)
            if not number or all(data.get(name) for name in names)
        ]
        return "".join(said)

    return wording


_done_to = _filled("{actor} {verb} {target}: {outcome}")


def _audited(data: dict[str, Any]) -> str:
    """Return who did what to what; to the category, where it has no target, such as a search of the audit."""
    return _done_to(data if data.get("target") else data | {"target": data.get("category", "")})


def _refused(data: dict[str, Any]) -> str:
    detail = data.get("detail")
    reasons = _of(detail, "reason") if isinstance(detail, dict) else []
    return _audited(data) + "".join(f" ({reason})" for reason in reasons)


_BY_NOUN: dict[str, Callable[[dict[str, Any]], str]] = {
    "log": _logged,
    "audit": _audited,
    "dead": _filled("{consumer} gave up {verb}: {error} ({reason})"),
}
_BY_TYPE: dict[str, Callable[[dict[str, Any]], str]] = {
    "webhook.received": _filled("{method} webhook for {adapter}, {body_size} bytes"),
    "audit.refused": _refused,
    "webhook.refused": _filled("{count} webhooks for {adapter} refused: {reason}"),
    "event.accepted": _filled("{type} from {source_name}"),
    "event.routed": _filled("{workflow} was asked for as run {run}"),
    "event.filtered": _filled("filtered: {reason}"),
    "event.unroutable": _filled("{workflow} cannot run: {reason}"),
    "event.deferred": _filled("waits for adapter {adapter}: {reason}"),
    "event.resumed": _filled("adapter {adapter} has made its events"),
    "replay.requested": _filled("{actor} has {total} deliveries routed again, {rate} a second"),
    "replay.progressed": _filled("{replayed} routed again, {skipped} skipped, {failed} failed"),
    "replay.ended": _filled("{outcome}: {replayed} routed again, {skipped} skipped, {failed} failed"),
    "firing.fired": _filled("schedule {name} fired for {scheduled_for}"),
    "firing.skipped": _filled("schedule {name} skipped {scheduled_for}: {reason}"),
    "firing.failed": _filled("schedule {name} could not fire for {scheduled_for}: {reason}"),
    "firing.missed": _filled("schedule {name} missed all times from {first} to {last}"),
    "registration.begun": _filled("{source_name} is being registered at {place}"),
    "registration.confirmed": _filled("{source_name} is registered as {remote}", " until {expires_at}"),
    "registration.failed": _filled("{source_name} could not be registered: {error}"),
    "registration.noticed": _filled("the sender of {source_name} says {notice} about {remote}"),
    "registration.removed": _filled("{source_name} is registered no more"),
    "letter.replayed": _filled("{actor} replayed a dead letter of delivery {delivery}"),
    "letter.discarded": _filled("{actor} discarded a dead letter"),
    "alert.raised": _filled("{name} found {count}, and {limit} are allowed"),
    **{declaration_of(cls).type: _filled(*effect.line) for cls, effect in EFFECTS.items()},
}
