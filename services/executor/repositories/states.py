"""What a workspace and its repository had last in common: the last message of an aggregate, and a list of files beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import msgspec
from nats.aio.client import Client

from shared import aggregate
from shared.blobs import Blobs
from shared.errors import NotFound
from shared.messages.declaration import hashed_key
from shared.messages.sync import StartedPush, SyncState
from shared.resources.repository import Repository

# Pushes whose outcome is not known that are remembered: a remote that answers nothing is asked again and again.
MOST_PUSHES = 16


class Agreed(msgspec.Struct, frozen=True):
    """The contents that both sides had last, by path; of one organization, so that it goes with it."""

    org: str
    files: dict[str, str]


class KnownSync(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a workspace and a branch: `files` both had last, `commit` then, and pushes that may have happened.

    `sequence` is that of the message, and `stored` its list of files; `is_first` where nothing is known of this branch.
    """

    sequence: int
    is_first: bool = True
    files: dict[str, str] = {}
    commit: str | None = None
    pushes: tuple[StartedPush, ...] = ()
    stored: str | None = None


def key_of(org: str) -> str:
    """Return the key of the aggregate."""
    return hashed_key(org, "repository")


def remote_of(spec: Repository) -> str:
    """Return the hash of the branch that a repository stands for."""
    return hashed_key(spec.url, spec.branch, spec.folder)


async def known(client: Client, agreed: Blobs, org: str, spec: Repository) -> KnownSync:
    """Return what is known of an organization's workspace and a branch. Raises `Unavailable`."""
    seen = -1
    while True:
        last = await aggregate.last(client, "sync", key_of(org))
        message = None if last is None else last.message()
        sequence = 0 if last is None else last.sequence
        if not isinstance(message, SyncState):
            return KnownSync(sequence=sequence)
        if message.remote != remote_of(spec):
            return KnownSync(sequence=sequence, stored=message.agreed)
        files = await read(agreed, message.agreed)
        if files is not None or sequence == seen:
            break
        # It goes when there is a newer one.
        seen = sequence
    # A list that is lost leaves what a first look has: equal files agree, others are for people to settle.
    return KnownSync(
        sequence=sequence,
        is_first=files is None,
        files=files or {},
        commit=message.commit,
        pushes=tuple(message.pushes),
        stored=message.agreed,
    )


async def read(agreed: Blobs, sha256: str) -> dict[str, str] | None:
    """Return a list of files; None where it is not there any more. Raises `Unavailable`."""
    try:
        return msgspec.json.decode(await agreed.read(sha256), type=Agreed).files
    except (NotFound, msgspec.MsgspecError):
        return None


async def stored(agreed: Blobs, org: str, files: Mapping[str, str]) -> str:
    """Store a list of files; return its hash. Raises `Unavailable`."""
    document = msgspec.json.encode(Agreed(org, dict(sorted(files.items()))))

    async def parts() -> AsyncIterator[bytes]:
        yield document

    return (await agreed.put(parts())).sha256
