"""Questions and commands to the events service."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shared.errors import Problem
from shared.questions.declaration import Command, Page, Position, Question, command, question
from shared.resources.shapes import Moment
from shared.values import Expression, Key, Name, Opaque, Sequence


class DeliveryRun(msgspec.Struct, frozen=True):
    """A run that a delivery led to, and how it ended. One that `resumes` another goes on where it ended, and counts for it."""

    id: str
    workflow: str
    status: str
    reason: str | None = None
    error: str | None = None
    requested_at: str | None = None
    ended_at: str | None = None
    resumes: str | None = None


class SubscriptionTaken(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a delivery's event with one subscription: routed (to `run`), filtered, unroutable, failed (its filter).

    `retry_at` is when an unroutable one is tried again, by the subscription's policy.
    """

    subscription: str
    name: str | None
    workflow: str | None
    status: str
    reason: str | None
    run: str | None
    event: int = 0
    retry_at: str | None = None


class WokenRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that waited for an event of a delivery, the `event`th, and went on with it: `wait` is the type and the source."""

    run: str
    wait: str
    event: int
    at: str


class DeliveryEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a delivery, by its number there; `id` is that of its newest retry."""

    number: int
    id: str
    type: str


class DeliveryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery's webhook as it is kept: credentials and signatures are redacted. `sender_delivery` is the sender's id of it.

    `checked` says what was verified of it when it came, nothing of one that came before Millrace kept that.

    `query` and `headers` are pairs of name and value; a schema of pairs is more than most readers of the API's document take.
    `body` is its text, `body_base64` its bytes where they are none; neither where it is larger than 64 KiB.
    """

    method: str
    query: list[list[str]]
    headers: list[list[str]]
    remote: str | None
    adapter: str
    sender_delivery: str | None
    body_size: int
    body: str | None
    body_base64: str | None
    checked: list[str] = []


class DeliveryView(msgspec.Struct, frozen=True, kw_only=True):
    """The story of one delivery. `status` is accepted, deferred, held, routed, filtered, unroutable or dead.

    `source_name` is None where the source is not known any more.
    `retries` counts how often it was routed again, `edited_by` gave the last of them other data. `overdue_at` is when it was found
    to have no end. Shown of one delivery alone, and only while the bus has them, seven days: the `request` of a webhook, the `data`
    of an event that `emitted_by` emitted. `left_out` counts the outcomes, events and runs for which there was no room: those of
    the first events are shown, and the outcomes that need a person before others.
    """

    id: str
    source: str
    org: str
    type: str | None
    status: str
    reason: str | None
    runs: list[DeliveryRun]
    received_at: str
    correlation_id: str
    subscriptions: list[SubscriptionTaken] = []
    events: list[DeliveryEvent] = []
    left_out: int = 0
    retries: int = 0
    edited_by: str | None = None
    overdue_at: str | None = None
    source_name: str | None = None
    request: DeliveryRequest | None = None
    emitted_by: str | None = None
    data: Any = None
    woken: list[WokenRun] = []


class DeliveryList(msgspec.Struct, frozen=True):
    """A page of deliveries, newest first."""

    items: list[DeliveryView]
    next_cursor: str | None


class MappingView(msgspec.Struct, frozen=True, kw_only=True):
    """The values of an integration for one organization. Nothing in `config` is secret; `connection` names a connection of `org`.

    `sealed` holds the secret members as a JSON object, sealed for (organization, the asker's nonce, "integration").

    `provider` is the integration's OAuth provider. `problems` are the places where the config does not fit the integration's
    schema, which may have changed since the mapping was put.
    """

    id: str
    org: str
    integration: str
    config: dict[str, Any]
    entity_id: str | None
    connection: str | None
    provider: str | None
    problems: list[Problem]
    created_at: str
    updated_at: str
    version: int
    sealed: str | None = None


class Emitted(msgspec.Struct, frozen=True):
    """An event is on disk: its id, and the id of the delivery that shows its outcome."""

    event: str
    delivery: str


class ExampleEvent(msgspec.Struct, frozen=True):
    """An event as its adapter makes it of an example."""

    type: str
    data: Any


class AdapterExample(msgspec.Struct, frozen=True):
    """A request as the sender's documentation has it, without its signature, and the events that it makes."""

    settings: dict[str, Any]
    headers: dict[str, str]
    body: str
    events: list[ExampleEvent]


class AdapterView(msgspec.Struct, frozen=True):
    """An adapter: the settings that it takes, as JSON Schema, and which of them are secret.

    `link` is the sender's own page, `event_types` are types that it documents, and `handshake` is the answer that is given to the
    sender's question whether the address takes its webhooks. `org` is the organization whose workspace has it, if one does.
    `entity` is the path at which its events say about whom they are.
    """

    name: str
    description: str
    settings_schema: dict[str, Any]
    secrets: list[str]
    link: str | None = None
    handshake: str | None = None
    event_types: list[str] = []
    example: AdapterExample | None = None
    org: str | None = None
    entity: str | None = None


@question("events.adapters", by="gateway")
class ListAdapters(Question[list[AdapterView]], frozen=True, kw_only=True):
    """The adapters that a source of this organization may use."""


class PreviewedOutcome(msgspec.Struct, frozen=True):
    """What a subscription would do with an event; `subscription` None: nobody wants it.

    `failed`: its filter has no value. `input` is that of the run, None where it is large.
    """

    outcome: Literal["routed", "held", "filtered", "failed", "unroutable"]
    subscription: str | None
    workflow: str | None
    reason: str | None
    input: dict[str, Any] | None


class PreviewedEvent(msgspec.Struct, frozen=True):
    """An event that a request would make."""

    type: str
    outcomes: list[PreviewedOutcome]


class WebhookPreview(msgspec.Struct, frozen=True):
    """The first events that a request would make, how many they are in all, and why there are none."""

    events: list[PreviewedEvent]
    total: int
    problem: str | None


@question("events.preview_webhook", by="gateway")
class PreviewWebhook(Question[WebhookPreview], frozen=True, kw_only=True):
    """A request to a source, as the gateway keeps it. Raises NotFound."""

    source: Key
    received_at: str
    method: str
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    body_base64: str


class HeldKey(msgspec.Struct, frozen=True, kw_only=True):
    """The events that a subscription holds of one key (a JSON value, empty where it has none): how many, and since when.

    `run` is that of the last one that was released, with its status and its delivery: what they may wait for.
    """

    key: str
    events: int
    since: Moment
    run: str | None
    status: str | None
    delivery: str | None


@question("events.held", by="gateway")
class ListHeld(Question[list[HeldKey]], frozen=True, kw_only=True):
    """The keys of which a subscription holds events, up to 1,000, those that wait longest first. Raises NotFound."""

    name: Name


class RoutedPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription would do with an event that came; `outcome` is None where its pattern does not fit the type."""

    delivery: str
    received_at: str
    type: str
    outcome: PreviewedOutcome | None


class SubscriptionPreview(msgspec.Struct, frozen=True, kw_only=True):
    """The newest events of a subscription's source, newest first, how many of them would start a run, and warnings about it."""

    source: str
    events: list[RoutedPreview]
    routed: int
    warnings: list[Problem]


@question("events.preview_subscription", by="gateway")
class PreviewSubscription(Question[SubscriptionPreview], frozen=True, kw_only=True):
    """A subscription, held against the newest `n` events of its source; nothing is kept or run.

    `fields` stand in for those that it has; it need not exist where they are complete. Raises as putting it with them does.
    """

    name: Name
    fields: dict[str, Any] = msgspec.field(default_factory=dict)
    n: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


@question("events.deliveries", by="gateway")
class ListDeliveries(Question[DeliveryList], frozen=True, kw_only=True):
    """Deliveries of an organization, newest first; `status`, `source` (an id or a name) and how the `id` begins narrow them.

    `overdue`: only those that were found to have no end, and still have none.
    """

    page: Page = Page()
    status: Name | None = None
    source: Name | None = None
    id: Name | None = None
    overdue: bool = False


@question("events.delivery", by="gateway")
class GetDelivery(Question[DeliveryView], frozen=True, kw_only=True):
    """One delivery, with its webhook. Raises NotFound."""

    id: Key


class EventEdit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Data in place of those of a delivery's event, the `number`th, and its type where that changes. What was received stays."""

    data: Any
    type: Name | None = None
    number: Sequence = 0


@command("events.retry_delivery", by="gateway")
class RetryDelivery(Command[DeliveryView], frozen=True, kw_only=True):
    """Route a delivery again, as new events with new runs: to the subscriptions whose runs have not succeeded and do not go on.

    `everything`: to all. `edit`: one event with other data, to all. Raises NotFound when its body is no longer kept, Conflict when
    no subscription is left to route it to, Invalid when there is no such event.
    """

    delivery: Key
    everything: bool = False
    edit: EventEdit | None = None


@question("events.position", by="executor")
class DeliveriesPosition(Question[Position], frozen=True, kw_only=True):
    """Asks for the position of the rows of deliveries in a stream."""

    stream: Name


@question("events.mapping", by="executor")
class GetMapping(Question[MappingView], frozen=True, kw_only=True):
    """The organization's values of the integration that it means by a name: its own mapping's, and below them the platform's.

    Secrets are answered for a `nonce` only; the record of that joins the run's chain by `correlation_id`.
    Raises NotFound, whose detail names the missing one: the integration, or this organization's mapping of it; Unavailable.
    """

    integration: Name
    run: Key | None = None
    nonce: Opaque | None = None
    correlation_id: Name | None = None


@command("events.emit", by=("gateway", "executor"))
class EmitEvent(Command[Emitted], frozen=True, kw_only=True):
    """Let a source of the adapter `topic`, a name or an id, have an event; answered once that is on disk.

    `type` matches `[A-Za-z0-9_.-]{1,100}`, `data` is up to 256 KiB as JSON. A run that emits gives its id, the `hops` of its
    `run.requested`, its chain's `correlation_id`, and as `causation_id` the id of its `run.started`. A schedule gives its time.
    Raises NotFound for a source that is not there or switched off; Invalid for another adapter, a type or data that does not fit,
    a chain of more than 32 runs, one after the other, or of more altogether than one may have, and for a command id that stood for
    another event; TooLarge; of a run TooMany, with `retry_after`, while too many of its organization's events wait to be routed.
    """

    source: Name
    type: Name
    data: Any = None
    run: Key | None = None
    hops: Sequence = 0
    correlation_id: Name | None = None
    causation_id: Name | None = None
    scheduled_for: Moment | None = None


class EventWaitPrepared(msgspec.Struct, frozen=True, kw_only=True):
    """What a run can wait for; `path` and `value` as in `AwaitedEvent`."""

    source: str
    source_name: str
    path: str = ""
    value: str = ""


@question("events.prepare_wait", by="executor")
class PrepareEventWait(Question[EventWaitPrepared], frozen=True, kw_only=True):
    """Look at an event that a run would wait for: a `source` of its organization, a name or an id, a pattern and an expression.

    Raises NotFound for a source that is not there; Invalid for a pattern that no type fits, and for an expression that is none,
    with its place, or that looks at what is neither `event` nor one of `values`; TooMany where no more waits of this kind go.
    """

    source: Name
    type: Name
    where: Expression | None = None
    values: dict[str, Any] = msgspec.field(default_factory=dict)


class PlannedTime(msgspec.Struct, frozen=True):
    """A time of a schedule: in UTC, and in its own time zone."""

    at: Moment
    local: Moment


class ScheduleRun(msgspec.Struct, frozen=True):
    """A schedule was fired by hand: its run, or the delivery of its event."""

    run: str | None
    delivery: str | None


@question("events.next_firings", by="gateway")
class NextFirings(Question[list[PlannedTime]], frozen=True, kw_only=True):
    """The next `n` times of a schedule, as if it were switched on. Raises NotFound."""

    name: Name
    n: Annotated[int, msgspec.Meta(ge=1, le=100)] = 5


class PlannedSchedule(msgspec.Struct, frozen=True):
    """The first times of a schedule within a stretch of time; `more`: it has others there."""

    schedule: str
    times: list[Moment]
    more: bool


@question("events.all_firings", by="gateway")
class AllFirings(Question[list[PlannedSchedule]], frozen=True, kw_only=True):
    """The times of all schedules that are switched on, within the next `hours`: of each up to 100, of many fewer, but some."""

    hours: Annotated[int, msgspec.Meta(ge=1, le=744)] = 24


@command("events.run_schedule", by="gateway")
class RunSchedule(Command[ScheduleRun], frozen=True, kw_only=True):
    """Fire a schedule now, switched on or not. Raises NotFound; Conflict where it skips, and its last run goes on; Invalid."""

    name: Name
