"""Keeps packages unpacked and compiled, each by the hash of its wheel: what one organization asked for serves every other.

A wheel is had and unpacked by two children. The first reaches the index and looks at nothing; its file is compared here with the
hash of the lock. The second reaches nothing; it is given that file, and its word is taken for this one tree and no other. Between
them is the build of a source distribution, whose wheel is kept by the hash of the distribution, for this Python and platform.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import stat
from collections import Counter
from pathlib import Path

import msgspec

from services.executor.environments.access import IndexAccess
from services.executor.environments.disk import Disk, counted, place
from services.executor.environments.lock import Package, here
from services.executor.environments.sources import BrokenPackage, SourceBuilds, WheelMetadata, described
from services.executor.sandbox.builder import Builder, StepFailed, discard, sealed
from services.executor.sandbox.egress.network import Network, Record
from shared.egress.resolver import Resolver

TREE = "tree"
FACTS = "facts.json"
_PATIENCE = 30.0
"""Seconds that an index may be silent."""


class Facts(msgspec.Struct, frozen=True):
    """Files and bytes of an unpacked wheel, and entries that have no use in an environment; metadata of one that was built here."""

    files: int
    bytes: int
    left_out: list[str] = []
    described: WheelMetadata | None = None
    owner: str = ""
    """Which organization had it first, by a hash; none where that is not known."""


class Wheels:
    """The unpacked wheels of a disk, had by `access` and steps of `builder`; `sources` builds those of source distributions."""

    def __init__(
        self, disk: Disk, builder: Builder, access: IndexAccess, resolver: Resolver, sources: SourceBuilds, most_each: int
    ) -> None:
        """An organization that had wheels of more than `most_each` bytes first gets no further ones until some of them are gone."""
        self.kept: Counter[str] = Counter()
        """Bytes by owner, as of the last look of the housekeeping and with what came since."""
        self._most_each = most_each
        self._disk = disk
        self._builder = builder
        self._access = access
        self._resolver = resolver
        self._sources = sources

    def network(self) -> Network:
        """Return the way to the indexes, and nowhere else."""
        return Network(self._access.indexes.policy, self._resolver.of("global"), _recorded)

    def is_there(self, package: Package) -> bool:
        """Return whether a wheel is unpacked."""
        return (self._disk.wheels / _key(package)).is_dir()

    async def tree(self, package: Package, owner: str = "") -> tuple[Path, Facts]:
        """Return the unpacked content of a wheel; it becomes the owner's where it is not here yet.

        Raises `BrokenPackage`, `SandboxUnavailable`, `Unavailable`.
        """
        folder = self._disk.wheels / _key(package)
        facts = await asyncio.to_thread(_facts, folder)
        if facts is None:
            async with self._disk.alone(f"wheel-{folder.name}"):
                facts = await asyncio.to_thread(_facts, folder)
                if facts is None:
                    facts = await self._made(package, folder, owner)
        await asyncio.to_thread(os.utime, folder)
        return folder / TREE, facts

    async def _made(self, package: Package, folder: Path, owner: str) -> Facts:
        if owner and self.kept[owner] > self._most_each:
            most = self._most_each >> 20
            words = f"{package.file}: the packages of this organization already take more than {most} MB here"
            raise BrokenPackage(package.name, words)
        if package.is_source:
            self._sources.check(package)
        try:
            with self._disk.fresh() as fetched, self._disk.fresh() as unpacked:
                await self._fetch(package, fetched)
                if package.is_source:
                    await self._sources.build(package, fetched / "wheel", functools.partial(_taken, unpacked / "wheel"))
                else:
                    (fetched / "wheel").rename(unpacked / "wheel")
                found = await self._builder.step(unpacked, {"step": "unpack", "describes": package.is_source})
                if found["problem"] is not None:
                    raise BrokenPackage(package.name, f"{package.file}: {str(found['problem'])[:1000]}")
                files, size = await asyncio.to_thread(sealed, unpacked / TREE)
                told = described(package, found["described"]) if package.is_source else None
                facts = Facts(files, size, [str(one)[:300] for one in found["left_out"]], told, owner)
                with self._disk.fresh() as whole:
                    whole.chmod(0o755)
                    (unpacked / TREE).rename(whole / TREE)
                    (whole / FACTS).write_bytes(msgspec.json.encode(facts))
                    await asyncio.to_thread(place, whole, folder)
        except StepFailed as error:
            raise BrokenPackage(package.name, f"{package.file}: {error}") from error
        except (KeyError, TypeError, OSError) as error:
            raise BrokenPackage(
                package.name, f"{package.file} cannot be installed: {type(error).__name__}: {error}"[:500]
            ) from error
        self.kept[owner] += facts.bytes
        return facts

    async def _fetch(self, package: Package, folder: Path) -> None:
        is_local = self._access.indexes.is_local(package.url)
        indexes = self._access.indexes if is_local else await self._access.filled()
        job = {
            "step": "fetch",
            "url": package.url,
            "shown": package.file,
            "credentials": indexes.credentials(package.url),
            "certificates": indexes.certificates,
            "patience": _PATIENCE,
        }
        found = await self._builder.step(folder, job, None if is_local else self.network())
        if found["problem"] is not None:
            raise BrokenPackage(package.name, indexes.cleaned(str(found["problem"]))[:1000])
        digest = await asyncio.to_thread(_digest, folder / "wheel")
        if digest != package.sha256:
            hashes = f"the hash {digest[:12]}…, not {package.sha256[:12]}…"
            raise BrokenPackage(package.name, f"the index sent another file than the lock names: {package.file} has {hashes}")


def _key(package: Package) -> str:
    """Return the name of a package's unpacked wheel."""
    if not package.is_source:
        return package.sha256
    return hashlib.sha256(f"source {package.sha256} {here()}".encode()).hexdigest()


async def _taken(target: Path, wheel: Path) -> None:
    """Move a wheel that an adversary wrote, once it is a file of this process's own."""
    await asyncio.to_thread(_digest, wheel)
    wheel.rename(target)


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file that an adversary wrote, once it is a file of this process's own."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise StepFailed("what was fetched is no plain file")
        os.fchown(descriptor, os.geteuid(), os.getegid())
        os.fchmod(descriptor, 0o444)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _facts(folder: Path) -> Facts | None:
    """Return what is known of an unpacked wheel; None where it is not there, or not whole, as after the machine lost its power."""
    try:
        facts = msgspec.json.decode((folder / FACTS).read_bytes(), type=Facts)
    except (OSError, msgspec.MsgspecError):
        return None
    if counted(folder / TREE) == (facts.files, facts.bytes):
        return facts
    discard(folder)
    return None


def _recorded(_record: Record) -> None:
    """A connection to the index is the platform's own, and on no run's record."""
