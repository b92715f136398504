"""What the executor is asked of workflows."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages.catalog import Policy
from shared.questions.declaration import Page, Question, question
from shared.values import Name


class WorkflowEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as the registry `workflows` holds it, under the hash of (organization, name)."""

    org: str
    name: str
    version: str
    module: str
    function: str
    path: str
    line: int
    doc: str
    input_schema: dict[str, Any]
    timeout: float
    retries: int
    concurrency: str | None
    updated_at: str
    policy: Policy = Policy()


class WorkflowFound(msgspec.Struct, frozen=True):
    """A registry entry with its sequence; `entry` is None for a workflow that was removed."""

    seq: int
    entry: WorkflowEntry | None


class WorkflowList(msgspec.Struct, frozen=True):
    """A page of workflows."""

    items: list[WorkflowEntry]
    next_cursor: str | None


@question("executor.workflow", by=("gateway", "events"))
class FindWorkflow(Question[WorkflowFound], frozen=True, kw_only=True):
    """The registry entry of a workflow by name: the organization's own, else that of `global`. Raises NotFound."""

    name: Name


@question("executor.workflows", by="gateway")
class ListWorkflows(Question[WorkflowList], frozen=True, kw_only=True):
    """The workflows that an organization can run, by name; only its `data_providers`, or only its `tools`.

    Raises Malformed for a foreign cursor.
    """

    page: Page = Page()
    data_providers: bool = False
    tools: bool = False
