"""Checks a child's description of a bundle by types and bounds: each workflow by itself, so that an invalid one is reported
with its place, and the others serve.

The bounds are no narrower than those that the SDK has for authors; a value beyond them has come past the SDK.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from services.executor.sandbox import grammar
from services.executor.sandbox.jail import BundleProblem, DeclaredWorkflow, Description
from shared.messages.catalog import Policy
from shared.values import YEAR

MOST_RETRIES = 1000
MOST_AT_A_TIME = 1000
"""Runs of one concurrency key."""
MOST_EXPRESSION = 4096
MOST_LINE = 2**31 - 1
Line = Annotated[int, msgspec.Meta(ge=1, le=MOST_LINE)]
Path = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=YEAR)]
Limit = Annotated[float, msgspec.Meta(gt=0, le=YEAR)]


class _Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `catalog.Policy` as a child may send it."""

    retry_delay: Seconds = 1.0
    retry_max_delay: Seconds = 3600.0
    queue_timeout: Limit | None = None
    concurrency_limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_AT_A_TIME)] = 1
    concurrency_policy: Literal["queue", "reject", "cancel_older"] = "queue"
    isolation: Literal["run", "workflow"] = "run"
    preload: bool = True


class _Workflow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A `jail.WorkflowFound` as a child may send it."""

    name: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")]
    module: Path
    path: Path
    line: Line
    function: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    doc: Annotated[str, msgspec.Meta(max_length=20_000)] | None
    input_schema: dict[str, Any]
    timeout: Limit | None
    retries: Annotated[int, msgspec.Meta(ge=0, le=MOST_RETRIES)]
    concurrency: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_EXPRESSION)] | None
    is_data_provider: bool
    policy: _Policy = _Policy()


def description(workflows: Iterable[dict[str, Any]], problems: list[BundleProblem]) -> Description:
    """Return the valid workflows of a child's description, and the problems of the others. It may take a while."""
    found: dict[str, DeclaredWorkflow] = {}
    wrong = [one for one in problems if one.severity == "error"]
    for told in workflows:
        one = _read(told)
        if isinstance(one, DeclaredWorkflow) and one.name in found:
            first = found[one.name]
            one = BundleProblem(one.path, one.line, f"a workflow named {one.name} is already in {first.path} line {first.line}")
        if isinstance(one, BundleProblem):
            wrong.append(one)
        else:
            found[one.name] = one
    return Description(list(found.values()), wrong, [one for one in problems if one.severity == "warning"])


def _read(told: dict[str, Any]) -> DeclaredWorkflow | BundleProblem:
    try:
        one = msgspec.convert(told, _Workflow)
    except msgspec.ValidationError as error:
        return _problem(told, f"what it declares cannot be used: {error}")
    except RecursionError:
        return _problem(told, "what it declares is nested too deeply")
    if reason := grammar.complaint(one.input_schema):
        return BundleProblem(one.path, one.line, f"{one.name}: {reason}"[:2000])
    fields = {name: getattr(one, name) for name in one.__struct_fields__}
    policy = Policy(**{name: getattr(one.policy, name) for name in one.policy.__struct_fields__})
    return DeclaredWorkflow(**(fields | {"policy": policy}))


def _problem(told: dict[str, Any], message: str) -> BundleProblem:
    """Return the problem at its place, as far as that is known."""
    path, line = ".", 1
    with contextlib.suppress(msgspec.ValidationError):
        path = msgspec.convert(told.get("path"), Path)
        line = msgspec.convert(told.get("line"), Line)
    return BundleProblem(path, line, message[:2000])
