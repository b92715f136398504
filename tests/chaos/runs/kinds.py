"""Which kinds of runs the drill asks for, what is done to each, and how each may end. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec

# Runs with one of so many keys take turns: few enough that they meet, many enough that one lost worker does not stop all.
KEYS = 40
FAILING_RETRIES = 2


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of run: of `weight` in a hundred; `ends` are the ends that its workflow allows, whatever is killed meanwhile.

    `result` is what a successful run returns beside its token, None where that depends. `failures` is how many attempts must have
    failed and been followed by another where it failed.
    """

    name: str
    workflow: str
    weight: int
    ends: frozenset[str]
    result: dict[str, Any] = {}
    failures: int = 0


def _kind(name: str, workflow: str, weight: int, ends: str, failures: int = 0, **result: Any) -> Kind:
    return Kind(name=name, workflow=workflow, weight=weight, ends=frozenset(ends.split()), result=result, failures=failures)


KINDS: tuple[Kind, ...] = (
    _kind("steps", "drill-steps", 28, "succeeded", total=3),
    _kind("fails each time", "drill-failing", 5, "failed", failures=FAILING_RETRIES),
    _kind("third try", "drill-third", 5, "succeeded"),
    _kind("too slow", "drill-slow", 4, "timed_out"),
    _kind("out of memory", "drill-greedy", 3, "failed crashed"),
    _kind("killed by signal", "drill-crashing", 4, "crashed"),
    _kind("cancelled at once", "drill-holding", 4, "cancelled succeeded"),
    _kind("cancelled running", "drill-holding", 3, "cancelled succeeded"),
    _kind("cancelled waiting", "drill-asking", 4, "cancelled"),
    _kind("sleeps", "drill-sleeping", 8, "succeeded", total=1),
    _kind("answered", "drill-asking", 10, "succeeded", total=1),
    _kind("never answered", "drill-asking", 3, "succeeded", total=1, given="nobody"),
    _kind("has children", "drill-parent", 5, "succeeded", total=3),
    _kind("takes turns", "drill-keyed", 8, "succeeded"),
    _kind("delayed", "drill-steps", 3, "succeeded", total=3),
    _kind("in a hurry", "drill-steps", 2, "succeeded expired", total=3),
    _kind("large result", "drill-large", 1, "succeeded", filling="x" * 200_000),
)
OF_NAME = {kind.name: kind for kind in KINDS}


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One run to ask for. Times are seconds after it was accepted; `token` is its name in the marks and its idempotency key."""

    kind: Kind
    token: str
    input: dict[str, Any]
    options: dict[str, Any] = {}
    delay: float | None = None
    cancel_after: float | None = None
    answer_after: float | None = None


def orders(count: int, seed: int, file: str) -> Iterator[Order]:
    """Yield so many orders: of each kind at least one where there is room, else as the seed has it."""
    drawn = random.Random(seed)
    kinds = [*KINDS, *drawn.choices(KINDS, [kind.weight for kind in KINDS], k=count)][:count]
    drawn.shuffle(kinds)
    for position, kind in enumerate(kinds):
        yield _order(kind, f"{seed}-{position}", file, drawn)


def _order(kind: Kind, token: str, file: str, drawn: random.Random) -> Order:
    given: dict[str, Any] = {"file": file, "token": token}
    options: dict[str, Any] = {"priority": drawn.choice(("high", "normal", "normal", "low"))}
    delay = cancel = answer = None
    match kind.name:
        case "steps" | "delayed" | "in a hurry":
            given["linger"] = round(drawn.uniform(0.0, 0.5), 2)
        case "sleeps":
            given["seconds"] = round(drawn.uniform(1.1, 4.0), 2)
        case "never answered":
            given["timeout"] = round(drawn.uniform(1.1, 3.0), 2)
    match kind.name:
        case "delayed":
            delay = round(drawn.uniform(2.0, 8.0), 2)
        case "in a hurry":
            options["deadline"] = 0.3
        case "takes turns":
            options["concurrency_key"] = given["key"] = f"k{drawn.randrange(KEYS)}"
        case "answered":
            # Some come before anybody waits.
            answer = round(drawn.choice((0.0, drawn.uniform(0.0, 4.0))), 2)
        case "cancelled at once":
            cancel = 0.0
        case "cancelled running" | "cancelled waiting":
            cancel = round(drawn.uniform(1.0, 5.0), 2)
    return Order(kind=kind, token=token, input=given, options=options, delay=delay, cancel_after=cancel, answer_after=answer)
