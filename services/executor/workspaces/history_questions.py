"""Questions in about the history of files."""

from __future__ import annotations

from services.executor.workspaces.retention import RetentionDeps
from services.executor.workspaces.views import commit_view, version_view
from shared import aggregate
from shared.asking import Questions
from shared.errors import Malformed, NotFound, Problem, Unavailable
from shared.questions import MOST_ITEMS, Page, fitting
from shared.questions.files import FileCommitList, GetVersion, ListFileCommits, ListVersions, VersionList, VersionView


async def list_versions(question: ListVersions, deps: RetentionDeps) -> VersionList:
    """Return a page of versions; the cursor is the sequence of the last one."""
    limit, before = question.page.within(MOST_ITEMS), _before(question.page)
    await _caught_up(deps)
    rows = await deps.history.versions(question.org, path=question.path, commit=question.commit, before=before, limit=limit + 1)
    items = fitting([version_view(row) for row in rows[:limit]])
    return VersionList(items, str(rows[len(items) - 1]["version"]) if len(rows) > len(items) else None)


async def get_version(question: GetVersion, deps: RetentionDeps) -> VersionView:
    """Return one version."""
    await _caught_up(deps)
    row = await deps.history.version(question.org, question.path, question.version)
    if row is None:
        raise NotFound(f"there is no such version of {question.path[:120]}, or it is not kept any more")
    return version_view(row)


async def list_commits(question: ListFileCommits, deps: RetentionDeps) -> FileCommitList:
    """Return a page of commits, likewise."""
    limit, before = question.page.within(MOST_ITEMS), _before(question.page)
    await _caught_up(deps)
    rows = await deps.history.commits(question.org, before=before, limit=limit + 1)
    items = fitting([commit_view(row) for row in rows[:limit]])
    return FileCommitList(items, str(rows[len(items) - 1]["version"]) if len(rows) > len(items) else None)


async def _caught_up(deps: RetentionDeps) -> None:
    """Wait for the rows of what was changed before the question. Raises `Unavailable`."""
    if not await deps.versions.caught_up(await aggregate.newest(deps.bus.client, "file", "history")):
        raise Unavailable("the rows of the history are behind")


def _before(page: Page) -> int | None:
    if page.cursor is None:
        return None
    if not page.cursor.isascii() or not page.cursor.isdigit() or len(page.cursor) > 18:
        raise Malformed("this cursor was not given out by this list", errors=(Problem("cursor", "malformed"),))
    return int(page.cursor)


QUESTIONS: Questions = {ListVersions: list_versions, GetVersion: get_version, ListFileCommits: list_commits}
