"""What the executor is asked of the files of workspaces, and has to do with them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.messages.catalog import FileProblem
from shared.questions.declaration import Command, Page, Question, command, question
from shared.values import Instant, Opaque, Path, Sequence, Words


class FileView(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace file. `workflows` and `adapters` name those that its code defines now.

    `problems` explain why newer content does not serve; those that are warnings do not keep it from serving.
    """

    path: str
    sha256: str
    size: int
    updated_at: str
    workflows: list[str] = []
    problems: list[FileProblem] = []
    adapters: list[str] = []


class FileList(msgspec.Struct, frozen=True):
    """A page of workspace files, by path."""

    items: list[FileView]
    next_cursor: str | None


@command("executor.put_file", by="gateway", timeout=60.0)
class PutFile(Command[FileView], frozen=True, kw_only=True):
    """Take new content of a file into the workspace: `sha256` of `size` bytes is in the bucket `workspace`.

    Answers after the code was read and its workflows are registered. `expected` is the SHA-256 that must be there (If-Match),
    "" for "none". Raises Invalid (a path that cannot be), PreconditionFailed.
    """

    path: Path
    sha256: Opaque
    size: Sequence
    expected: str | None = None
    note: Words | None = None


# Files that one commit may change, and bytes of their paths together: the question and its answer are one message of the bus each.
MOST_CHANGES = 4000


MOST_PATH_BYTES = 512 * 1024


class FileChange(msgspec.Struct, frozen=True, kw_only=True):
    """New content of a file, `sha256` of `size` bytes in the bucket `workspace`; no `sha256` removes the file, if it is there.

    `expected` is the SHA-256 that must be there, "" for "none"; `moved_from` is the path that the content comes from.
    """

    path: Path
    sha256: Opaque | None = None
    size: Sequence = 0
    expected: str | None = None
    moved_from: Path | None = None


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A commit as it is served: the files that have new content, and the first problems of the workspace."""

    files: list[FileView]
    removed: list[Path]
    problems: list[FileProblem]
    building: bool = False
    """Whether an environment is still being built; the newest code is registered once it is there."""


@command("executor.commit_files", by="gateway", timeout=120.0)
class CommitFiles(Command[Committed], frozen=True, kw_only=True):
    """Change files of the workspace, all of them or none, and register its workflows once.

    `dry_run`: all is checked, the code is read as it would be, and nothing is changed; of the answer only the problems count.
    Raises Invalid (a path that cannot be, or comes twice), TooLarge (the paths together), NotFound (content that was not
    uploaded), PreconditionFailed, Conflict.
    """

    changes: Annotated[list[FileChange], msgspec.Meta(max_length=MOST_CHANGES)]
    note: Words | None = None
    dry_run: bool = False


@question("executor.problems", by="gateway", timeout=60.0)
class ListProblems(Question[list[FileProblem]], frozen=True, kw_only=True):
    """Why newer content of the workspace does not serve, and warnings. Its code is read anew for that, unless all of it serves."""


@command("executor.remove_file", by="gateway", timeout=60.0)
class RemoveFile(Command[FileView], frozen=True, kw_only=True):
    """Delete a file; workflows that it alone defined are removed. Raises NotFound, PreconditionFailed."""

    path: Path
    expected: str | None = None
    note: Words | None = None


@command("executor.move_files", by="gateway", timeout=120.0)
class MoveFiles(Command[Committed], frozen=True, kw_only=True):
    """Give a file another path, or all files below a folder (both paths end with a slash), in one commit; no content is copied.

    `expected` is the SHA-256 that a single file must have. What is at the new path is replaced only with `overwrite`. Raises
    NotFound, Conflict (there is a file already, or one changed meanwhile), PreconditionFailed, Invalid, TooLarge.
    """

    path: Path
    to: Path
    expected: str | None = None
    overwrite: bool = False
    note: Words | None = None


@command("executor.restore_files", by="gateway", timeout=120.0)
class RestoreFiles(Command[Committed], frozen=True, kw_only=True):
    """Bring back a `version` of the file `path`; or all files below `prefix` as they were at the time `at`. Both are a commit.

    Raises NotFound (no such version is kept), Invalid (of that time not all is kept), Conflict (a file changed meanwhile),
    TooLarge (more files than a commit may change).
    """

    path: Path | None = None
    version: Opaque | None = None
    at: Instant | None = None
    prefix: Path = ""
    note: Words | None = None


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """A file as a commit made it: with a `sha256`, or removed. `until` is when it was replaced; None while it is the file."""

    version: str
    path: str
    commit: str
    actor: str
    at: str
    until: str | None
    sha256: str | None
    size: int
    message: str | None = None
    moved_from: str | None = None


class VersionList(msgspec.Struct, frozen=True):
    """A page of versions, the newest first."""

    items: list[VersionView]
    next_cursor: str | None


class FileCommitView(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of files that were made together: how many, and the first of their paths."""

    id: str
    actor: str
    at: str
    message: str | None
    changes: int
    paths: list[str]


class FileCommitList(msgspec.Struct, frozen=True):
    """A page of commits, the newest first."""

    items: list[FileCommitView]
    next_cursor: str | None


@question("executor.versions", by="gateway")
class ListVersions(Question[VersionList], frozen=True, kw_only=True):
    """The kept versions of one file, of one commit or of all files. Raises Malformed for a foreign cursor."""

    path: Path | None = None
    commit: Opaque | None = None
    page: Page = Page()


@question("executor.version", by="gateway")
class GetVersion(Question[VersionView], frozen=True, kw_only=True):
    """One version of a file. Raises NotFound."""

    path: Path
    version: Opaque


@question("executor.commits", by="gateway")
class ListFileCommits(Question[FileCommitList], frozen=True, kw_only=True):
    """The commits of the workspace. Raises Malformed for a foreign cursor."""

    page: Page = Page()


@question("executor.file", by="gateway")
class GetFile(Question[FileView], frozen=True, kw_only=True):
    """One workspace file. Raises NotFound."""

    path: Path


@question("executor.files", by="gateway")
class ListFiles(Question[FileList], frozen=True, kw_only=True):
    """The files of a workspace below `prefix`, by path. Raises Malformed for a foreign cursor."""

    prefix: Path = ""
    page: Page = Page()
