"""Questions and commands to the events service about deliveries that are routed again, many at a time."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.questions.declaration import Command, Page, Question, command, question
from shared.values import Instant, Key, Name

DeliveryStatus = Literal["accepted", "deferred", "held", "routed", "filtered", "unroutable", "dead"]
Pace = Annotated[float, msgspec.Meta(ge=0.01, le=500)]


class ReplayView(msgspec.Struct, frozen=True, kw_only=True):
    """A replay and its progress: of `total` deliveries some were replayed, `skipped` had no run to be repeated, others `failed`.

    `delivery_status` and `type` narrow which.
    """

    id: str
    org: str
    status: Literal["running", "done", "cancelled"]
    since: str
    until: str
    source: str | None
    delivery_status: str | None
    type: str | None
    all: bool
    rate: float
    total: int
    replayed: int
    skipped: int
    failed: int
    requested_by: str
    requested_at: str
    ended_at: str | None


class ReplayPage(msgspec.Struct, frozen=True):
    """A page of replays, newest first."""

    items: list[ReplayView]
    next_cursor: str | None


@command("events.replay_deliveries", by="gateway")
class ReplayDeliveries(Command[ReplayView], frozen=True, kw_only=True):
    """Route the deliveries received from `since` until before `until` (now) again, `rate` a second, oldest first.

    `source` (a name or an id), `status` and `type` narrow which; `everything`: also to the subscriptions whose run has succeeded or
    goes on. Raises Invalid naming the field, Conflict where too many replays of the organization go on.
    """

    since: Instant
    until: Instant | None = None
    source: Name | None = None
    status: DeliveryStatus | None = None
    type: Name | None = None
    everything: bool = False
    rate: Pace = 10.0


@command("events.cancel_replay", by="gateway")
class CancelReplay(Command[ReplayView], frozen=True, kw_only=True):
    """Route no more deliveries of a replay again. Raises NotFound, Conflict where it has ended."""

    replay: Key


@question("events.replays", by="gateway")
class ListReplays(Question[ReplayPage], frozen=True, kw_only=True):
    """Replays of an organization, newest first."""

    page: Page = Page()


@question("events.replay", by="gateway")
class GetReplay(Question[ReplayView], frozen=True, kw_only=True):
    """One replay. Raises NotFound."""

    id: Key
