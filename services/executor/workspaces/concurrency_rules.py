"""Rules of the concurrency expressions that workflows declare, judged before a workflow goes into service."""

from __future__ import annotations

from services.executor.sandbox.interface import DeclaredWorkflow
from shared.expressions.pool import Expressions, Trouble
from shared.expressions.syntax import syntax_of


async def problem_of(workflow: DeclaredWorkflow, org: str, expressions: Expressions) -> str | None:
    """Return why the workflow's concurrency expression can never give a key. Raises `Unavailable`."""
    declared = workflow.concurrency
    if declared is None or declared in {"org", "workflow"}:
        return None
    try:
        await expressions.check(org, declared)
    except Trouble as trouble:
        return f'concurrency is "org", "workflow" or a CEL expression, which {shown(declared)} is not: {trouble}'
    variables = syntax_of(declared).variables
    unknown = next((name for name in variables if name not in {"input", "org"}), None)
    if unknown is not None:
        return f"concurrency {shown(declared)} looks at {unknown}, and there are only input and org"
    parameters = workflow.input_schema.get("properties")
    if workflow.input_schema.get("additionalProperties") is False and isinstance(parameters, dict):
        missing = next((name for name in variables.get("input", ()) if name not in parameters), None)
        if missing is not None:
            return f"concurrency {shown(declared)} looks at input.{missing}, and the signature has no parameter {missing}"
    return None


def shown(source: str) -> str:
    """Return an expression as a sentence quotes it."""
    return repr(source if len(source) <= 100 else f"{source[:100]}…")
