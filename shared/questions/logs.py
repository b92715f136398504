"""Questions to the logs service."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.questions.declaration import Page, Position, Question, question
from shared.values import Expression, Instant, Name


class LogItem(msgspec.Struct, frozen=True, kw_only=True):
    """One archived message as search shows it, or one line of a run's output.

    A line has its number (`line`) within the message `seq`, and the `fields` that its author gave.
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
    data: Any
    workflow: str | None = None
    line: int | None = None
    attempt: int | None = None
    fields: dict[str, Any] = {}


class LogPage(msgspec.Struct, frozen=True):
    """A page of a search."""

    items: list[LogItem]
    next_cursor: str | None


@question("logs.search", by="gateway", timeout=30.0)
class Search(Question[LogPage], frozen=True, kw_only=True):
    """Archived messages of an organization that `q` matches, between `since` and `until` (RFC 3339, epoch ms, `now-15m`).

    `everything` searches all organizations: the platform key's. Raises Invalid with the place in the query that cannot be read.
    """

    q: Expression = ""
    since: Instant | None = None
    until: Instant | None = None
    order: Name = "desc"
    page: Page = Page()
    everything: bool = False


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
