"""The concurrency slot that a run needs: the key that its workflow declares, worked out for one run."""

from __future__ import annotations

from typing import Any

import msgspec

from services.executor.runs.run_state import RunState
from services.executor.sandbox.interface import DeclaredWorkflow
from services.executor.workspaces.concurrency_rules import shown
from shared.errors import Invalid
from shared.expressions.pool import Expressions, Trouble
from shared.messages import ConcurrencySlot
from shared.messages.declaration import hashed_key

# A key is shown to people and kept beside every run that has it.
LONGEST = 300


async def slot_of(workflow: DeclaredWorkflow, run: RunState, given: Any, expressions: Expressions) -> ConcurrencySlot | None:
    """Return the slot that a run needs for the input `given`: by the key that its requester chose, else the workflow's own.

    The key begins with the organization of the workflow and, but for `concurrency="workflow"`, that of the run: no organization
    waits for another. Raises `Invalid` when the workflow's expression gives no key for this input, `Unavailable`.
    """
    if run.concurrency_key is None and workflow.concurrency is None:
        return None
    parts = [run.workflow_org or run.org, run.workflow]
    if run.concurrency_key is not None:
        parts += [run.org, f"key {run.concurrency_key}"]
    elif workflow.concurrency == "org":
        parts += [run.org]
    elif workflow.concurrency != "workflow":
        parts += [run.org, await _value(workflow, run.org, given, expressions)]
    shown = "/".join(parts)
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]}…{hashed_key(shown)}"
    if run.concurrency_policy is not None:
        return ConcurrencySlot(shown, 1, run.concurrency_policy)
    return ConcurrencySlot(shown, workflow.policy.concurrency_limit, workflow.policy.concurrency_policy)


async def _value(workflow: DeclaredWorkflow, org: str, given: Any, expressions: Expressions) -> str:
    source = workflow.concurrency or ""
    try:
        value = await expressions.value(org, source, {"input": _completed(given, workflow.input_schema), "org": org})
    except Trouble as trouble:
        raise Invalid(f"the concurrency key {shown(source)} of {workflow.name} cannot be worked out: {trouble}") from trouble
    return msgspec.json.encode(value).decode()


def _completed(given: Any, schema: dict[str, Any]) -> Any:
    """Return the input as the workflow's function will have it: with the signature's defaults, as far as they are JSON."""
    parameters = schema.get("properties")
    if not isinstance(given, dict) or not isinstance(parameters, dict):
        return given
    defaults = {name: one["default"] for name, one in parameters.items() if isinstance(one, dict) and "default" in one}
    return defaults | given
