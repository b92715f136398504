"""CloudEvents 1.0 around every message, and ids that make redelivery harmless."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec
import uuid_utils

from shared import tracing
from shared.errors import Invalid
from shared.messages.declaration import Message, class_of, declaration_of
from shared.values import cleaned, without_nul

CONTENT_TYPE = "application/cloudevents+json"
# The namespace of ids that derive from something which is no message, such as a name: fixed for ever.
NAMESPACE = uuid_utils.UUID("6a0f9c1e-52d7-5b0e-8f2c-3c6f4b1d7a90")
# Characters of a uuid as it is mostly spelled.
USUAL_LENGTH = 36

M = TypeVar("M", bound=Message)

_encoder = msgspec.json.Encoder()


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """One message as it is stored: on the bus, in Postgres, in a bug report.

    `source` is the writing service (`/gateway`), `subject` the key, `time` aware UTC; `data` is the message, still encoded.

    `traceparent` (CloudEvents' extension for distributed tracing) is there where the message is part of a trace.
    """

    specversion: str = "1.0"
    id: str
    type: str
    source: str
    subject: str
    time: datetime
    org: str
    correlationid: str
    causationid: str | None = None
    traceparent: str | msgspec.UnsetType = msgspec.UNSET
    datacontenttype: str = "application/json"
    data: msgspec.Raw


_decoder = msgspec.json.Decoder(Envelope)
# Invalid UTF-8 and absurd nesting are no MsgspecError.
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_data_decoders: dict[type[Message], msgspec.json.Decoder[Any]] = {}


class Sealed(msgspec.Struct, Generic[M], frozen=True):
    """A message with its envelope, ready to be sent or just read: `document` is the exact JSON.

    `span` is that of its publishing, where it is traced.
    """

    envelope: Envelope
    message: M
    document: bytes
    span: tracing.Span | None = None


def new_id() -> str:
    """Return a fresh uuid7: time-ordered, unique; for the first message of a chain and for claims."""
    return str(uuid_utils.uuid7())


def derived_id(cause: str, *parts: str) -> str:
    """Return the uuid5 of `parts` under `cause` (a uuid, or any text): the same for ever."""
    return str(uuid_utils.uuid5(_namespace(cause), "/".join(parts)))


def caused_id(cause: str, message: Message, discriminator: str) -> str:
    """Return the id of `message`, caused by the message `cause`; the discriminator tells messages of one cause apart."""
    declared = declaration_of(message)
    return derived_id(cause, declared.type_of(message), declared.key(message), discriminator)


def seal(
    message: M,
    *,
    service: str,
    org: str,
    now: datetime,
    id: str | None = None,  # noqa: A002 - the CloudEvents attribute
    cause: Envelope | None = None,
    correlation: str | None = None,
    causation: str | None = None,
) -> Sealed[M]:
    """Put `message` into its envelope.

    Text that Postgres or UTF-8 cannot hold is replaced (`shared.values`), from every source: no stored message may end a reader.
    `id` defaults to a fresh one. With `cause` the correlation is copied and the causation set; else the message begins a
    chain, or joins the chain `correlation`, in which `causation` is the id of its cause.
    """
    declared = declaration_of(message)
    made = id or new_id()

    stored, data = _encoded(message)
    type_ = declared.type_of(message)
    chain = message.chain_begun() or (cause.correlationid if cause else (correlation or made))
    span = None
    if tracing.is_on():
        followed = None if cause is None else cause.traceparent
        begins = cause is None and correlation is None
        span = tracing.published(
            type_, declared.stream, made, chain, org, now, cause=followed, follows=cause is not None, begins=begins
        )
    envelope = Envelope(
        id=made,
        type=type_,
        source=f"/{service}",
        subject=declared.key(stored),
        time=now,
        org=org,
        correlationid=chain,
        causationid=cause.id if cause else causation,
        traceparent=msgspec.UNSET if span is None else str(span.context),
        data=msgspec.Raw(data),
    )
    return Sealed(envelope, stored, _encoder.encode(envelope), span)


def open_envelope(document: bytes) -> Envelope:
    """Return the envelope of a stored document. Raises `Invalid` naming its fault."""
    try:
        return _decoder.decode(document)
    except _UNREADABLE as error:
        raise Invalid(f"not a CloudEvents document: {error}") from error


def open_message(envelope: Envelope, expected: type[M] | None = None) -> M:
    """Return the message within. Raises `Invalid` when its type is unknown here or its data does not fit."""
    cls = expected or class_of(envelope.type)
    if cls is None:
        raise Invalid(f"unknown message type {envelope.type!r}")
    try:
        decoded: M = _decoded(cls, envelope.data)
    except _UNREADABLE as error:
        raise Invalid(f"{envelope.type} {envelope.id}: {error}") from error
    return decoded


def _decoded(cls: type[Message], data: msgspec.Raw) -> Any:
    decoder = _decoder_of(cls)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        try:
            older = cls.upcast(bytes(data))
        except (LookupError, TypeError, AttributeError):  # not in the older shape either
            older = None
        if older is None:
            raise
        return decoder.decode(older)


def utc_now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Return `moment` as RFC 3339 in UTC with `Z` and microseconds."""
    if not moment.microsecond or moment.tzinfo is not UTC:  # msgspec leaves out a fraction that is zero
        return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return _encoder.encode(moment)[1:-1].decode()


def _encoded(message: M) -> tuple[M, bytes]:
    """Return a message as it is stored, and its JSON. Raises `Invalid` for values that JSON cannot hold at all."""
    try:
        data = _encoder.encode(message)
        stored = without_nul(data)
        if stored == data:
            return message, data
    except UnicodeEncodeError:
        stored = _encoder.encode(cleaned(msgspec.to_builtins(message)))
    except RecursionError as error:
        raise Invalid(f"{declaration_of(message).type}: {error}") from error
    return _decoder_of(type(message)).decode(stored), stored


def _decoder_of(cls: type[Message]) -> msgspec.json.Decoder[Any]:
    decoder = _data_decoders.get(cls)
    if decoder is None:
        decoder = _data_decoders[cls] = msgspec.json.Decoder(cls)
    return decoder


def _namespace(text: str) -> uuid_utils.UUID:
    # A tenth of the time of the standard library's, which takes more spellings of a uuid and decides on them.
    if len(text) == USUAL_LENGTH:
        with contextlib.suppress(ValueError):
            return uuid_utils.UUID(text)
    try:
        return uuid_utils.UUID(str(UUID(text)))
    except ValueError:
        return uuid_utils.uuid5(NAMESPACE, text)
