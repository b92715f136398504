"""Subscriptions: which events start which workflow."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shared.errors import Problem
from shared.resources.declaration import Resource, Spec, about, refers_to, resource
from shared.values import Expression, Name

Rate = Annotated[float, msgspec.Meta(ge=0.0001, le=1000)]
Burst = Annotated[int, msgspec.Meta(ge=1, le=1000)]
# A day: an event is held for six at most.
Pause = Annotated[float, msgspec.Meta(ge=0.1, le=86_400)]


class SubscriptionAdds(msgspec.Struct, frozen=True):
    """What its workflow, as it is now, does not have: it would leave events without a run. No reason to refuse a subscription."""

    warnings: list[Problem]


@resource(
    "subscription",
    plural="subscriptions",
    owner="events",
    registered=("events",),
    columns=("name", "source_name", "event", "filter", "workflow", "enabled", "warnings"),
    adds=SubscriptionAdds,
    example={"source": "example", "event": "push", "workflow": "example"},
)
class Subscription(Spec, frozen=True, kw_only=True):
    """The events of a source that start a workflow: those of a type such as `push`, `pull_request.*` or `*` that pass the filter.

    `filter` is a CEL expression over `event` and `integration`; `input` gives each parameter a path such as `event.data.ref`, an
    expression `{"$cel": …}`, or a literal; by default the workflow gets `{"event": event}`.
    """

    source: Annotated[Name, refers_to("source", by_id=True), about("A source's name or id.")]
    event: Annotated[Name, about("`push`, `pull_request.*`, `*`.")]
    workflow: Annotated[Name, about("What is run.")]
    filter: Annotated[Expression, about("A CEL expression over `event` and `integration`.")] | None = None
    input: Annotated[dict[str, Any], about('The input by parameter: `{"ref": "event.data.ref"}`.')] | None = None
    key: Annotated[Expression, about("What events have in common that wait for each other, in CEL: `event.data.id`.")] | None = None
    ordering: Annotated[Literal["source", "key"], about("Run one after the other: `source` all, `key` those of a key.")] | None = (
        None
    )
    on_failure: Annotated[
        Literal["continue", "block"], about("What a failed run means for the events behind it, where they are in order.")
    ] = "continue"
    rate: Annotated[Rate, about("Runs a second, of a key if there is one; what is more waits.")] | None = None
    burst: Annotated[Burst, about("Runs at once after a rest; by default those of a second.")] | None = None
    debounce: Annotated[Pause, about("Seconds without another event of the key, after which the last one is run alone.")] | None = (
        None
    )
    debounce_most: Annotated[Pause, about("Seconds after which it is run though others go on coming.")] | None = None
    enabled: Annotated[bool, about("Whether it takes events.")] = True
    retry: Annotated[
        Literal["none", "short", "long"],
        about("How an event whose run cannot be asked for is tried again: `none`, `short` (for 13 minutes), `long` (for a day)."),
    ] = "none"


SubscriptionEntry = Resource[Subscription]
