"""The options of data providers: kept by what they were made for, and made by one run at a time.

A run rather than a job of its own: it has the connections, the walls, the share and the history of any other, and goes on at
another executor when the one that has it dies.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from services.gateway.parts import Gateway
from services.gateway.starts import Start, ended, start
from shared.cache import LARGEST, AttemptEnded, Terms, Worked
from shared.envelope import derived_id
from shared.errors import CodeFailed, NotFound, Problem, Unavailable
from shared.messages.catalog import DeclaredOptions
from shared.questions.runs import RunView
from shared.questions.workflows import WorkflowEntry
from shared.runs import ENDED

# Seconds within which the run has to begin: it is asked for by somebody who waits.
BEGINS = 30.0
# Seconds that its end takes to be heard of, at most.
HEARD = 10.0
# Options of one answer.
MOST = 10_000
NAMING = str | int | float | bool


class OptionsView(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a data provider for an input, each with its `value` and `label` at least, from the run `run` of its `version`.

    `age` is in seconds. They are `stale` where they are older than the provider wants them to be; `error` is then how the last run
    that was to make them anew failed.
    """

    name: str
    version: str
    options: list[dict[str, Any]]
    age: float
    stale: bool
    run: str
    error: str | None = None


class _Kept(msgspec.Struct, frozen=True):
    """What is kept of a run."""

    options: list[dict[str, Any]]
    run: str


def declared_of(found: WorkflowEntry) -> DeclaredOptions:
    """Return what a data provider declares. Raises `NotFound` for another workflow."""
    if found.policy.options is None:
        raise NotFound(f"there is no data provider {found.name!r}: it is a workflow without options")
    return found.policy.options


def options_of(result: Any) -> list[dict[str, Any]]:
    """Return a provider's result as options. Raises `CodeFailed`, with a path for everything that is none."""
    if not isinstance(result, list):
        raise CodeFailed(f"the data provider returned no list of options, but {_kind(result)}", errors=(Problem("", "no list"),))
    if len(result) > MOST:
        raise CodeFailed(f"the data provider returned {len(result)} options, and a form has {MOST} at most: have it take an input")
    wrong = [(number, reason) for number, one in enumerate(result) if (reason := _fault(one)) is not None]
    if wrong:
        number, reason = wrong[0]
        problems = tuple(Problem(str(at), why) for at, why in wrong[:20])
        raise CodeFailed(f"the data provider returned something that is no option: number {number} {reason}", errors=problems)
    return [_option(one) for one in result]


def _fault(one: Any) -> str | None:
    if isinstance(one, NAMING):
        return None
    if not isinstance(one, dict):
        return f"is {_kind(one)}"
    if "value" not in one:
        return "has no value"
    if not isinstance(one.get("label", ""), str):
        return "has a label that is no text"
    return None


def _option(one: Any) -> dict[str, Any]:
    found = one if isinstance(one, dict) else {"value": one}
    value = found["value"]
    return {"value": value, "label": value if isinstance(value, str) else json.dumps(value)} | found


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "text", type(None): "null"}.get(type(value), "a number or a truth value")


async def options(
    gateway: Gateway,
    org: str,
    actor: str,
    provider: WorkflowEntry,
    given: dict[str, Any],
    *,
    wait: float,
    newest: bool,
    admit: Callable[[], None] | None = None,
) -> OptionsView:
    """Return the options of a provider for an input that fits it, within `wait` seconds; `admit` is asked before there is a run.

    Raises `NotFound` where it is no provider, `CodeFailed` where the run failed, `TooMany`, and `Unavailable` while it goes on.
    """
    declared = declared_of(provider)
    # An organization of the name of one that was removed is another one.
    removal = gateway.removing.last_of(org)
    key = msgspec.json.encode((removal, provider.org, provider.name, provider.version, given), order="deterministic").decode()
    terms = Terms(fresh=declared.ttl, stale=declared.stale, limit=BEGINS + provider.timeout + HEARD)

    async def work(attempt: str) -> Worked:
        if admit is not None:
            admit()
        run = derived_id("options of", attempt)
        asked = Start(run=run, org=org, workflow=provider, input=given, actor=actor, priority="high", deadline=BEGINS)
        with gateway.endings.waiter(run) as end:
            outcome = await start(gateway, asked)
            view = await ended(gateway, org, outcome, end, terms.limit)
        return _worked(provider, run, view)

    found = await gateway.options.get(org, key, terms, work, wait=wait, newest=newest)
    kept = msgspec.json.decode(found.value, type=_Kept)
    return OptionsView(
        name=provider.name,
        version=provider.version,
        options=kept.options,
        age=round(found.age, 3),
        stale=found.is_stale,
        run=kept.run,
        error=found.error,
    )


def _worked(provider: WorkflowEntry, run: str, view: RunView | None) -> Worked:
    """Return the answer of a run. Raises `CodeFailed`, `Unavailable` while it goes on, `AttemptEnded` where it never began."""
    if view is None or view.status not in ENDED or view.finished_at is None:
        raise Unavailable(f"the run {run} of the data provider {provider.name!r} goes on")
    if view.status == "expired":
        raise AttemptEnded(Unavailable(f"no worker was free for the data provider {provider.name!r} within {BEGINS:g} s"))
    if view.status != "succeeded":
        said = f": {view.error.type}: {view.error.message}" if view.error is not None else ""
        raise CodeFailed(f"the run {run} of the data provider {provider.name!r} ended as {view.status}{said}"[:2000])
    if view.result_ref is not None:
        told = f"the data provider {provider.name!r} returned {view.result_bytes} bytes; at most {LARGEST} are kept"
        raise CodeFailed(f"{told}: have it take an input by which there are fewer options")
    document = msgspec.json.encode(_Kept(options_of(view.result), run))
    return Worked(msgspec.Raw(document), datetime.fromisoformat(view.finished_at).timestamp())
