"""Bundles: the code of a workspace at one version, on disk where children read it, made from content-addressed blobs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from services.executor.sandbox.jail import WorkflowFound
from shared.blobs import Blobs
from shared.errors import NotFound

DIRECTORY_MODE = 0o755
FILE_MODE = 0o444


class Manifest(msgspec.Struct, frozen=True):
    """What a bundle is: the SHA-256 of each file by path, and the workflows that its code defines."""

    files: dict[str, str]
    workflows: list[WorkflowFound]


class Bundle(msgspec.Struct, frozen=True):
    """A bundle that children can read now."""

    folder: Path
    manifest: Manifest

    def workflow(self, name: str) -> WorkflowFound:
        """Return a workflow of this code. Raises `NotFound`."""
        for found in self.manifest.workflows:
            if found.name == name:
                return found
        raise NotFound(f"this version defines no {name}")


class Bundles:
    """Keeps bundles under `folder` and in the bucket `workspace`. A version is the SHA-256 of its manifest."""

    def __init__(self, folder: Path, blobs: Blobs) -> None:
        self._folder = folder
        self._blobs = blobs
        self._known: dict[str, Bundle] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def start(self) -> None:
        """Make the folders, readable by the children."""
        for folder in (self._folder, self._folder / "objects", self._folder / "trees"):
            await asyncio.to_thread(_make, folder)

    async def publish(self, files: dict[str, str], workflows: list[WorkflowFound]) -> str:
        """Store the manifest of a tree; returns its version."""
        document = msgspec.json.encode(Manifest(files, workflows), order="deterministic")

        async def parts() -> AsyncIterator[bytes]:
            yield document

        return (await self._blobs.put(parts())).sha256

    async def manifest(self, version: str) -> Manifest:
        """Return the manifest of a version. Raises `NotFound`, `Unavailable`."""
        known = self._known.get(version)
        if known is not None:
            return known.manifest
        return msgspec.json.decode(await self._blobs.read(version), type=Manifest)

    async def get(self, version: str) -> Bundle:
        """Return a version, fetching what is not on disk yet. Raises `NotFound`, `Unavailable`."""
        known = self._known.get(version)
        if known is None:
            manifest = await self.manifest(version)
            known = self._known[version] = Bundle(await self.tree(manifest.files), manifest)
        return known

    async def tree(self, files: dict[str, str]) -> Path:
        """Return a folder that holds exactly these files; made once, then shared."""
        name = hashlib.sha256(msgspec.json.encode(files, order="deterministic")).hexdigest()
        folder = self._folder / "trees" / name
        async with self._locks.setdefault(name, asyncio.Lock()):
            if not folder.is_dir():
                for sha256 in set(files.values()):
                    await self._object(sha256)
                await asyncio.to_thread(self._link, files, folder)
        return folder

    async def _object(self, sha256: str) -> None:
        """Fetch a blob in chunks, verified, unless it is on disk."""
        target = self._folder / "objects" / sha256
        if target.exists():
            return
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
            os.link(self._folder / "objects" / sha256, target)
        try:
            unfinished.rename(folder)
        except OSError:
            # Another replica on this machine was first; its tree is the same.
            shutil.rmtree(unfinished, ignore_errors=True)


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(DIRECTORY_MODE)
