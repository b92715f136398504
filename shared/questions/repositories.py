"""Questions and commands to the executor about a workspace and its repository, whose definition comes with them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.messages.catalog import FileProblem
from shared.questions.declaration import Command, Question, command, question
from shared.questions.files import MOST_CHANGES
from shared.resources.repository import Repository
from shared.values import Opaque, Path, Sequence, Words

# Seconds that a look, a pull and a push may take together: less than the command waits for an answer.
TIME = 85.0
# Paths of each kind that are told.
MOST_TOLD = 2000


class Difference(msgspec.Struct, frozen=True):
    """A path that differs. `change` is added, changed or removed; `diff` is a unified difference, where one is asked for."""

    path: str
    change: str
    diff: str | None = None


class RefusedPath(msgspec.Struct, frozen=True):
    """A path that is left alone on both sides, and why."""

    path: str
    reason: str


class ConflictSide(msgspec.Struct, frozen=True):
    """A content of a path in a conflict; `text` where it is asked for, is text and is not too large."""

    sha256: str
    size: int | None = None
    text: str | None = None


class SyncConflict(msgspec.Struct, frozen=True):
    """A path that both sides have changed: what each did in words, and the contents, null where there is no file."""

    path: str
    reason: str
    base: ConflictSide | None
    ours: ConflictSide | None
    theirs: ConflictSide | None


class BranchTip(msgspec.Struct, frozen=True):
    """The newest commit of the branch."""

    commit: str
    author: str
    summary: str


class SyncStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A workspace beside its repository: what is to be pulled, pushed, and settled by a person; no path is in two of them.

    `synced` is the commit that both had last. `rewritten`: the branch's history has it no more. Of very many paths the first are
    told, and `more` says how many are not.
    """

    branch: str
    tip: BranchTip | None
    synced: str | None
    rewritten: bool
    to_pull: list[Difference]
    to_push: list[Difference]
    conflicts: list[SyncConflict]
    refused: list[RefusedPath]
    more: int = 0


class Synced(msgspec.Struct, frozen=True, kw_only=True):
    """What was pulled and pushed, and the conflicts that are left; `commit` is what was pushed.

    `problems` and `building` are those of the workspace's code.
    """

    to_pull: list[str]
    to_push: list[str]
    conflicts: list[str]
    refused: list[RefusedPath]
    commit: str | None
    problems: list[FileProblem]
    building: bool


@question("executor.repository", by="gateway", timeout=TIME)
class LookAtRepository(Question[SyncStatus], frozen=True, kw_only=True):
    """The state of a workspace beside its repository; with `diffs` what differs in each file, with `contents` of each conflict.

    `paths` narrows it to some. Raises NotFound, PermissionDenied, TooLarge, Invalid, Unavailable.
    """

    repository: Repository
    diffs: bool = False
    contents: bool = False
    paths: Annotated[list[Path], msgspec.Meta(max_length=MOST_CHANGES)] = msgspec.field(default_factory=list)


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How a conflict is settled: by the workspace's content, the repository's, or `sha256` of `size` bytes, which is uploaded."""

    path: Path
    take: Literal["ours", "theirs", "content"]
    sha256: Opaque | None = None
    size: Sequence = 0


@command("executor.sync_repository", by="gateway", timeout=TIME)
class SyncRepository(Command[Synced], frozen=True, kw_only=True):
    """Bring a workspace and its repository together, in full or in part, settle conflicts, or give changes of the workspace up.

    `accepts_history`: also where the branch's history was rewritten. Raises Conflict, and as looking at it.
    """

    repository: Repository
    do: Literal["pull", "push", "sync", "resolve", "discard"]
    message: Words | None = None
    paths: Annotated[list[Path], msgspec.Meta(max_length=MOST_CHANGES)] = msgspec.field(default_factory=list)
    choices: Annotated[list[Choice], msgspec.Meta(max_length=100)] = msgspec.field(default_factory=list)
    accepts_history: bool = False

    @property
    def pulls(self) -> bool:
        """Whether files of the repository come into the workspace."""
        return self.do in {"pull", "sync"}

    @property
    def pushes(self) -> bool:
        """Whether files of the workspace go to the repository."""
        return self.do in {"push", "sync"}
