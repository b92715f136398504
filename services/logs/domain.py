"""Makes archive rows of stored messages: pure and total, any bytes become a row."""

from __future__ import annotations

import base64
import functools
import json
import re
from datetime import datetime
from typing import Any

import msgspec

from services.logs import lexemes, wording
from shared.envelope import Envelope, open_envelope
from shared.errors import Invalid
from shared.runs import RUN_STREAMS, RUNS, STATUSES
from shared.values import FIRST, LAST, lenient

LEVELS = ("debug", "info", "warning", "error", "critical")
UNDECODABLE = "undecodable"
# A chunk of a run's lines: they have rows of their own.
CHUNK = "line.logged"
# Characters that Postgres stores neither in text nor in jsonb: U+0000 and halves of surrogate pairs.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")
# jsonb holds numbers of up to 131,072 digits, Python refuses to read more than 4,300. Behind what a number in JSON follows: ids and
# base64 have digits like that all the time.
_HUGE = re.compile(rb"[:,\[\s]-?[0-9](?:[0-9.]{299}|[0-9.]*+[eE][+-]?[0-9]{3})")
# What such a number looks like with all digits and signs made alike. Looking for text is ten times as fast as trying each digit.
_ALIKE = bytes.maketrans(b"123456789E+", b"000000000e-")
_LARGE, _SMALL, _LONG = b"0e000", b"0e-000", b"0" * 300

_ALIASES = {"warn": "warning", "fatal": "critical", "trace": "debug", "exception": "error", "notice": "info"}
_LEVEL_OF_VERB = {
    **{name: status.level for name, status in STATUSES.items()},
    "needs_reauthorization": "error",
    "refresh_failed": "warning",
    "refused": "warning",
    "unroutable": "warning",
    "deferred": "warning",
}


# What makes rows of messages, below. Raised with a change of what a row says of its message: rows then tell which one made them.
VERSION = 3
# The first version from which on the wording (the level, and the line that people read) is as it is now.
WORDED_SINCE = 3


# Audited of the archive itself: messages that never came, that retention removed, and that were erased.
CATEGORY, GAP, REMOVED, ERASED = "archive", "gap", "removed", "erased"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the archive. `data` is JSON that jsonb takes, or None; `document` the exact bytes; `words` as `lexemes` keep them.

    `workflow` is the one that the message names. `line`: 0 for a message, see `lines` for chunks of them.
    """

    time: datetime
    stream: str
    incarnation: str
    seq: int
    id: str
    type: str
    level: str
    service: str
    org: str
    key: str
    run: str | None
    correlation_id: str
    causation_id: str | None
    message: str
    data: str | None
    document: bytes
    said_at: datetime
    words: bytes
    workflow: str | None = None
    line: int = 0
    version: int = VERSION


class StreamPosition(msgspec.Struct, frozen=True):
    """The position of a message in a stream, and its time there (`time`, aware UTC)."""

    stream: str
    incarnation: str
    seq: int
    time: datetime
    subject: str


class Digested(msgspec.Struct, frozen=True):
    """An archived message: its place, the time at which the stream stored it, and the SHA-256 of its bytes."""

    incarnation: str
    seq: int
    time: datetime
    digest: bytes


def row_of(position: StreamPosition, document: bytes) -> Row:
    """Return the row of a message, of any bytes: one without an envelope becomes a row of type `undecodable`."""
    try:
        envelope, data, data_json = _read(document)
    except (ValueError, RecursionError):
        return undecodable(position, document)
    type_ = envelope.type
    key = envelope.subject
    fields = data if isinstance(data, dict) else {}
    noun, _, verb = type_.partition(".")
    message = wording.message_of(type_, key, fields)
    level = _level_of(noun, verb, fields)
    return Row(
        time=position.time,
        stream=position.stream,
        incarnation=position.incarnation,
        seq=position.seq,
        id=envelope.id,
        type=type_,
        level=level,
        service=envelope.source.lstrip("/"),
        org=envelope.org,
        key=key,
        run=_run_of(noun, key, fields),
        correlation_id=envelope.correlationid,
        causation_id=envelope.causationid,
        message=message,
        data=data_json,
        document=document,
        said_at=_within(envelope.time, position.time),
        words=wording.words_of(type_, key, message, None if type_ == CHUNK else data, marks_of(position.stream, level)),
        workflow=_workflow_of(noun, fields),
    )


def _within(said: datetime, stored: datetime) -> datetime:
    """Return the time that a message has, or when it was stored where no calendar has that."""
    return said if said.tzinfo is not None and FIRST <= said <= LAST else stored


def undecodable(position: StreamPosition, document: bytes) -> Row:
    """Return the row that keeps bytes which nothing else can be made of."""
    known_as = f"{position.stream}/{position.incarnation}/{position.seq}"
    shown = storable(document[: wording.SHOWN].decode("utf-8", "backslashreplace"))
    return Row(
        time=position.time,
        stream=position.stream,
        incarnation=position.incarnation,
        seq=position.seq,
        id=known_as,
        type=UNDECODABLE,
        level="error",
        service="unknown",
        org="global",
        key=storable(position.subject),
        run=None,
        correlation_id=known_as,
        causation_id=None,
        message=shown,
        data=None,
        document=document,
        said_at=position.time,
        words=lexemes.kept(UNDECODABLE, marks_of(position.stream, "error")),
    )


@functools.cache
def marks_of(stream: str, level: str) -> tuple[bytes, bytes]:
    """Return the marks of a row among its words: of what a search names often, and few rows may have."""
    # Of a shard that of the stream: people look for runs, and the mark stands for what the column is compared with.
    named = RUNS if stream in RUN_STREAMS else stream
    return lexemes.mark("stream", named).encode(), lexemes.mark("level", level).encode()


def data_of(document: bytes) -> msgspec.Raw:
    """Return the data of an archived document as it was written, keys in their order.

    A document without a readable envelope is returned as `{"document_base64": …}`.
    """
    try:
        data = open_envelope(document).data
        # An answer is UTF-8 JSON as a whole: bytes that are not would spoil everything beside them.
        msgspec.json.decode(data)
    except (Invalid, ValueError, RecursionError, msgspec.MsgspecError):
        return msgspec.Raw(msgspec.json.encode({"document_base64": base64.b64encode(document).decode()}))
    return data


def storable(text: str) -> str:
    r"""Return `text` with characters that Postgres cannot store as `\u0000`; a search for them is escaped the same way."""
    if text.isascii() and "\x00" not in text:
        return text
    return _UNSTORABLE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _read(document: bytes) -> tuple[Envelope, Any, str]:
    """Return the envelope, the data decoded, and the data as JSON for jsonb, with all text `storable`. Raises ValueError."""
    try:
        envelope = open_envelope(document)
        raw = bytes(envelope.data)
        data = msgspec.json.decode(raw)
        # Of what cannot be stored only a NUL that is escaped has been decoded.
        if b"\\u0000" not in document and not _has_huge(raw):
            return envelope, data, raw.decode()
    except (Invalid, ValueError, msgspec.MsgspecError):
        envelope, data = _leniently(document)
    harmless = _harmless(data)
    attributes = {name: storable(value) for name, value in msgspec.structs.asdict(envelope).items() if isinstance(value, str)}
    envelope = msgspec.structs.replace(envelope, **attributes)
    return envelope, harmless, json.dumps(harmless, ensure_ascii=False, separators=(",", ":"))


def _has_huge(data: bytes) -> bool:
    """Return whether JSON may hold a number that jsonb or Python cannot take."""
    alike = data.translate(_ALIKE)
    return (_SMALL in alike or _LARGE in alike or _LONG in alike) and _HUGE.search(b":%b" % data) is not None


def _leniently(document: bytes) -> tuple[Envelope, Any]:
    """Read JSON that holds lone surrogates, bytes that are no UTF-8, or numbers beyond all bounds. Raises ValueError."""
    read = lenient(document)
    if not isinstance(read, dict) or "data" not in read:
        raise ValueError("not an envelope")
    needed = ("id", "type", "source", "subject", "org", "correlationid")
    if not all(isinstance(read.get(name), str) for name in needed) or not isinstance(read.get("time"), str):
        raise ValueError("not an envelope")
    cause = read.get("causationid")
    envelope = Envelope(
        **{name: read[name] for name in needed},
        time=datetime.fromisoformat(read["time"]),
        causationid=cause if isinstance(cause, str) else None,
        data=msgspec.Raw(),
    )
    return envelope, read["data"]


def _harmless(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_harmless(item) for item in value]
    if isinstance(value, dict):
        return {storable(name): _harmless(item) for name, item in value.items()}
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"{value:x}" if value.bit_length() > 14000 else str(value)
    return value


def _level_of(noun: str, verb: str, data: dict[str, Any]) -> str:
    if noun == "line":
        lines = data.get("lines")
        found = [level_named(line.get("level")) for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
        return max(found, key=LEVELS.index, default="info")
    if noun == "log":
        return level_named(data.get("level", verb))
    if noun == "dead":
        return "error"
    if noun == "audit":
        return "info" if data.get("outcome", "ok") == "ok" else "warning"
    return _LEVEL_OF_VERB.get(verb, "info")


def level_named(name: Any) -> str:
    """Return the level that senders call `name`; an unknown one is `info`."""
    lowered = str(name).lower()
    return lowered if lowered in LEVELS else _ALIASES.get(lowered, "info")


def level_known(name: str) -> bool:
    """Return whether `name` is a level, or a usual name of one."""
    return name.lower() in LEVELS or name.lower() in _ALIASES


def _workflow_of(noun: str, data: dict[str, Any]) -> str | None:
    for holder, name in (
        (data, "name" if noun == "workflow" else "workflow"),
        (data.get("detail"), "workflow"),
        (data.get("fields"), "workflow"),
    ):
        found = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(found, str) and found:
            return found
    return None


def _run_of(noun: str, key: str, data: dict[str, Any]) -> str | None:
    if noun in {"run", "line"}:
        return key
    detail = data.get("detail")
    fields = data.get("fields")
    for holder in (data, detail, fields):
        if isinstance(holder, dict):
            run = holder.get("run") or holder.get("run_id")
            if isinstance(run, str) and run:
                return run
    return None
