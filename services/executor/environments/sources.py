"""Builds wheels of source distributions, of packages that the operator allows by name.

Such a build executes what a stranger wrote, and a stranger's is all that it leaves. It decides about its own wheel and no other: it
sees its distribution and the packages that its build requires, reaches nothing, and no organization has a part in its input.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from services.executor.environments.disk import Disk
from services.executor.environments.lock import Package, fits
from services.executor.sandbox.builder import Builder, StepFailed, StepLimits

OUTPUT = "wheel"
"""The file of a build's folder that its wheel is written to."""
LIMITS = StepLimits(seconds=300.0, bytes=1 << 30, memory=2 << 30, processes=128, cores=1.0, scratch_mb=1024)
"""Of each step of a build."""
_AT_ONCE = 2
"""Builds at a time: each may take its memory and its seconds."""
_TIER = "A"
_MOST, _LONGEST = 200, 1000
"""Requirements of a build, or of its wheel, and characters of each."""

EnvironmentOf = Callable[[Package, list[str]], AbstractAsyncContextManager[Path | None]]
"""Has the packages that a build requires on disk for a block. Raises `BrokenPackage`, `Unavailable`, `SandboxUnavailable`."""


class BrokenPackage(Exception):
    """A package that cannot be installed; the message names it and the file."""

    def __init__(self, package: str, message: str) -> None:
        self.package = package
        super().__init__(message)


class WheelMetadata(msgspec.Struct, frozen=True):
    """The metadata of a wheel that decide about other packages."""

    requires: list[str]
    extras: list[str] = []
    python: str | None = None


class SourceBuilds:
    """Builds with `builder`, whose output is `OUTPUT`; only packages with one of the `allowed` names, as indexes compare them."""

    def __init__(self, disk: Disk, builder: Builder, allowed: Collection[str], environment_of: EnvironmentOf) -> None:
        self.allowed = frozenset(allowed)
        self._disk = disk
        self._builder = builder
        self._environment_of = environment_of
        self._places = asyncio.Semaphore(_AT_ONCE)

    def check(self, package: Package) -> None:
        """Raise `BrokenPackage` for a package that is not built here."""
        if package.name not in self.allowed:
            raise BrokenPackage(
                package.name, f"{package.file} would be built from its source, which this installation does not allow for it"
            )
        if self._builder.tier not in (_TIER, None):
            raise BrokenPackage(
                package.name,
                f"{package.file} is not built from its source: that is done in tier {_TIER} of the sandbox only, and this machine "
                f"has tier {self._builder.tier}",
            )

    async def build(self, package: Package, source: Path, take: Callable[[Path], Awaitable[None]]) -> None:
        """Build the wheel of the distribution in the file `source`, which is moved away, and have it taken.

        The file that is handed to `take` was an adversary's. Raises `BrokenPackage`, `SandboxUnavailable`, `Unavailable`.
        """
        async with self._places:
            with self._disk.fresh() as folder:
                source.rename(folder / "sdist")
                (folder / OUTPUT).touch(0o600)
                requires = _texts(package, (await self._step(package, folder, {"step": "open"}, None)).get("requires"))
                async with self._environment_of(package, requires) as packages:
                    hook = {"step": "hook", "hook": "get_requires_for_build_wheel"}
                    more = _texts(package, _answer(package, await self._step(package, folder, hook, packages)))
                async with self._environment_of(package, [*requires, *more]) as packages:
                    built = await self._step(package, folder, {"step": "hook", "hook": "build_wheel"}, packages)
                _check_name(package, _answer(package, built))
                await take(folder / OUTPUT)

    async def _step(self, package: Package, folder: Path, job: dict[str, Any], packages: Path | None) -> dict[str, Any]:
        try:
            found = await self._builder.step(folder, job, packages=packages)
        except StepFailed as error:
            raise _failure(package, str(error)) from error
        if found.get("problem") is not None:
            raise _failure(package, str(found["problem"]))
        return found


def described(package: Package, found: object) -> WheelMetadata:
    """Return the metadata of a wheel that an unpacking child has read. Raises `BrokenPackage`."""
    try:
        told = msgspec.convert(found, WheelMetadata)
    except msgspec.ValidationError as error:
        raise _failure(package, "its wheel has metadata that cannot be read") from error
    requires = _texts(package, told.requires)
    for one in requires:
        try:
            wanted = Requirement(one)
        except (InvalidRequirement, RecursionError) as error:
            raise _failure(package, f"its wheel requires {one[:100]!r}, which is no requirement") from error
        if wanted.url is not None:
            raise _failure(package, f"its wheel requires {wanted.name} from an address: packages come from the index alone")
    return WheelMetadata(requires, _texts(package, told.extras), None if told.python is None else _texts(package, [told.python])[0])


def _failure(package: Package, words: str) -> BrokenPackage:
    return BrokenPackage(package.name, f"{package.file} cannot be built: {words}"[:2000])


def _answer(package: Package, found: dict[str, Any]) -> Any:
    try:
        return msgspec.json.decode(str(found.get("answer")))
    except msgspec.DecodeError as error:
        raise _failure(package, "the answer of its build cannot be read") from error


def _texts(package: Package, found: object) -> list[str]:
    """Return a list of texts of one line each. Raises `BrokenPackage` for anything else."""
    if (
        not isinstance(found, list)
        or len(found) > _MOST
        or not all(isinstance(one, str) and len(one) <= _LONGEST and one.isprintable() for one in found)
    ):
        raise _failure(package, f"it has a list that is none of at most {_MOST} texts of a line each")
    return list(found)


def _check_name(package: Package, name: object) -> None:
    try:
        built, version, _, _ = parse_wheel_filename(str(name))
        is_same = (canonicalize_name(built), version) == (package.name, Version(package.version))
    except (InvalidWheelFilename, InvalidVersion):
        is_same = False
    if not is_same:
        raise _failure(package, f"its build made {str(name)[:200]!a}, which is no wheel of {package.name} {package.version}")
    if not fits(str(name)):
        raise _failure(package, f"its build made {name}, which does not fit this machine")
