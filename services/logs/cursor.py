"""The end of a page of a search, as opaque text."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec

from services.logs import times
from shared.errors import Malformed, Problem

Order = Literal["asc", "desc"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The last item of a page, as (time, stream, seq), and the range of times, frozen at the first page.

    Times are microseconds since 1970; `query` is the fingerprint of everything else that was asked.
    """

    time: int
    stream: Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{1,32}(-[0-9]{1,2})?\Z")]
    seq: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    since: int
    until: int
    order: Order
    query: str


class After(msgspec.Struct, frozen=True):
    """The position that a page begins after."""

    time: datetime
    stream: str
    seq: int


def fingerprint(*asked: str) -> str:
    """Return the identity of a search: 96 bits of SHA-256."""
    return hashlib.sha256("\0".join(asked).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def written(cursor: Cursor) -> str:
    """Return the cursor as text for a URL."""
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode().rstrip("=")


def behind(row: Any, *, since: datetime, until: datetime, order: Order, query: str) -> str:
    """Return as text the cursor behind a row of a search within these times."""
    times = microseconds(row["time"]), microseconds(since), microseconds(until)
    return written(Cursor(times[0], row["stream"], row["seq"], times[1], times[2], order, query))


def begun(
    text: str | None, query: str, *, since: str | None, until: str | None, now: datetime
) -> tuple[datetime, datetime, After | None]:
    """Return the range of times of a search, and what its page begins after: by the cursor, if it has one.

    Raises `Invalid` for the range, `Malformed` for the cursor.
    """
    if text is None:
        return *times.span(since, until, now), None
    last = read(text, query)
    return moment(last.since), moment(last.until), After(moment(last.time), last.stream, last.seq)


def read(text: str, query: str) -> Cursor:
    """Return the cursor that `written` made for the search with this fingerprint. Raises `Malformed` for any other text."""
    try:
        cursor = msgspec.json.decode(base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True), type=Cursor)
        for number in (cursor.time, cursor.since, cursor.until):
            moment(number)
    except (binascii.Error, ValueError, OverflowError, msgspec.MsgspecError) as error:
        raise Malformed("the cursor is not one of ours", errors=(Problem("cursor", "cannot be read"),)) from error
    if cursor.query != query:
        raise Malformed("the cursor belongs to another search: begin again without it", errors=(Problem("cursor", "does not fit"),))
    return cursor


def microseconds(time: datetime) -> int:
    """Return `time` as microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def moment(number: int) -> datetime:
    """Return microseconds since 1970 as a time."""
    return _EPOCH + number * _MICROSECOND
