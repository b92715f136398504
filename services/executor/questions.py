"""Questions and commands in: files, workflows, runs."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import msgspec

from services.executor import workspace
from services.executor.claim import fold
from services.executor.entries import file_view, run_view
from services.executor.signals import signal_run
from services.executor.store import Store
from shared.bus import Questions
from shared.errors import Invalid, Malformed, NotFound, Problem
from shared.messages.line import Lines
from shared.questions import Page
from shared.questions.executor import (
    FileList,
    FileView,
    FindWorkflow,
    GetFile,
    GetRun,
    LineList,
    LineView,
    ListFiles,
    ListLines,
    ListRuns,
    ListWorkflows,
    PutFile,
    RemoveFile,
    RunList,
    RunView,
    SignalRun,
    WorkflowFound,
    WorkflowList,
)


class Deps(workspace.Deps, Protocol):
    """What questions and commands need."""

    store: Store


async def find_workflow(question: FindWorkflow, deps: Deps) -> WorkflowFound:
    """Return an organization's own workflow, else the platform's."""
    for org in dict.fromkeys((question.org, "global")):
        found = await deps.store.workflow(org, question.name)
        if found is not None:
            return WorkflowFound(found[1], found[0])
    raise NotFound(f"there is no workflow {question.name!r}")


async def list_workflows(question: ListWorkflows, deps: Deps) -> WorkflowList:
    """Return a page of workflows by name; an organization's own hide the platform's of the same name."""
    limit = _limit(question.page)
    found = await deps.store.workflows([question.org, "global"], question.page.cursor or "", 2 * limit + 2)
    own = {entry.name for entry in found if entry.org == question.org}
    seen = [entry for entry in found if entry.org == question.org or entry.name not in own]
    items = seen[:limit]
    return WorkflowList(items, items[-1].name if len(seen) > limit else None)


async def get_file(question: GetFile, deps: Deps) -> FileView:
    """Return one file."""
    row = await deps.store.file(question.org, question.path)
    if row is None:
        raise NotFound(f"there is no file {question.path}")
    entries = await deps.store.workflows([question.org])
    return file_view(row, [entry.name for entry in entries if entry.path == question.path], [])


async def list_files(question: ListFiles, deps: Deps) -> FileList:
    """Return a page of files, by path."""
    limit = _limit(question.page)
    rows = await deps.store.files(question.org, question.prefix, question.page.cursor or "", limit + 1)
    names: dict[str, list[str]] = {}
    for entry in await deps.store.workflows([question.org]):
        names.setdefault(entry.path, []).append(entry.name)
    items = [file_view(row, names.get(row["path"], []), []) for row in rows[:limit]]
    return FileList(items, items[-1].path if len(rows) > limit else None)


async def get_run(question: GetRun, deps: Deps) -> RunView:
    """Return a run: from its row once it has ended, else as the stream tells it now."""
    state = await deps.store.run(question.org, question.id)
    if state is None or not state.ended:
        try:
            folded = await fold(deps.bus, question.id)
        except ValueError as error:
            raise NotFound(f"there is no run {question.id[:80]}") from error
        state = folded.state if folded else state
    if state is None or state.org != question.org:
        raise NotFound(f"there is no run {question.id}")
    return run_view(state)


async def list_runs(question: ListRuns, deps: Deps) -> RunList:
    """Return a page of runs, newest first."""
    limit = _limit(question.page)
    before = None
    if question.page.cursor is not None:
        at, _, id_ = question.page.cursor.partition("|")
        try:
            before = (datetime.fromisoformat(at), id_)
        except ValueError as error:
            raise Malformed("this cursor was not given out by this list", errors=(Problem("cursor", "malformed"),)) from error
    states = await deps.store.runs(
        question.org,
        status=question.status,
        workflow=question.workflow,
        since=_moment("since", question.since),
        until=_moment("until", question.until),
        before=before,
        limit=limit + 1,
    )
    items = [run_view(state) for state in states[:limit]]
    return RunList(items, f"{items[-1].requested_at}|{items[-1].id}" if len(states) > limit else None)


async def list_lines(question: ListLines, deps: Deps) -> LineList:
    """Return lines of a run in order; the cursor is the number of the last one."""
    await get_run(GetRun(org=question.org, id=question.id), deps)
    limit = max(1, min(question.limit, 1000))
    rows = await deps.store.lines(question.id, question.after, limit + 1)
    items = [LineView(row["n"], row["attempt"], msgspec.convert(row["line"], Lines)) for row in rows[:limit]]
    return LineList(items, str(items[-1].n) if len(rows) > limit else None)


def _moment(name: str, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise Invalid(f"{name} is not an RFC 3339 time", errors=(Problem(name, "not a time"),)) from error
    if moment.tzinfo is None:
        raise Invalid(f"{name} has no time zone", errors=(Problem(name, "no time zone"),))
    return moment


def _limit(page: Page) -> int:
    return max(1, min(page.limit, 1000))


QUESTIONS: Questions = {
    FindWorkflow: find_workflow,
    ListWorkflows: list_workflows,
    PutFile: workspace.put_file,
    RemoveFile: workspace.remove_file,
    GetFile: get_file,
    ListFiles: list_files,
    GetRun: get_run,
    ListRuns: list_runs,
    ListLines: list_lines,
    SignalRun: signal_run,
}
