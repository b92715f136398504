"""Questions to the logs service."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from shared.questions.declaration import Page, Position, Question, question
from shared.values import Expression, Instant, Name, Opaque


class LogItem(msgspec.Struct, frozen=True, gc=False):
    """One archived message as search shows it, or one line of a run's output.

    A line has its number (`line`) within the message `seq`, and the `fields` that its author gave. `data` is as it was written.
    """

    time: str
    stream: str
    seq: int
    type: str
    level: str
    service: str
    org: str
    run: str | None
    correlation_id: str
    causation_id: str | None
    id: str
    message: str
    data: msgspec.Raw
    workflow: str | None = None
    line: int | None = None
    attempt: int | None = None
    fields: dict[str, Any] = {}


class LogPage(msgspec.Struct, frozen=True):
    """A page of a search."""

    items: list[LogItem]
    next_cursor: str | None


Q = TypeVar("Q")


class OfRows(Question[Q], frozen=True, kw_only=True):
    """A question about the archived messages of an organization that `q` matches; `everything`: of all, as the platform's key may.

    `stream` narrows it to one, `saved` to what a saved search finds, whatever `q` says.

    Raises Invalid with the place in the query that cannot be read.
    """

    q: Expression = ""
    everything: bool = False
    stream: Name | None = None
    saved: Name | None = None


class OfTimes(OfRows[Q], frozen=True, kw_only=True):
    """Likewise, between `since` and `until` (RFC 3339, epoch ms, `now-15m`); the last 24 hours."""

    since: Instant | None = None
    until: Instant | None = None


@question("logs.search", by="gateway", timeout=30.0)
class Search(OfTimes[LogPage], frozen=True, kw_only=True):
    """The messages, page by page."""

    order: Name = "desc"
    page: Page = Page()


class Bar(msgspec.Struct, frozen=True):
    """The messages from `time` (RFC 3339) to the next bar: how many, and how many of each level."""

    time: str
    count: int
    levels: dict[str, int]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts by time, oldest first: a bar for each `step` seconds from `since` to `until`, also where there are none."""

    since: str
    until: str
    step: float
    count: int
    items: list[Bar]


@question("logs.histogram", by="gateway", timeout=30.0)
class CountByTime(OfTimes[Histogram], frozen=True, kw_only=True):
    """How many messages there are in each part of the time: at most `bars` parts, of a round length."""

    bars: int = 60


class FacetValue(msgspec.Struct, frozen=True):
    """A value of a field as text, and how many messages have it."""

    value: str
    count: int


class Facet(msgspec.Struct, frozen=True):
    """The most frequent values of a field, the first one first."""

    field: str
    values: list[FacetValue]


class Facets(msgspec.Struct, frozen=True):
    """Values of fields among the newest `counted` messages; `complete` says that these are all that match."""

    items: list[Facet]
    counted: int
    complete: bool


@question("logs.facets", by="gateway", timeout=30.0)
class CountByValue(OfTimes[Facets], frozen=True, kw_only=True):
    """The most frequent `values` of each field, such as `level`, `workflow`, `fields.status`."""

    fields: list[Expression]
    values: int = 10


class TailItem(msgspec.Struct, frozen=True):
    """A message as it comes; `id` is the place behind it."""

    id: str
    item: LogItem


class TailPage(msgspec.Struct, frozen=True, kw_only=True):
    """What has come since a place, in the order of each stream, up to `position`. `more`: there is more already.

    `dropped` messages, whether they match or not, came while nobody asked, and are passed over: a search has them.
    """

    items: list[TailItem]
    position: str
    dropped: int
    more: bool


@question("logs.tail", by="gateway", timeout=10.0)
class TailLogs(OfRows[TailPage], frozen=True, kw_only=True):
    """The messages that were archived after `position`; None: begin now. Raises Malformed for a place that is none."""

    position: Opaque | None = None


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A message of a chain without its document: its line, and the fields of its data that identify its subject."""

    time: str
    type: str
    id: str
    causation_id: str | None
    run: str | None
    message: str
    fields: dict[str, str] = {}


class Chain(msgspec.Struct, frozen=True):
    """The first messages of a chain in the order of their time; `cut` when there are more."""

    items: list[Link]
    cut: bool


@question("logs.chain", by="gateway", timeout=30.0)
class ReadChain(Question[Chain], frozen=True, kw_only=True):
    """The messages of one chain of an organization from `since` (RFC 3339) on: webhooks, events and runs, without their steps."""

    correlation_id: Name
    since: Instant
    limit: int = 1000


@question("logs.position", by="executor")
class ArchivePosition(Question[Position], frozen=True, kw_only=True):
    """The archive's position in a stream: all messages before it are in Postgres, byte for byte."""

    stream: Name
