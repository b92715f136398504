"""Has a child of the sandbox look at a remote branch, or push to it, and checks its words: the remote may be an adversary.

The child sees dulwich and its own folder. It reaches the remote's host and port, as the organization's egress policy allows, and is
given the one credential that the remote is shown anyway. It ends with the step.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from weakref import WeakValueDictionary

import msgspec
import structlog

from services.executor import domain
from services.executor.environments.disk import Disk
from services.executor.repositories.libraries import lay_out
from services.executor.sandbox.builder import Builder, StepFailed, StepLimits
from services.executor.sandbox.egress.network import Network, Record
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.masking import Masker
from shared.blobs import CHUNK
from shared.egress.policy import EgressPolicy, EgressRules, Refusal, Target
from shared.egress.resolver import Resolver, is_own
from shared.errors import Conflict, Invalid, NotFound, PermissionDenied, TooLarge, Unavailable

LIMITS = StepLimits(seconds=60.0, bytes=512 << 20, files=60_000, memory=1 << 30, processes=32, cores=1.0)
"""Of one look or push. A repository is fetched anew each time, to a depth: nothing of a hostile one is left for the next."""
AT_ONCE = 8
PATIENCE = 20.0
"""Seconds that a remote may be silent."""
MOST_FILES = 10_000
# Files and folders of a tree: a small repository can name the same folder again and again.
MOST_ENTRIES = 20_000
MOST_FILE = 64 << 20
"""Bytes of one file: it is in the child's memory as a whole, and most hosts of git take little more."""
MOST_FOUND = 16 << 20
"""Bytes of a child's list of what it found."""
MOST_IGNORING = 256 * 1024
ALWAYS = (domain.DATA, f"/{domain.ARTIFACTS}????????-????-????-????-????????????/")
"""Patterns of what is not pushed: what runs write, unless a `.gitignore` says `!data/`."""
_log = structlog.get_logger()

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Oid = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{40}\Z")]


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Where a branch is, and what the remote is shown."""

    org: str
    url: str
    target: Target
    branch: str
    folder: str
    username: str
    password: str | None
    host_key: str | None = None


class Tip(msgspec.Struct, frozen=True):
    """The newest commit of a branch, for people; `at` is in epoch seconds, and may be any."""

    author: str
    summary: str
    at: int


class FoundBranch(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at a branch has found. `contents` is the folder of those that were not known, by SHA-256.

    `follows`: whether the commit that was looked for is in its history. `pushes` are the commits of those that were looked for.
    `refused` are paths that no workspace can have, with the reason, `ignored` those of the workspace that are not pushed.
    """

    head: str | None
    follows: bool | None
    pushes: dict[str, str]
    files: dict[str, str]
    sizes: dict[str, int]
    executable: frozenset[str]
    refused: dict[str, str]
    ignored: frozenset[str]
    tip: Tip | None
    folder: Path

    def has(self, sha256: str) -> bool:
        """Return whether a content was fetched out."""
        return os.path.lexists(self.folder / "contents" / sha256)

    async def content(self, sha256: str) -> AsyncIterator[bytes]:
        """Yield a content that was not known before. Raises `Unavailable`."""
        try:
            with _opened(self.folder, "contents", sha256) as descriptor:
                while chunk := await asyncio.to_thread(os.read, descriptor, CHUNK):
                    yield chunk
        except OSError as error:
            raise Unavailable(f"the content {sha256[:12]}… was not fetched") from error


class OutgoingCommit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit to be pushed. `changes` are contents by path, None for a file that goes; `at` is in epoch seconds."""

    id: str
    author: str
    at: int
    message: str
    changes: dict[str, str | None]
    executable: frozenset[str]


class _Listed(msgspec.Struct, frozen=True):
    entries: Annotated[list[tuple[str, bool, Digest, int]], msgspec.Meta(max_length=MOST_ENTRIES)]
    refused: dict[str, str]
    ignored: list[str]
    tip: Tip | None


class _Looked(msgspec.Struct, frozen=True):
    head: Oid | None
    follows: bool | None
    pushes: dict[str, Oid]


class Moved(Conflict):
    """The branch has another newest commit than the one that the push was to follow."""


class Remotes:
    """The ways to remote repositories, behind the walls of the builder's tier."""

    def __init__(self, disk: Disk, builder: Builder, libraries: Path, egress: EgressRules, resolver: Resolver) -> None:
        self._disk = disk
        self._builder = builder
        self._libraries = libraries
        self._egress = egress
        self._resolver = resolver
        self._places = asyncio.Semaphore(AT_ONCE)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def looking(
        self, access: Access, *, since: str | None, pushes: Collection[str], have: Collection[str],
        new: Collection[str], ignoring: Mapping[str, str], may_be_new: bool,
    ) -> AsyncIterator[FoundBranch]:  # fmt: skip
        """Look at a branch; what was fetched is there for the block.

        `since` is a commit that its history should have, and `pushes` the ids of those that it may have. Contents in `have` are
        not fetched out. Of the paths `new` it is found which the texts `ignoring`, by path, leave out. `may_be_new`: the branch
        may be missing in a repository that has others. Raises `Unavailable`, `NotFound`, `PermissionDenied`, `TooLarge`, `Invalid`.
        """
        # One of each organization: its own questions wait for each other, and not others for them.
        async with self._turns.setdefault(access.org, asyncio.Lock()), self._places:
            with self._disk.fresh() as folder:
                given = {"have": sorted(have), "new": sorted(new), "ignoring": dict(ignoring), "always": ALWAYS}
                await asyncio.to_thread((folder / "given.json").write_bytes, msgspec.json.encode(given))
                (folder / "given.json").chmod(0o644)
                job = {
                    "do": "look", "since": since, "pushes": sorted(pushes), "most_file": MOST_FILE, "may_be_new": may_be_new,
                }  # fmt: skip
                found = await self._step(access, folder, job)
                looked = _checked(msgspec.convert, found, _Looked)
                listed = _checked(msgspec.json.decode, await asyncio.to_thread(_text, folder, "found.json"), _Listed)
                yield _accepted(looked, listed, frozenset(new), folder)

    async def push(self, access: Access, found: FoundBranch, outgoing: OutgoingCommit, content: Mapping[str, Path]) -> str:
        """Push a commit on top of what was found, for as long as that is there; return the commit.

        `content` are the files that hold the contents. Raises `Moved` where the branch is another by now, `Conflict` where the
        remote refuses the commit, else as `looking`. After `Unavailable` it is not known whether it was pushed.
        """
        folder = found.folder
        changes = [(path, sha256, path in outgoing.executable) for path, sha256 in sorted(outgoing.changes.items())]
        await asyncio.to_thread(_laid_out, folder / "outgoing", changes, content)
        job = {
            "do": "push", "head": found.head, "id": outgoing.id, "author": outgoing.author, "at": outgoing.at,
            "message": outgoing.message,
        }  # fmt: skip
        answer = await self._step(access, folder, job)
        return str(_checked(msgspec.convert, answer.get("commit"), Oid))

    async def _step(self, access: Access, folder: Path, job: dict[str, Any]) -> dict[str, Any]:
        await self._check(access)
        network = Network(_OnlyThere(self._egress.of(access.org), access.target), self._resolver.of(access.org), _recorder(access))
        job |= {
            "step": "repository", "libraries": str(self._libraries), "url": access.url, "branch": access.branch,
            "folder": access.folder, "username": access.username if access.password is not None else None,
            "password": access.password, "patience": PATIENCE, "host_key": access.host_key,
            "memory": LIMITS.memory, "most_entries": MOST_ENTRIES,
        }  # fmt: skip
        await asyncio.to_thread(lay_out, self._libraries)
        begun = time.monotonic()
        try:
            found = await self._builder.step(folder, job, network)
        except StepFailed as error:
            words = _cleaned(str(error), access)
            raise TooLarge(f"the repository cannot be looked at within the bounds of one: {words}") from error
        except SandboxUnavailable as error:
            raise Unavailable(f"no repository can be reached: {error}") from error
        problem, words = found.get("problem"), _cleaned(str(found.get("words", "")), access)
        outcome = {"do": job["do"], "problem": problem, "ms": int((time.monotonic() - begun) * 1000)}
        _log.info("repository.reached", org=access.org, host=access.target.host, **outcome)
        if problem is not None:
            raise _error(str(problem), words)
        return found

    async def _check(self, access: Access) -> None:
        """Raise `PermissionDenied` where the policy refuses the remote: with no walls there is no proxy that would."""
        policy = self._egress.of(access.org)
        target = access.target
        refusal = policy.refusal_of_name(target)
        if refusal is None:
            try:
                addresses = [target.address] if target.address is not None else await self._resolver.of(access.org)(target.host)
            except (OSError, UnicodeError) as error:
                raise Unavailable(f"{target.host} has no address") from error
            for address in addresses:
                refusal = refusal or policy.refusal_of_address(address, target.port)
                if refusal is None and not policy.is_opened(address, target.port) and is_own(address):
                    refusal = Refusal("own", f"{address} is an address of the machine that runs Millrace")
        if refusal is not None:
            allowing = "whoever runs Millrace can allow it with MILLRACE_EGRESS_ALLOW"
            raise PermissionDenied(f"the repository may not be reached: {refusal.detail}; {allowing}")


class _OnlyThere(EgressPolicy):
    """A policy that allows one host and port of what another one allows: no redirection leads elsewhere."""

    def __init__(self, policy: EgressPolicy, there: Target) -> None:
        super().__init__()
        self._policy = policy
        self._there = there

    def refusal_of_name(self, target: Target) -> Refusal | None:
        if (target.host, target.port) != (self._there.host, self._there.port):
            return Refusal("host", f"{target} is not the repository's host")
        return self._policy.refusal_of_name(target)

    def refusal_of_address(self, address: Any, port: int) -> Refusal | None:
        return self._policy.refusal_of_address(address, port)

    def is_opened(self, address: Any, port: int) -> bool:
        return self._policy.is_opened(address, port)


def _recorder(access: Access) -> Any:
    def record(one: Record) -> None:
        if one.outcome != "connected":
            _log.warning("repository.not_connected", org=access.org, host=one.host[:200], port=one.port, reason=one.reason)

    return record


def _error(problem: str, words: str) -> Exception:
    match problem:
        case "absent" | "no_branch" | "no_folder":
            return NotFound(f"the repository: {words}")
        case "denied" | "egress":
            return PermissionDenied(f"the repository: {words}")
        case "moved":
            return Moved(f"the repository: {words}")
        case "rejected":
            return Conflict(f"the repository: {words}")
        case "too_large":
            return TooLarge(f"the repository: {words}")
        case "unreachable":
            return Unavailable(f"the repository cannot be reached: {words}")
    return Invalid(f"the repository cannot be read: {words}")


def _cleaned(words: str, access: Access) -> str:
    """Return words of a remote, which was shown the credential, without it, and without what would not be plain text."""
    masker = Masker()
    masker.learn(access.password or "")
    words = masker.mask(words)
    for one in (access.password or "").splitlines():
        words = words.replace(one, "…") if len(one) > 3 else words
    return "".join(character if character.isprintable() else " " for character in words)[:1000]


def _checked(read: Any, given: Any, type_: Any) -> Any:
    try:
        return read(given, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Invalid("the repository cannot be read: what was found of it makes no sense") from error


def _accepted(looked: _Looked, listed: _Listed, new: frozenset[str], folder: Path) -> FoundBranch:
    """Return what was found, each path held against what a workspace can have."""
    files: dict[str, str] = {}
    sizes: dict[str, int] = {}
    executable = set[str]()
    refused = {path[: domain.PATH_BYTES]: reason[:300] for path, reason in listed.refused.items()}
    for path, is_executable, sha256, size in listed.entries:
        complaint = domain.path_complaint(path)
        if complaint is not None or path in files:
            refused[path[: domain.PATH_BYTES]] = complaint or "it is there twice"
            continue
        files[path], sizes[path] = sha256, size
        executable |= {path} if is_executable else set()
    if len(files) > MOST_FILES:
        raise TooLarge(f"the repository has {len(files)} files, and {MOST_FILES} are the most of a workspace that is kept in one")
    refused = {path: reason for path, reason in refused.items() if path not in files}
    return FoundBranch(
        head=looked.head, follows=looked.follows, pushes=looked.pushes, files=files, sizes=sizes,
        executable=frozenset(executable), refused=refused, ignored=frozenset(listed.ignored) & new, tip=listed.tip, folder=folder,
    )  # fmt: skip


@contextlib.contextmanager
def _opened(folder: Path, *names: str) -> Iterator[int]:
    """Open a file that a child wrote below its folder: a plain one with one name, by way of no link, or OSError.

    The child is dead by now.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in names:
            flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (0 if name is names[-1] else os.O_DIRECTORY)
            below = os.open(name, os.O_RDONLY | flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise OSError(f"{names[-1]} is no plain file")
        yield descriptor
    finally:
        os.close(descriptor)


def _text(folder: Path, name: str) -> bytes:
    try:
        with _opened(folder, name) as descriptor:
            if os.fstat(descriptor).st_size > MOST_FOUND:
                raise TooLarge("the repository has too many files, or too long names")
            return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))
    except OSError as error:
        raise Invalid("the repository cannot be read: nothing was found of it") from error


def _laid_out(folder: Path, changes: list[Any], content: Mapping[str, Path]) -> None:
    try:
        folder.mkdir(mode=0o755)
    except FileExistsError:
        raise Invalid("the repository cannot be pushed to: the look at it left something behind") from None
    folder.chmod(0o755)
    (folder / "changes.json").write_bytes(msgspec.json.encode(changes))
    for sha256, path in content.items():
        os.link(path, folder / sha256)
    for one in folder.iterdir():
        one.chmod(0o644)
