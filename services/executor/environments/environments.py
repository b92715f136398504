"""Environments on this machine's disk: resolved to a lock, and built by what the lock names."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from services.executor.environments import lock as locks
from services.executor.environments.access import IndexAccess
from services.executor.environments.disk import Disk, counted, link_tree, place
from services.executor.environments.lock import Lock, LockError, Package
from services.executor.environments.requirements import Requirements, of_texts
from services.executor.environments.sources import BrokenPackage, SourceBuilds, WheelMetadata
from services.executor.environments.wheels import Wheels
from services.executor.sandbox.builder import Builder, StepFailed, measured
from shared import tasks
from shared.egress.resolver import Resolver
from shared.errors import Unavailable
from shared.messages.catalog import FileProblem

AT_ONCE = 4
"""Wheels that are had and unpacked at a time, for one environment."""
MOST_BYTES = 2 << 30
"""Of one environment."""
MOST_FILES = 150_000
_ROUNDS = 10
"""Times that an environment is resolved because of what has been built from its source."""
_MOST_SIZES = 10_000
"""Environments whose size is remembered."""
_PATIENCE = 15
"""Seconds that an index may be silent while it is asked what there is."""
_HEADING = re.compile(r"\ANo solution found when resolving dependencies:?\s+(?:cause:\s+)?")
# A hint up to the next one, where it names an option.
_ADVICE = re.compile(r"\s*hint:(?:(?!hint:).)*?`--(?:(?!hint:).)*")
_CACHE_BYTES = 256 << 20
"""Of one organization's cache of the resolver, beyond which it begins anew."""

_DRAWN = " \t\u2570\u2500\u25b6\u251c\u2502\u00d7"
"""Characters with which a resolver draws a tree around its reasons."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, and how much of how much of it is over."""


class Failed(Exception):
    """An environment that cannot be had; `problems` say why, by file and line."""

    def __init__(self, problems: list[FileProblem]) -> None:
        self.problems = problems
        super().__init__("; ".join(one.message for one in problems))


class NotHad(Failed):
    """Packages of a lock, which were here before, cannot be had now: it may be tried again."""


class Environments:
    """The environments of a disk. `builder` carries out all that is done with the content of packages.

    But for the builds of source distributions, of packages with the names `sdists`: these are carried out by `stranger`.
    """

    def __init__(
        self,
        disk: Disk,
        builder: Builder,
        access: IndexAccess,
        uv: Path,
        resolver: Resolver,
        stranger: Builder,
        sdists: frozenset[str] = frozenset(),
        most_each: int = 1 << 50,
    ) -> None:
        """`most_each` bounds the bytes of wheels that one organization has brought here."""
        self._disk = disk
        self._builder = builder
        self._access = access
        self._uv = uv
        self._sdists = sdists
        self._wheels = Wheels(disk, builder, access, resolver, SourceBuilds(disk, stranger, sdists, self._required), most_each)
        self._held: Counter[Path] = Counter()
        self._sizes: dict[str, tuple[int, int]] = {}

    def folder(self, identity: str) -> Path:
        """Return where an environment is, or will be."""
        return self._disk.built / identity

    def size(self, identity: str) -> tuple[int, int]:
        """Return the files of an environment and their bytes, those included that others share; none where it is not here."""
        folder = self.folder(identity)
        if not folder.is_dir():
            return 0, 0
        found = self._sizes.get(identity)
        if found is None:  # what is built does not change
            if len(self._sizes) >= _MOST_SIZES:
                self._sizes.clear()
            self._sizes[identity] = found = counted(folder)
        return found

    @contextlib.contextmanager
    def held(self, folder: Path | None) -> Iterator[None]:
        """Keep an environment on disk for the block."""
        if folder is None:
            yield
            return
        self._held[folder] += 1
        try:
            yield
        finally:
            self._held[folder] -= 1
            if not self._held[folder]:
                del self._held[folder]

    def is_held(self, folder: Path) -> bool:
        """Return whether an environment is in use."""
        return self._held[folder] > 0

    def count(self, kept: Counter[str]) -> None:
        """Take over how many bytes of wheels each organization has brought, by the hash in their facts."""
        self._wheels.kept = kept

    async def resolve(self, org: str, requirements: Requirements, progress: Progress = lambda *_: None) -> Lock:
        """Decide which packages an environment holds. Raises `Failed`, `SandboxUnavailable`, `Unavailable`.

        The requirements of a source distribution are known once its wheel is built: until then it is taken to have none.
        """
        if requirements.problems:
            raise Failed(list(requirements.problems))
        if not requirements.wanted:
            return Lock(())
        folder = self._disk.resolving / _hashed(org)
        known: dict[Package, WheelMetadata] = {}
        for _ in range(_ROUNDS):
            lock = await self._resolved(folder, requirements, known, self._sdists)
            unknown = [one for one in lock.packages if one.is_source and one not in known]
            if not unknown:
                return lock
            for number, one in enumerate(unknown):
                progress(f"{one.name} {one.version} from its source", number, len(unknown))
                try:
                    _, facts = await self._wheels.tree(one, _hashed(org))
                except BrokenPackage as error:
                    raise Failed([_problem(requirements, str(error), error.package)]) from error
                known[one] = facts.described or WheelMetadata([])
            progress("resolving", 0, 0)
        words = f"packages that are built from their source ask for others of these in turn, more than {_ROUNDS} times"
        raise Failed([_problem(requirements, words, one.name)])

    @asynccontextmanager
    async def _required(self, package: Package, texts: list[str]) -> AsyncIterator[Path | None]:
        """Have the packages that the build of a source distribution requires, all of them wheels, on disk for the block.

        The newest that fit, as for everybody: nothing that an organization asks for has a part in it.
        """
        if not texts:
            yield None
            return
        folder = self._disk.resolving / f"source-{package.sha256[:32]}"
        try:
            requirements = of_texts(package.file, texts)
            if requirements.problems:
                raise Failed(list(requirements.problems))
            lock = await self._resolved(folder, requirements, {}, frozenset())
            place = await self.build(lock, requirements)
        except Failed as error:
            words = f"{package.file} cannot be built, for what its build requires: {error}"
            raise BrokenPackage(package.name, words[:2000]) from error
        with self.held(place):
            yield place

    async def _resolved(
        self, folder: Path, requirements: Requirements, known: Mapping[Package, WheelMetadata], sdists: frozenset[str]
    ) -> Lock:
        indexes = await self._access.filled()
        async with self._disk.alone(f"resolving-{folder.name}"):
            await asyncio.to_thread(_cleared, folder)
            await self._builder.start()
            job = {
                "step": "resolve",
                "uv": str(self._uv),
                "python": str(self._builder.python),
                "requirements.in": "".join(f"{one.text}\n" for one in requirements.wanted),
                "constraints.txt": "\n".join([indexes.constraints, *(one.text for one in requirements.constraints), ""]),
                "environment": indexes.environment,
                "has_index": indexes.default is not None,
                "sdists": sorted(sdists),
                "uv.toml": _settings(known, sdists),
                "patience": _PATIENCE,
            }
            try:
                found = await self._builder.step(folder, job, self._wheels.network())
                if found.get("code") != 0:
                    words = _plain(indexes.cleaned(str(found.get("said", "")))).replace(f"{folder}/", "")
                    ended = f"the resolver ended with code {found.get('code')}; a package may be beyond the bounds of one"
                    raise Failed([_problem(requirements, words.replace("/workspace/", "") or ended)])
                text = await asyncio.to_thread(_text, folder / "pylock.toml")
                return await asyncio.to_thread(locks.read, text, requirements)
            except StepFailed as error:
                raise Failed([_problem(requirements, f"the packages cannot be resolved: {error}")]) from error
            except LockError as error:
                raise Failed([_problem(requirements, str(error), error.package)]) from error

    async def build(
        self, lock: Lock, requirements: Requirements | None = None, progress: Progress = lambda *_: None, org: str | None = None
    ) -> Path:
        """Return the folder of an environment, built where it is not there yet. Raises `Failed`, `SandboxUnavailable`.

        What is not here yet counts for `org`.
        """
        folder = self.folder(lock.identity)
        if not await asyncio.to_thread(folder.is_dir):
            async with self._disk.alone(f"built-{lock.identity}"):
                if not await asyncio.to_thread(folder.is_dir):
                    await self._made(lock, folder, requirements or Requirements("requirements.txt"), progress, org)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(os.utime, folder)
        return folder

    async def _made(self, lock: Lock, folder: Path, requirements: Requirements, progress: Progress, org: str | None) -> None:
        over = 0
        owner = "" if org is None else _hashed(org)
        total = len(lock.packages)
        size = files = 0

        async def one(package: Package) -> Path:
            nonlocal over, size, files
            if package.is_source and not self._wheels.is_there(package):
                progress(f"{package.name} {package.version} from its source", over, total)
            tree, facts = await self._wheels.tree(package, owner)
            over, size, files = over + 1, size + facts.bytes, files + facts.files
            progress(f"{package.name} {package.version}", over, total)
            if size > MOST_BYTES or files > MOST_FILES:
                raise BrokenPackage(
                    package.name, f"with {package.name} the environment has more than {MOST_BYTES >> 20} MB or {MOST_FILES} files"
                )
            return tree

        progress("packages", 0, total)
        try:
            trees = await tasks.each(AT_ONCE, lock.packages, one)
            with self._disk.fresh() as fresh:
                whole = fresh / "environment"
                whole.mkdir(mode=0o755)
                whole.chmod(0o755)
                await asyncio.to_thread(_linked, trees, whole)
                await asyncio.to_thread(place, whole, folder)
        except BrokenPackage as error:
            raise Failed([_problem(requirements, str(error), error.package)]) from error
        except OSError as error:
            raise Unavailable(f"an environment cannot be built here now: {error.strerror}") from error


def _settings(known: Mapping[Package, WheelMetadata], sdists: frozenset[str]) -> str:
    """Return the resolver's settings, by which it executes nothing to know the requirements of a source distribution."""
    parts: list[str] = []
    for name in sorted(sdists):
        parts += ["[[dependency-metadata]]", f"name = {_quoted(name)}", "requires-dist = []", ""]
    for package, told in known.items():
        parts += ["[[dependency-metadata]]", f"name = {_quoted(package.name)}", f"version = {_quoted(package.version)}"]
        parts += [f"requires-dist = [{', '.join(map(_quoted, told.requires))}]"]
        parts += [f"provides-extra = [{', '.join(map(_quoted, told.extras))}]"]
        parts += [] if told.python is None else [f"requires-python = {_quoted(told.python)}"]
        parts.append("")
    return "\n".join(parts)


def _hashed(org: str) -> str:
    return hashlib.sha256(org.encode()).hexdigest()[:32]


def _quoted(text: str) -> str:
    """Return a printable text as TOML has it, which is as JSON has it."""
    return json.dumps(text, ensure_ascii=False)


def _linked(trees: list[Path], whole: Path) -> None:
    for tree in trees:
        link_tree(tree, whole)


def _problem(requirements: Requirements, words: str, package: str = "") -> FileProblem:
    path, line = requirements.line_of(package or words)
    return FileProblem(path, line, words[:2000])


def _plain(words: str) -> str:
    """Return a resolver's words as one paragraph, without the drawing around them, and without advice on options of its own."""
    lines = [line.strip(_DRAWN).strip() for line in words.splitlines()]
    said = " ".join(line for line in lines if line and not line.startswith(("warning:", "DEBUG", "TRACE"))).removeprefix("error: ")
    return _ADVICE.sub("", _HEADING.sub("", said))


def _text(path: Path) -> str:
    """Return a text that an adversary wrote."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LockError("the lock is no plain file")
        return file.read(locks.MOST_BYTES + 1).decode("utf-8", "replace")


def _cleared(folder: Path) -> None:
    """Have a folder for resolving, with the resolver's cache of the last time as long as it is small."""
    if folder.is_dir() and not folder.is_symlink():
        if measured(folder)[1] > _CACHE_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
        for left in ("pylock.toml", "requirements.in", "constraints.txt"):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                (folder / left).unlink()
        shutil.rmtree(folder / "tmp", ignore_errors=True)
    folder.mkdir(exist_ok=True)
    os.utime(folder, (time.time(), time.time()))
