"""Rules of subscriptions that no schema can state, and warnings about what would leave their events without a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from services.events import domain
from services.events.inputs import parameters_of
from shared.envelope import derived_id
from shared.errors import Invalid, Problem
from shared.expressions.pool import Expressions, Trouble
from shared.expressions.syntax import syntax_of
from shared.owners.keeper import Keeper
from shared.owners.rows import ResourceRows
from shared.owners.rules import Draft, Rules
from shared.questions.resources import PutResource, of
from shared.questions.workflows import WorkflowEntry
from shared.resources import Resource
from shared.resources.source import Source
from shared.resources.subscription import Subscription
from shared.values import near

# Each subscription of a source is looked at for each of its events.
MOST_SUBSCRIPTIONS = 100
VARIABLES = frozenset({"event", "integration"})


class Workflows(Protocol):
    """The workflows that there are, as far as this process has heard."""

    def known(self, org: str) -> dict[str, WorkflowEntry]:
        """Return by name the workflows that an organization sees."""


class Subscriptions(Rules[Subscription]):
    """A subscription's pattern, filter and input can be held against events; its workflow need not exist yet."""

    def __init__(self, rows: ResourceRows, expressions: Expressions, workflows: Workflows) -> None:
        self._rows = rows
        self._expressions = expressions
        self._workflows = workflows
        self.sources: Keeper[Source]

    async def built_in(self, command: PutResource, noun: str, name: str) -> str | None:
        """Return the id of the organization's topic of alerts, which the first subscription that names it makes."""
        if (noun, name) != ("source", domain.ALERTS_NAME):
            return None
        put = of(
            PutResource,
            noun,
            id=derived_id(command.id, domain.ALERTS),
            org=command.org,
            actor=command.actor,
            name=name,
            fields={"adapter": domain.ALERTS},
            dry_run=command.dry_run,
        )
        return str((await self.sources.put(put)).fields["id"])

    async def check(self, draft: Draft[Subscription]) -> Subscription:
        """Return the spec if all events of its source can be held against it."""
        spec = draft.spec
        domain.checked_pattern(spec.event)
        check_holding(spec)
        for field, source in (("filter", spec.filter), ("key", spec.key)):
            if source is not None:
                await self._check(draft.org, field, source)
        for name, one in parameters_of(spec.input or {}).items():
            if one.cel is not None:
                await self._check(draft.org, f"input.{name}", one.cel)
        source = draft.refs["source"]
        moved = draft.before is None or draft.before.refs.get("source") != source
        if moved and await self._rows.referring("subscription", "source", source) >= MOST_SUBSCRIPTIONS:
            detail = f"has {MOST_SUBSCRIPTIONS} subscriptions already, which is the most"
            raise Invalid(f"source {detail}", errors=(Problem("source", detail),))
        return spec

    async def shown(self, found: Sequence[Resource[Subscription]]) -> Sequence[dict[str, Any]]:
        """Return with each what would leave its events without a run, by what is known of its workflow now."""
        known = {org: self._workflows.known(org) for org in {one.org for one in found}}
        return [{"warnings": msgspec.to_builtins([*warnings(one.spec, known[one.org])])} for one in found]

    async def _check(self, org: str, field: str, source: str) -> None:
        try:
            await self._expressions.check(org, source)
        except Trouble as trouble:
            raise Invalid(f"the {field} is not a CEL expression: {trouble}", errors=(Problem(field, str(trouble)),)) from trouble
        unknown = next((name for name in syntax_of(source).variables if name not in VARIABLES), None)
        if unknown is not None:
            named = f"a {field}" if field in {"filter", "key"} else "an expression"
            message = f"there is no {unknown}: {named} sees event and integration"
            raise Invalid(message, errors=(Problem(field, message),))


def check_holding(spec: Subscription) -> None:
    """Raise `Invalid` naming a field that means nothing beside the others."""
    lone_most = spec.debounce_most is not None and spec.debounce is None
    keyed = spec.ordering == "key" or (spec.ordering is None and (spec.rate is not None or spec.debounce is not None))
    for field, is_wrong, detail in (
        ("key", spec.ordering == "key" and spec.key is None, "is required with ordering: key"),
        ("key", spec.key is not None and not keyed, "is for ordering: key, or a rate or debounce without ordering: source"),
        ("on_failure", spec.on_failure == "block" and spec.ordering is None, "is for subscriptions with an ordering"),
        ("burst", spec.burst is not None and spec.rate is None, "is for subscriptions with a rate: to end a rate, clear both"),
        ("debounce_most", lone_most, "is for subscriptions with a debounce: to end a debounce, clear both"),
        ("debounce_most", (spec.debounce_most or spec.debounce or 0) < (spec.debounce or 0), "is less than debounce"),
    ):
        if is_wrong:
            raise Invalid(f"{field} {detail}", errors=(Problem(field, detail),))


def absent(workflow: str, known: Iterable[str]) -> Problem:
    """Return the warning that there is no such workflow, with a name that is near."""
    return Problem("workflow", f"there is no workflow {workflow!r} yet{near(workflow, known)}")


def unknown_parameters(workflow: WorkflowEntry, given: Iterable[str], place: Callable[[str], str]) -> Iterator[Problem]:
    """Yield each of the given parameters that a workflow has not, at the `place` of its name."""
    parameters = workflow.input_schema.get("properties")
    known = parameters if isinstance(parameters, dict) else {}
    if workflow.input_schema.get("additionalProperties") is False:
        for name in sorted({*given} - known.keys()):
            yield Problem(place(name), f"workflow {workflow.name!r} has no parameter {name!r}{near(name, known)}")


def missing_parameters(workflow: WorkflowEntry, given: Iterable[str]) -> list[str]:
    """Return the parameters that a workflow needs and is not given."""
    required = workflow.input_schema.get("required")
    return sorted({*required} - {*given}) if isinstance(required, list) else []


def warnings(spec: Subscription, workflows: dict[str, WorkflowEntry]) -> Iterator[Problem]:
    """Yield what a subscription asks of its workflow that this does not have."""
    workflow = workflows.get(spec.workflow)
    if workflow is None:
        yield absent(spec.workflow, workflows)
        return
    given = {"event"} if spec.input is None else spec.input.keys()
    yield from unknown_parameters(workflow, given, lambda name: "input" if spec.input is None else f"input.{name}")
    for name in missing_parameters(workflow, given):
        yield Problem("input", f"workflow {workflow.name!r} needs the parameter {name!r}, which is not given")
