"""Bundles: the code of a workspace and the files beside it at one version, on disk where children read them, made from blobs.

The disk is a cache with a bound: of unused trees the ones used longest ago go first, with files that only they had.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
import structlog

from services.executor.environments.builds import Locked
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.interface import DeclaredAdapter, DeclaredWorkflow
from services.executor.workspaces import bytecode
from services.executor.workspaces.bytecode import DIRECTORY_MODE, FILE_MODE, Compile
from shared import tasks
from shared.blobs import Blobs
from shared.errors import NotFound
from shared.messages.catalog import FileProblem

# Trees on disk, their files together, and bytes of files and bytecode, a file that several share counted once.
MOST_TREES = 500
MOST_ENTRIES = 200_000
MOST_BYTES = 1 << 30
# Objects that are fetched at a time; of each up to 4 MiB are in memory.
AT_ONCE = 16
# Seconds within which an object that no tree has yet will be part of one.
YOUNG = 60.0

_log = structlog.get_logger()


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of a bundle: the SHA-256 of each file by path, the workflows and adapters that its code defines, and warnings.

    `environments` are by the file that they are for, the one of all other files by "".
    """

    files: dict[str, str]
    workflows: list[DeclaredWorkflow]
    warnings: list[FileProblem] = []
    environments: dict[str, Locked] = {}
    adapters: list[DeclaredAdapter] = []


class Bundle(msgspec.Struct, frozen=True):
    """A bundle that children can read now."""

    folder: Path
    manifest: Manifest

    def workflow(self, name: str) -> DeclaredWorkflow:
        """Return a workflow of this code. Raises `NotFound`."""
        for found in self.manifest.workflows:
            if found.name == name:
                return found
        raise NotFound(f"this version defines no {name}")

    def adapter(self, name: str) -> DeclaredAdapter:
        """Return an adapter of this code. Raises `NotFound`."""
        for found in self.manifest.adapters:
            if found.name == name:
                return found
        raise NotFound(f"this version defines no adapter {name}")


class Bundles:
    """Keeps bundles under `folder` and in the bucket `workspace`. A version is the SHA-256 of its manifest."""

    def __init__(
        self,
        folder: Path,
        blobs: Blobs,
        *,
        compile_: Compile,
        forget: Callable[[Path], None] = lambda _folder: None,
        most_trees: int = MOST_TREES,
        most_entries: int = MOST_ENTRIES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        """`compile_` compiles used trees, `forget` is called with a tree before it goes. The folder is this process's own."""
        self._folder = folder
        self._blobs = blobs
        self._compile = compile_
        self._forget = forget
        self._most_trees = most_trees
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._known: OrderedDict[str, Bundle] = OrderedDict()
        # The number of files of each tree.
        self._trees: OrderedDict[str, int] = OrderedDict()
        # Bytes of the bytecode of each tree.
        self._compiled: dict[str, int] = {}
        self._compiling: set[asyncio.Task[None]] = set()
        self._held: Counter[Path] = Counter()
        # Objects of trees that are being made.
        self._wanted: Counter[str] = Counter()
        self._fetching = asyncio.Semaphore(AT_ONCE)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(self) -> None:
        """Make the folders, readable by the children; trees that are there from before count as used longest ago."""
        for folder in (self._folder, self._folder / "objects", self._folder / "trees"):
            await asyncio.to_thread(_make, folder)
        for tree, entries, compiled in await asyncio.to_thread(_by_age, self._folder / "trees"):
            self._trees[tree.name] = entries
            self._compiled[tree.name] = compiled

    async def close(self) -> None:
        """Let go of compilations under way."""
        await tasks.end(self._compiling)

    @contextlib.contextmanager
    def held(self, folder: Path) -> Iterator[None]:
        """Keep a tree on disk for the block."""
        self._held[folder] += 1
        try:
            yield
        finally:
            self._held[folder] -= 1
            if not self._held[folder]:
                del self._held[folder]

    async def publish(
        self,
        files: dict[str, str],
        workflows: list[DeclaredWorkflow],
        warnings: Sequence[FileProblem] = (),
        environments: dict[str, Locked] | None = None,
        adapters: Sequence[DeclaredAdapter] = (),
    ) -> str:
        """Store the manifest of a tree; returns its version."""
        manifest = Manifest(files, workflows, list(warnings), environments or {}, list(adapters))
        document = msgspec.json.encode(manifest, order="deterministic")

        async def parts() -> AsyncIterator[bytes]:
            yield document

        return (await self._blobs.put(parts())).sha256

    async def manifest(self, version: str) -> Manifest:
        """Return the manifest of a version. Raises `NotFound`, `Unavailable`."""
        known = self._known.get(version)
        if known is not None:
            return known.manifest
        try:
            return msgspec.json.decode(await self._blobs.read(version), type=Manifest)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise NotFound(f"the manifest of version {version[:12]}… cannot be read: {error}") from error

    async def get(self, version: str) -> Bundle:
        """Return a version, fetching files that are not on disk yet. Raises `NotFound`, `Unavailable`."""
        known = self._known.get(version)
        if known is None:
            manifest = await self.manifest(version)
            known = self._known[version] = Bundle(await self.tree(manifest.files), manifest)
            self._compile_soon(known)
        self._known.move_to_end(version)
        self._trees.move_to_end(known.folder.name)
        return known

    async def tree(self, files: dict[str, str]) -> Path:
        """Return a folder that holds exactly these files; made once, then shared."""
        name = hashlib.sha256(msgspec.json.encode(files, order="deterministic")).hexdigest()
        folder = self._folder / "trees" / name
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            if not folder.is_dir():
                objects = set(files.values())
                self._wanted.update(objects)
                try:
                    await tasks.each(AT_ONCE, objects, self._object)
                    await asyncio.to_thread(self._link, files, folder)
                finally:
                    self._wanted -= Counter(objects)
                self._trees[name] = len(files)
                with self.held(folder):
                    await self._prune()
            self._trees[name] = len(files)
            self._trees.move_to_end(name)
        return folder

    def _compile_soon(self, bundle: Bundle) -> None:
        """Have the code compiled while others use it already: theirs is the first run of it, and compiles by itself."""
        compiling = asyncio.create_task(self._compile_all(bundle))
        self._compiling.add(compiling)
        compiling.add_done_callback(self._compiling.discard)

    async def _compile_all(self, bundle: Bundle) -> None:
        folder = bundle.folder
        with self.held(folder):
            try:
                await bytecode.lay(folder, bundle.manifest.files, self._compile)
            except (SandboxUnavailable, OSError) as error:
                _log.warning("bundle.not_compiled", tree=folder.name, reason=str(error))
            self._compiled[folder.name] = await asyncio.to_thread(bytecode.size, folder)
            await self._prune()

    async def _prune(self) -> None:
        """Remove trees over the bound. Held trees stay, and the one that the caller has just made."""
        while (
            len(self._trees) > self._most_trees
            or sum(self._trees.values()) > self._most_entries
            or await self._bytes() > self._most_bytes
        ):
            name = next((one for one in self._trees if not self._held[self._folder / "trees" / one]), None)
            if name is None:
                return
            del self._trees[name]
            self._compiled.pop(name, None)
            folder = self._folder / "trees" / name
            for version in [version for version, bundle in self._known.items() if bundle.folder == folder]:
                del self._known[version]
            self._forget(folder)
            await asyncio.to_thread(_remove, folder, self._folder / "objects", self._wanted.copy())

    async def _bytes(self) -> int:
        return sum(self._compiled.values()) + await asyncio.to_thread(_size, self._folder / "objects")

    async def _object(self, sha256: str) -> None:
        """Fetch a blob in chunks, verified, unless it is on disk."""
        # Two trees that are made at a time may share it.
        async with self._locks.setdefault(f"object {sha256}", asyncio.Lock()), self._fetching:
            target = self._folder / "objects" / sha256
            if not target.exists():
                await self._fetch(sha256, target)

    async def _fetch(self, sha256: str, target: Path) -> None:
        unfinished = target.with_suffix(f".{os.getpid()}.{id(self):x}")
        digest = hashlib.sha256()
        try:
            with unfinished.open("wb") as file:
                async for chunk in self._blobs.get(sha256):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != sha256:
                raise NotFound(f"the content {sha256[:12]}… in the object store is damaged")
            unfinished.chmod(FILE_MODE)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)

    def _link(self, files: dict[str, str], folder: Path) -> None:
        unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(unfinished, ignore_errors=True)
        _make(unfinished)
        for path, sha256 in files.items():
            target = unfinished / path
            for parent in reversed(target.relative_to(unfinished).parents[:-1]):
                _make(unfinished / parent)
            _link(self._folder / "objects" / sha256, target)
        try:
            unfinished.rename(folder)
        except OSError:
            # Another replica on this machine was first; its tree is the same.
            shutil.rmtree(unfinished, ignore_errors=True)


def _by_age(trees: Path) -> list[tuple[Path, int, int]]:
    """Return the trees with the number of their files and the bytes of their bytecode, the oldest first."""
    found = sorted(trees.iterdir(), key=lambda path: path.stat().st_mtime)
    return [(path, sum(len(names) for _, _, names in os.walk(path)), bytecode.size(path)) for path in found]


def _link(file: Path, name: Path) -> None:
    """Give an object one more name; a copy takes its place where the file system allows no more (65,000 on ext4)."""
    try:
        os.link(file, name)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        unfinished = file.with_suffix(f".{os.getpid()}.{threading.get_ident():x}")
        shutil.copy2(file, unfinished)
        unfinished.replace(file)
        os.link(file, name)


def _size(objects: Path) -> int:
    return sum(found.st_size for _, found in _standing(objects))


def _standing(objects: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the entries of the folder. Another deployment's unfinished files get their names, and go, while one looks."""
    for path in objects.iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield path, path.stat()


def _remove(folder: Path, objects: Path, wanted: Collection[str]) -> None:
    """Remove a tree, and the objects that no other tree has and none that is being made wants."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, found in _standing(objects):
        # While a tree is made its objects have one name only: the newest are left for those of another process.
        if found.st_nlink == 1 and path.name not in wanted and time.time() - found.st_ctime > YOUNG:
            path.unlink(missing_ok=True)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(DIRECTORY_MODE)
