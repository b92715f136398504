"""Messages in: an accepted event becomes runs, is held, or has a visible reason why not."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from services.events import domain, inputs
from services.events.adapters import ADAPTERS
from services.events.holding.plan import holds
from services.events.holding.room import HeldRoom
from services.events.parsing import LONGEST_REASON, ParsingDeps, by_reference
from shared.consumer import Follows, Handlers
from shared.envelope import rfc3339, utc_now
from shared.errors import Invalid, NotFound, Problem
from shared.expressions.pool import Expressions, Trouble
from shared.messages import (
    BranchMoved,
    EventAccepted,
    EventFiltered,
    EventHeld,
    EventRouted,
    EventUnroutable,
    Message,
    RunRequested,
)
from shared.messages.declaration import hashed_key
from shared.questions.events import MappingView
from shared.questions.workflows import WorkflowEntry
from shared.quotas import OverQuota, Quotas
from shared.resources import KINDS
from shared.resources.repository import RepositoryEntry
from shared.resources.source import SourceEntry
from shared.resources.subscription import SubscriptionEntry
from shared.streams import INLINE_BYTES

# Characters of a key that people are shown.
LONGEST_KEY = 200
# Outcomes of one webhook, about: the story of its delivery is read whole for a retry.
MOST_OUTCOMES = 20_000
# Bytes of large inputs that one event makes: four of the largest webhook that is taken, in a message's time and others' sight.
LARGEST_FAN_OUT = 100 * 1024 * 1024


class RoutingDeps(ParsingDeps, Protocol):
    """Dependencies of routing events."""

    expressions: Expressions
    held_room: HeldRoom
    quotas: Quotas

    def subscriptions(self, source: str) -> list[SubscriptionEntry]:
        """Return the subscriptions of a source that there are now."""

    def repositories(self, source: str) -> list[RepositoryEntry]:
        """Return the repositories that follow the events of a source."""

    async def workflow(self, org: str, name: str) -> WorkflowEntry:
        """Return the workflow that an organization means by a name. Raises NotFound, Unavailable."""

    async def check_chain(self, org: str, chain: str, *, emits: bool) -> None:
        """Raise `Invalid` where a chain has had as many runs as one may, or, if it `emits`, events."""

    async def mapping(self, org: str, integration: str) -> MappingView:
        """Return an integration's values for an organization. Raises NotFound naming the missing part, Unavailable."""

    async def organization(self, integration: str, entity: str) -> str:
        """Return the organization that an entity of an integration stands for. Raises NotFound, Invalid, Unavailable."""


class Large:
    """Counts the input of all runs of one event together, as far as it does not travel within their messages."""

    def __init__(self) -> None:
        self._left = LARGEST_FAN_OUT

    def take(self, size: int) -> None:
        """Count an input of `size` bytes of JSON. Raises `Invalid` when there are too many with those before it."""
        if size <= INLINE_BYTES:
            return
        self._left -= size
        if self._left < 0:
            most = f"{LARGEST_FAN_OUT >> 20} MiB"
            raise Invalid(f"the inputs of this event's runs have more than {most} together: a smaller input mapping would fit")


async def route(event: EventAccepted, deps: RoutingDeps) -> AsyncIterator[Follows]:
    """Request a run for every subscription that wants the event, or report why there is none."""
    matching = domain.matching(deps.subscriptions(event.source), event.type)
    wanting = [one for one in deps.repositories(event.source) if domain.matches(one.spec.event, event.type)]
    for one in wanting:
        spec = KINDS["repository"].stored(one.spec)
        yield BranchMoved(repository=one.id, name=one.name, spec=spec, delivery=event.delivery), one.id, one.org
    if not matching:
        besides = "".join(f"; the repository {one.name} does, and is looked at" for one in wanting)
        reason = f"no enabled subscription of {event.source_name} wants {event.type}{besides}"
        yield EventFiltered(**_of(event), reason=reason), "none"
        return
    if event.number * len(matching) >= MOST_OUTCOMES:
        yield _one_too_many(event, matching), "too many"
        return
    async with deps.room_for(event.data_ref):
        async for message in routed_to(matching, event, deps):
            yield message


async def routed_to(matching: list[SubscriptionEntry], event: EventAccepted, deps: RoutingDeps) -> AsyncIterator[Follows]:
    """Yield what becomes of an event with each of some subscriptions whose pattern fits it."""
    wanted = [subscription for subscription in matching if subscription.id not in event.skip]
    data = event.data
    if event.data_ref is not None:
        data = msgspec.json.decode(await deps.bodies.read(event.data_ref))
    try:
        org, integration = await _integration(event, data, deps)
    except (NotFound, Invalid) as error:
        for subscription in wanted:
            yield _unroutable(event, subscription, error), subscription.id
        return
    document = domain.event_document(event, data, integration)
    # All at once: they share their way to where they are evaluated.
    hindrances = await asyncio.gather(*(_hindrance(event, subscription, document, integration, deps) for subscription in wanted))
    large = Large()
    for subscription, hindrance in zip(wanted, hindrances, strict=True):
        if hindrance is not None:
            yield hindrance, subscription.id
            continue
        of = subscription.org if org is None else org
        async for message in _routed(event, document, integration, subscription, of, deps, large):
            if isinstance(message, RunRequested):
                yield message, subscription.id, of
            else:
                yield message, subscription.id


async def _hindrance(
    event: EventAccepted,
    subscription: SubscriptionEntry,
    document: dict[str, Any],
    integration: dict[str, Any] | None,
    deps: RoutingDeps,
) -> EventFiltered | None:
    """Return why a subscription's filter does not let an event pass, None where it does. Raises `Unavailable`."""
    if subscription.spec.filter is None:
        return None
    try:
        passes = await deps.expressions.value(
            subscription.org, subscription.spec.filter, domain.filter_variables(document, integration)
        )
    except Trouble as trouble:
        reason = f"{subscription.name}: the filter could not be evaluated: {trouble}"
        return _filtered(event, subscription, reason, failed=True)
    if not isinstance(passes, bool):
        reason = f"{subscription.name}: the filter gave {domain.kind_of(passes)}, not true or false"
        return _filtered(event, subscription, reason, failed=True)
    reason = f"the filter of {subscription.name} does not let it pass"
    return None if passes else _filtered(event, subscription, reason, failed=False)


async def _integration(event: EventAccepted, data: Any, deps: RoutingDeps) -> tuple[str | None, dict[str, Any] | None]:
    """Return the organization that an event's entity picks, and the values of its source's integration; None where there is none.

    Raises `NotFound`, `Invalid`.
    """
    source = await deps.source(event.source)
    if source is None or source.spec.integration is None:
        return None, None
    path = source.spec.entity or _entity_path(source, deps)
    entity = domain.entity_in(domain.event_document(event, data), path)
    if not source.spec.by_entity:
        return None, domain.integration_document(await deps.mapping(source.org, source.spec.integration), entity)
    if entity is None:
        raise Invalid(f"this event has no {path}, which is to say whose it is")
    org = await deps.organization(source.spec.integration, entity)
    return org, domain.integration_document(await deps.mapping(org, source.spec.integration), entity)


def _entity_path(source: SourceEntry, deps: RoutingDeps) -> str | None:
    """Return where the adapter of a source says that the entity stands in an event."""
    adapter = ADAPTERS.get(source.spec.adapter)
    if adapter is not None:
        return adapter.entity
    own = deps.adapters.find(source.org, source.spec.adapter)
    return None if own is None else own.declaration.entity


async def _routed(
    event: EventAccepted,
    document: dict[str, Any],
    integration: dict[str, Any] | None,
    subscription: SubscriptionEntry,
    org: str,
    deps: RoutingDeps,
    large: Large,
) -> AsyncIterator[Message]:
    run = domain.run_id(event.event, subscription.id)
    try:
        # A user who retries a delivery does so once; a policy does not.
        if event.chain is not None and (event.retried_by is None or event.tries):
            await deps.check_chain(org, event.chain, emits=False)
        workflow = await deps.workflow(org, subscription.spec.workflow)
        variables = domain.filter_variables(document, integration)
        evaluate = functools.partial(_value, deps, subscription.org, variables)
        given = inputs.within_bounds(await inputs.mapped(subscription.spec.input, document, integration, evaluate))
        misfit = domain.misfit(workflow.input_schema, given)
        if misfit:
            raise Invalid(f"the input does not fit {workflow.name}: {misfit}")
        encoded = msgspec.json.encode(given)
        large.take(len(encoded))
        key = await _key(subscription, evaluate)
        if holds(subscription.spec):
            await deps.held_room.take(org)
        deps.quotas.admit_run(org)
    except OverQuota as error:
        # It is tried again by itself, whatever the policy: nothing is lost, and the story says why.
        held_up = _unroutable(event, subscription, Invalid(error.detail))
        yield msgspec.structs.replace(held_up, retry_at=rfc3339(error.again_at))
        return
    except (NotFound, Invalid) as error:
        yield _unroutable(event, subscription, error)
        return
    inline, reference = await by_reference(given, deps, encoded)
    if holds(subscription.spec):
        yield EventHeld(
            **_of(event),
            subscription=subscription.id,
            subscription_name=subscription.name,
            workflow=workflow.name,
            version=workflow.version,
            org=org,
            key=key[:LONGEST_KEY],
            held_group=hashed_key(subscription.id, org, key),
            received_at=event.received_at,
            input=inline,
            input_ref=reference,
            hops=event.hops,
            scheduled_for=event.scheduled_for,
        )
        return
    yield requested(
        run,
        workflow,
        subscription,
        input=inline,
        input_ref=reference,
        delivery=event.delivery,
        received_at=event.received_at,
        hops=event.hops,
        scheduled_for=event.scheduled_for,
    )
    yield EventRouted(
        **_of(event), subscription=subscription.id, subscription_name=subscription.name, workflow=workflow.name, run=run
    )


def requested(run: str, workflow: WorkflowEntry, subscription: SubscriptionEntry, **of: Any) -> RunRequested:
    """Return the request of a run by a subscription; `of` has the input, and of which event it is."""
    return RunRequested(
        run=run,
        workflow=workflow.name,
        version=workflow.version,
        requested_by=f"subscription:{subscription.name}",
        timeout=workflow.timeout,
        deadline=workflow.policy.queue_timeout,
        group=workflow.policy.group,
        workflow_org=workflow.org,
        subscription=subscription.id,
        **of,
    )


async def _key(subscription: SubscriptionEntry, evaluate: inputs.Evaluate) -> str:
    """Return what an event has in common with others that it may have to wait for; empty where that is the subscription alone.

    Raises `Invalid`, `Unavailable`.
    """
    if subscription.spec.key is None:
        return ""
    try:
        value = await evaluate(subscription.spec.key)
    except Trouble as trouble:
        raise Invalid(f"the key has no value: {trouble}", errors=(Problem("key", str(trouble)),)) from trouble
    return msgspec.json.encode(value).decode()


async def _value(deps: RoutingDeps, org: str, variables: dict[str, Any], source: str) -> Any:
    return await deps.expressions.value(org, source, variables)


def _filtered(event: EventAccepted, subscription: SubscriptionEntry, reason: str, *, failed: bool) -> EventFiltered:
    return EventFiltered(
        **_of(event),
        reason=reason[:LONGEST_REASON],
        subscription=subscription.id,
        subscription_name=subscription.name,
        workflow=subscription.spec.workflow,
        failed=failed,
    )


def _unroutable(event: EventAccepted, subscription: SubscriptionEntry, error: NotFound | Invalid) -> EventUnroutable:
    at = domain.next_try(subscription.spec.retry, event.tries, utc_now())
    return EventUnroutable(
        **_of(event),
        subscription=subscription.id,
        subscription_name=subscription.name,
        workflow=subscription.spec.workflow,
        reason=error.detail[:LONGEST_REASON],
        retry_at=None if at is None else rfc3339(at),
        tries=event.tries,
    )


def _one_too_many(event: EventAccepted, matching: list[SubscriptionEntry]) -> EventUnroutable:
    """Return what becomes of an event of a webhook that makes more, for more subscriptions, than one story can hold."""
    first, others = matching[0], len(matching) - 1
    wanted = f"{first.name} and {others} more subscriptions want it" if others else f"{first.name} wants it"
    error = Invalid(
        f"{wanted}, and it is event {event.number:,} of one webhook: of one at most about {MOST_OUTCOMES:,} outcomes are kept, "
        f"events times subscriptions; with fewer subscriptions of {event.source_name} it can be retried"
    )
    return msgspec.structs.replace(_unroutable(event, first, error), retry_at=None)


def _of(event: EventAccepted) -> dict[str, Any]:
    """Return the fields that every message about an event has of it."""
    return {"source": event.source, "event": event.event, "delivery": event.delivery, "number": event.number}


HANDLERS: Handlers = {EventAccepted: route}
