"""A finished backup into an object store, and out of it: `s3://bucket/prefix`, `gs://…`, `az://…`, `file:///folder`.

Credentials come from the environment, as `obstore` reads it (`AWS_…`, `GOOGLE_…`, `AZURE_…`). The manifest comes last: a place
without one holds no backup. Until then it is there under another name, which tells whose upload may go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import BaseError, NotFoundError

from deploy.backup import manifest
from deploy.backup.manifest import NAME, File, Manifest
from deploy.errors import StartError
from deploy.files import write_private
from services.logs.digests.storage import object_store

UNFINISHED = f"{NAME}.unfinished"
# Bytes of a request, and requests at a time: their product is what is in memory. Stores take at most 10,000 parts of an object.
PART, TOGETHER, MOST_PARTS = 8 * 1024 * 1024, 4, 9000
Progress = Callable[[str, int, int], None]


def is_remote(target: str) -> bool:
    """Return whether a place of backups is a URL."""
    return "://" in target


class Remote:
    """The place of one backup."""

    def __init__(self, url: str) -> None:
        """Open it. Raises `StartError`."""
        self._url = url.rstrip("/")
        try:
            self._store = object_store(url, timeout="120s")
        except (BaseError, OSError, ValueError) as error:
            raise self._error(error) from error

    async def check_empty(self) -> None:
        """Raise `StartError` where anything is there, or it cannot be reached: best before a backup is made."""
        if there := await self._names():
            raise StartError(f"{self._url} holds {min(there)} already; name another place.")

    async def upload(self, folder: Path, made: Manifest, progress: Progress) -> None:
        """Copy a finished backup, or what is not there of it yet, and read all of it again.

        Raises `StartError` where the place holds anything else, where it cannot be reached, or what was written reads otherwise.
        """
        content = (folder / NAME).read_bytes()
        there = await self._names()
        if there and content not in (await self._read(UNFINISHED), await self._read(NAME)):
            raise StartError(f"{self._url} holds {min(there)}, which is not of this backup; name another place.")
        if foreign := there - {NAME, UNFINISHED, *(file.name for file in made.files)}:
            raise StartError(f"{self._url} holds {min(foreign)}, which is not of this backup; name another place.")
        if NAME not in there:
            await self._put(UNFINISHED, content)
        for number, file in enumerate(made.files, start=1):
            if file.name not in there or await self._sha256(file) != file.sha256:
                await self._put(file.name, folder / file.name)
                if await self._sha256(file) != file.sha256:
                    raise StartError(f"{self._url}/{file.name} reads otherwise than it was written; call it again to go on.")
            progress("uploaded", number, len(made.files))
        await self._put(NAME, content)
        # Where nothing may be deleted it stays, and says the same as the manifest.
        with contextlib.suppress(BaseError, OSError):
            await obstore.delete_async(self._store, UNFINISHED)

    async def damaged(self, folder: Path, progress: Progress) -> tuple[Manifest, list[str]]:
        """Put the manifest into a folder and read all objects; return it, and a sentence for each that is not as it was written."""
        made = await self._manifest(folder)
        faults: list[str] = []
        for number, file in enumerate(made.files, start=1):
            if await self._sha256(file) != file.sha256:
                faults.append(f"{self._url}/{file.name} is missing or damaged.")
            progress("verified", number, len(made.files))
        return made, faults

    async def download(self, folder: Path, progress: Progress) -> None:
        """Copy a backup into a folder, or what is not there of it yet, each file from where it ends. Raises `StartError`."""
        made = await self._manifest(folder)
        for number, file in enumerate(made.files, start=1):
            path = folder / file.name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            for is_last in (False, True):
                with path.open("ab") as writing:
                    async for part in self._parts(file, writing.tell()):
                        await asyncio.to_thread(writing.write, part)
                found = await asyncio.to_thread(manifest.found, folder, file.name)
                if found == file:
                    break
                # What an earlier call left may be of another backup, or not have reached the disk.
                path.unlink()
                if is_last:
                    raise StartError(f"{self._url}/{file.name} is damaged: use another backup.")
            progress("downloaded", number, len(made.files))

    async def _manifest(self, folder: Path) -> Manifest:
        content = await self._read(NAME)
        if content is None:
            raise StartError(f"{self._url} holds no finished backup: there is no {NAME}.")
        await asyncio.to_thread(write_private, folder / NAME, content)
        return manifest.read(folder)

    async def _names(self) -> set[str]:
        found: set[str] = set()
        try:
            async for some in obstore.list(self._store):
                found |= {str(one["path"]) for one in some}
        except (BaseError, OSError) as error:
            raise self._error(error) from error
        return found

    async def _put(self, name: str, content: bytes | Path) -> None:
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        part = max(PART, -(-size // MOST_PARTS))
        try:
            await obstore.put_async(self._store, name, content, chunk_size=part, max_concurrency=TOGETHER)
        except (BaseError, OSError) as error:
            raise self._error(error) from error

    async def _read(self, name: str) -> bytes | None:
        try:
            return bytes(await (await obstore.get_async(self._store, name)).bytes_async())
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._error(error) from error

    async def _sha256(self, file: File) -> str | None:
        """Return the hash of an object; None where there is none, or one of another size."""
        digest = hashlib.sha256()
        try:
            if (await obstore.head_async(self._store, file.name))["size"] != file.size:
                return None
        except (NotFoundError, FileNotFoundError):
            return None
        except (BaseError, OSError) as error:
            raise self._error(error) from error
        async for part in self._parts(file, 0):
            await asyncio.to_thread(digest.update, part)
        return digest.hexdigest()

    async def _parts(self, file: File, start: int) -> AsyncIterator[Any]:
        """Yield the content of an object from `start` on: a request each, so that none takes long and the next call can go on."""
        for at in range(start, file.size, PART):
            try:
                yield await obstore.get_range_async(self._store, file.name, start=at, end=min(at + PART, file.size))
            except (BaseError, OSError) as error:
                raise self._error(error) from error

    def _error(self, error: Exception) -> StartError:
        # What stores say of a request may hold a part of its signature.
        return StartError(f"{self._url} cannot be reached or refuses: {type(error).__name__}; call it again to go on.")
