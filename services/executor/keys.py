"""Which runs take turns: the concurrency key that a workflow declares, worked out for one run. Pure."""

from __future__ import annotations

import functools
from typing import Any

import cel
import msgspec

from services.executor.life import RunState
from services.executor.sandbox.jail import WorkflowFound
from shared.errors import Invalid
from shared.messages import Turn
from shared.messages.declaration import hashed_key

# A key is shown to people and kept beside every run that has it.
LONGEST = 300
COMPILED = 1000


@functools.lru_cache(COMPILED)
def compiled(source: str) -> cel.Program:
    """Return the compiled CEL expression. Raises ValueError saying where it is none."""
    return cel.compile(source)


def turn_of(workflow: WorkflowFound, run: RunState, given: Any) -> Turn | None:
    """Return the turn that a run needs for the input `given`: by the key that its requester chose, else the workflow's own.

    The key begins with whose workflow it is and, but for `concurrency="workflow"`, whose run: nobody waits for strangers. Raises
    `Invalid` when the workflow's expression gives no key for this input.
    """
    if run.concurrency_key is None and workflow.concurrency is None:
        return None
    parts = [run.workflow_org or run.org, run.workflow]
    if run.concurrency_key is not None:
        parts += [run.org, f"key {run.concurrency_key}"]
    elif workflow.concurrency == "org":
        parts += [run.org]
    elif workflow.concurrency != "workflow":
        parts += [run.org, _value(workflow, run.org, given)]
    shown = "/".join(parts)
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]}…{hashed_key(shown)}"
    return Turn(shown, workflow.policy.concurrency_limit, workflow.policy.concurrency_policy)


def problem_of(workflow: WorkflowFound) -> str | None:
    """Return what keeps the workflow's concurrency expression from ever giving a key."""
    if workflow.concurrency in {None, "org", "workflow"}:
        return None
    try:
        compiled(workflow.concurrency or "")
    except ValueError as error:
        return f'concurrency is "org", "workflow" or a CEL expression, which {workflow.concurrency!r} is not: {error}'
    return None


def _value(workflow: WorkflowFound, org: str, given: Any) -> str:
    source = workflow.concurrency or ""
    try:
        return msgspec.json.encode(compiled(source).execute({"input": given, "org": org})).decode()
    except Exception as error:
        # The library raises KeyError, TypeError, ValueError, RuntimeError …: all of them are the expression's business.
        trouble = f"{type(error).__name__}: {error}"
        raise Invalid(f"the concurrency key {source!r} of {workflow.name} cannot be worked out: {trouble}") from error
