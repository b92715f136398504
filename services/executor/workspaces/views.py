"""Workflows, adapters and files in the shapes that others see."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import RowMapping

from shared.envelope import rfc3339
from shared.messages import AdapterChanged, WorkflowChanged
from shared.messages.catalog import FileProblem
from shared.questions.adapters import AdapterEntry
from shared.questions.files import FileCommitView, FileView, VersionView
from shared.questions.workflows import WorkflowEntry


def workflow_entry(message: WorkflowChanged, org: str, at: str) -> WorkflowEntry:
    """Return the registry entry that a message makes; `at` is its time, RFC 3339."""
    declared = msgspec.structs.asdict(message)
    del declared["key"]
    return WorkflowEntry(**declared, org=org, updated_at=at)


def adapter_entry(message: AdapterChanged, org: str, at: str) -> AdapterEntry:
    """Return the registry entry that a message makes; `at` is its time, RFC 3339."""
    declared = msgspec.structs.asdict(message)
    del declared["key"]
    return AdapterEntry(**declared, org=org, updated_at=at)


def names_by_path(entries: Iterable[WorkflowEntry | AdapterEntry]) -> dict[str, list[str]]:
    """Return the names of workflows, or of adapters, by the file that defines them."""
    names: dict[str, list[str]] = {}
    for entry in entries:
        names.setdefault(entry.path, []).append(entry.name)
    return names


def file_view(row: RowMapping, workflows: list[str], problems: list[FileProblem], adapters: list[str]) -> FileView:
    """Return a file with its problems from registration."""
    return FileView(
        path=row["path"],
        sha256=row["sha256"],
        size=row["size"],
        updated_at=rfc3339(row["updated_at"]),
        workflows=workflows,
        problems=problems,
        adapters=adapters,
    )


def version_view(row: RowMapping) -> VersionView:
    """Return a version of a file."""
    return VersionView(
        version=row["id"],
        path=row["path"],
        commit=row["commit"],
        actor=row["actor"],
        at=rfc3339(row["at"]),
        until=None if row["until"] is None else rfc3339(row["until"]),
        sha256=row["sha256"],
        size=row["size"],
        message=row["note"],
        moved_from=row["moved_from"],
    )


def commit_view(row: RowMapping) -> FileCommitView:
    """Return a commit."""
    return FileCommitView(
        id=row["id"],
        actor=row["actor"],
        at=rfc3339(row["at"]),
        message=row["note"],
        changes=row["changes"],
        paths=list(row["paths"]),
    )
