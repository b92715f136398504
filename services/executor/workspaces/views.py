"""Workflows and files in the shapes that others see."""

from __future__ import annotations

from sqlalchemy import RowMapping

from shared.envelope import rfc3339
from shared.messages import WorkflowChanged
from shared.messages.catalog import FileProblem
from shared.questions.executor import FileView, WorkflowEntry


def workflow_entry(message: WorkflowChanged, org: str, at: str) -> WorkflowEntry:
    """Return the registry entry that a message makes; `at` is its time, RFC 3339."""
    return WorkflowEntry(
        org=org,
        name=message.name,
        version=message.version,
        module=message.module,
        function=message.function,
        path=message.path,
        line=message.line,
        doc=message.doc,
        input_schema=message.input_schema,
        timeout=message.timeout,
        retries=message.retries,
        concurrency=message.concurrency,
        policy=message.policy,
        updated_at=at,
    )


def file_view(row: RowMapping, workflows: list[str], problems: list[FileProblem]) -> FileView:
    """Return a file with its problems from registration."""
    return FileView(
        path=row["path"],
        sha256=row["sha256"],
        size=row["size"],
        updated_at=rfc3339(row["updated_at"]),
        workflows=workflows,
        problems=problems,
    )
