"""Looks at a workspace and its branch at one time, and compares both with what they had last."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import msgspec

from services.executor.repositories import decisions, states
from services.executor.repositories.access import AccessDeps, access_of
from services.executor.repositories.decisions import SyncDecision
from services.executor.repositories.remote import MOST_FILE, MOST_IGNORING, Access, FoundBranch, Remotes
from services.executor.repositories.states import KnownSync
from services.executor.workspaces.registration import RegistrationDeps
from shared import aggregate
from shared.blobs import Blobs
from shared.errors import Invalid, Unavailable
from shared.locks import Locks
from shared.resources.repository import Repository

IGNORING = ".gitignore"


class SyncDeps(RegistrationDeps, AccessDeps, Protocol):
    """Dependencies of bringing together."""

    locks: Locks
    remotes: Remotes
    agreed: Blobs


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides at one time, and what follows. `is_rewritten`: the branch's history has not the commit that both had last."""

    access: Access
    known: KnownSync
    local: dict[str, str]
    sizes: dict[str, int]
    found: FoundBranch
    decision: SyncDecision
    is_rewritten: bool


@contextlib.asynccontextmanager
async def looking(org: str, spec: Repository, deps: SyncDeps, *, accepts: bool = False) -> AsyncIterator[Comparison]:
    """Look at both sides; the contents that were fetched are there for the block. Raises as `Remotes.looking`.

    `accepts`: the branch may be new in a repository that has others.
    """
    access = await access_of(org, spec, deps)
    if not await deps.catalog.caught_up(await aggregate.newest(deps.bus.client, "file")):
        raise Unavailable("the rows of the workspace are behind")
    before = await states.known(deps.bus.client, deps.agreed, org, spec)
    local, sizes = await deps.store.tree(org)
    looks = deps.remotes.looking(
        access,
        since=before.commit,
        pushes=[one.id for one in before.pushes],
        have=set(local.values()),
        new=[path for path in local if path not in before.files],
        ignoring=await _ignoring(local, sizes, deps),
        may_be_new=accepts,
    )
    async with looks as fetched:
        large = {path: f"it has {size} bytes, and {MOST_FILE} are the most of a file in git" for path, size in sizes.items()
                 if size > MOST_FILE and local[path] != fetched.files.get(path)}  # fmt: skip
        found = msgspec.structs.replace(fetched, refused=fetched.refused | large)
        known = await _with_pushes(before, found, deps)
        is_found = found.follows or known is not before or found.head == before.commit
        is_rewritten = before.commit is not None and not is_found
        if found.head is None:
            # A branch that is gone has removed no file: nothing is in common with what comes in its place.
            known = msgspec.structs.replace(known, files={})
        decision = await asyncio.to_thread(decisions.decide, known.files, local, found.files, found.refused, found.ignored)
        yield Comparison(
            access=access, known=known, local=local, sizes=sizes, found=found, decision=decision, is_rewritten=is_rewritten
        )  # fmt: skip


async def _with_pushes(known: KnownSync, found: FoundBranch, deps: SyncDeps) -> KnownSync:
    """Return what is known, with the newest push that has happened after all."""
    for push in reversed(known.pushes):
        if push.id in found.pushes:
            files = await states.read(deps.agreed, push.agreed)
            if files is not None:
                return msgspec.structs.replace(known, files=files, commit=found.pushes[push.id], stored=push.agreed)
    return known


async def _ignoring(local: Mapping[str, str], sizes: Mapping[str, int], deps: SyncDeps) -> dict[str, str]:
    """Return the texts of the workspace's `.gitignore` files, by path."""
    found: dict[str, str] = {}
    left = MOST_IGNORING
    for path in sorted(one for one in local if one.rpartition("/")[2] == IGNORING):
        left -= sizes[path]
        if left < 0:
            raise Invalid(f"the {IGNORING} files of the workspace are larger than {MOST_IGNORING} bytes together")
        found[path] = (await deps.blobs.read(local[path])).decode("utf-8", "replace")
    return found
