"""Subscriptions: which events start which workflow."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from shared.errors import Problem
from shared.resources.declaration import Resource, Spec, about, refers_to, resource
from shared.values import Expression, Name


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
    enabled: Annotated[bool, about("Whether it takes events.")] = True
    retry: Annotated[
        Literal["none", "short", "long"],
        about("How an event whose run cannot be asked for is tried again: `none`, `short` (for 13 minutes), `long` (for a day)."),
    ] = "none"


SubscriptionEntry = Resource[Subscription]
