"""The story of a workspace and its repository. Every message holds the whole new state, so that the last one is the state."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.messages.declaration import Message, message


@message("branch.moved", key="repository", by="events")
class BranchMoved(Message, frozen=True, kw_only=True):
    """The source of a repository has an event that says so: `spec` is how the repository was defined then."""

    repository: str
    name: str
    spec: dict[str, Any]
    delivery: str


class StartedPush(msgspec.Struct, frozen=True):
    """A push that was about to happen: the id in its commit, the commit it was to follow, and the agreed files after it."""

    id: str
    head: str | None
    agreed: str


class SyncState(Message, frozen=True, kw_only=True):
    """What a workspace and a branch had last in common.

    `remote` is a hash of address, branch and folder: of another one nothing is known. `agreed` is the SHA-256 of the list of files
    in the bucket `agreed`, `commit` the branch's newest commit then. `pushes` may have happened, or may yet.
    """

    key: str
    remote: str
    commit: str | None
    agreed: str
    pushes: list[StartedPush]
    actor: str


@message("sync.advanced", key="key", by="executor")
class SyncAdvanced(SyncState, frozen=True, kw_only=True):
    """A workspace and its repository have come closer: so many files were pulled, pushed, or settled by a person."""

    pulled: int = 0
    pushed: int = 0
    settled: int = 0


@message("sync.push_started", key="key", by="executor")
class SyncPushStarted(SyncState, frozen=True, kw_only=True):
    """A commit is about to be pushed: the last of `pushes`."""
