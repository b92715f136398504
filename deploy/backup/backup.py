"""The order of a backup: the moment, the database, the streams, the objects, the rest; then all of it is read again."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
from nats.aio.client import Client

from deploy.backup import manifest, moment, streams
from deploy.backup.database import dump
from deploy.backup.manifest import DATABASE, FILES, FORMAT, File, Manifest, Stream, Writing
from deploy.credentials import load_or_create
from deploy.errors import StartError
from deploy.files import write_private
from deploy.folder import running_version
from deploy.rebuild.display import Display
from shared.streams import BUCKETS, DIGESTS, REGISTRIES, STREAMS, SUSPECTS

LOCK = "lock"
MIB = 1024 * 1024
# Folders of the data folder with what is nowhere else: tokens that wait for the database, and the copies of the digests.
# Processes of a service have a folder each.
KEPT = ("oauth", "oauth-*", "logs/digests")
# Its messages are removed when they have fired; of a timer that fires meanwhile only the later message is left.
UNCUT = frozenset({"TIMERS"})


class Backup:
    """One backup of the installation whose data folder is `data`, into a folder that `place` gives."""

    def __init__(self, *, data: Path, client: Client, connection: asyncpg.Connection[Any], url: str, display: Display) -> None:
        """Touch nothing yet; `client`, `connection` and `url`, which is the database's, have administrator rights."""
        self._data = data
        self._client = client
        self._connection = connection
        self._url = url
        self._display = display
        self._files: list[File] = []
        self._streams: list[Stream] = []

    async def run(self, folder: Path, keys: Path, *, working: bool) -> Manifest:
        """Write a backup into an empty folder and the keys beside; `working` says that services run.

        Raises `StartError`, `Unavailable`, `StreamError`, OSError; a folder without a manifest is no backup.
        """
        known = self._keep_keys(keys)
        with self._display.progressing():
            snapshot, taken = await moment.choose(self._client, self._connection, lambda: self._registries(folder), working=working)
            try:
                await self._database(folder, snapshot)
            finally:
                await self._connection.execute("ROLLBACK")
            for stream in STREAMS:
                await self._stream(folder, stream.name, None if stream.name in UNCUT else taken.cuts[stream.name])
            # Last: what a message refers to was there before it, and content is never changed.
            for bucket in BUCKETS:
                await self._stream(folder, f"OBJ_{bucket.name}", None)
            await asyncio.to_thread(self._rest, folder)
            made = Manifest(
                format=FORMAT,
                version=running_version(),
                moment=taken.time,
                files=self._files,
                streams=self._streams,
                floors=taken.floors,
                keys=known,
            )
            if found := await asyncio.to_thread(manifest.damaged, folder, made, self._display.progress):
                raise StartError(f"What was written reads otherwise: {' '.join(found)}")
        manifest.seal(folder, made)
        return made

    def _keep_keys(self, keys: Path) -> str:
        """Write the installation's secrets into a file of their own; return its SHA-256."""
        credentials = msgspec.json.encode(load_or_create(self._data / "credentials.json", None))
        if keys.exists() and keys.read_bytes() != credentials:
            raise StartError(f"{keys} holds something else; name another file with --keys.")
        write_private(keys, credentials)
        return hashlib.sha256(credentials).hexdigest()

    async def _registries(self, folder: Path) -> None:
        for name in (*(registry.bucket for registry in REGISTRIES), SUSPECTS, DIGESTS):
            await self._stream(folder, f"KV_{name}", None)

    async def _stream(self, folder: Path, name: str, cut: int | None) -> None:
        file = f"streams/{name}.snapshot"
        with Writing(folder, file) as writing:
            given = await streams.save(self._client, name, writing.write)
        self._files.append(writing.file)
        if cut is not None:
            cut = min(cut, given["state"]["last_seq"])
        self._streams.append(Stream(name=name, file=file, cut=cut, **given))
        self._display.progress(name, given["state"]["messages"], given["state"]["messages"])

    async def _database(self, folder: Path, snapshot: str) -> None:
        total = await self._connection.fetchval("SELECT pg_database_size(current_database())")
        with Writing(folder, DATABASE) as writing:

            def write(part: bytes) -> None:
                writing.write(part)
                self._display.progress("postgres (MiB)", writing.size // MIB, total // MIB)

            await dump(self._url, snapshot, write)
        self._files.append(writing.file)
        self._display.progress("postgres (MiB)", writing.size // MIB, writing.size // MIB)

    def _rest(self, folder: Path) -> None:
        with tarfile.open(folder / FILES, "x") as tar:
            for kept in (found for name in KEPT for found in sorted(self._data.glob(name))):
                tar.add(kept, kept.relative_to(self._data))
        self._files.append(manifest.found(folder, FILES))


@contextmanager
def place(folder: Path) -> Iterator[Path]:
    """Give the folder in which a backup is written; it takes the name `folder` at the end of the block, if there was no error.

    One that an earlier call left is begun anew. Raises `StartError` where `folder` has content or another call writes it.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StartError(f"{folder} is not empty; name a new folder for the backup.")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with alone(unfinished):
        for left in unfinished.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != LOCK:
                left.unlink()
        yield unfinished
        unfinished.joinpath(LOCK).unlink()
        unfinished.rename(folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make a folder, and let no other call work in it for the block. Raises `StartError` where one does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(f"Another call works in {folder}.") from error
        yield
    finally:
        os.close(lock)


def told(made: Manifest, began: float) -> str:
    """Return a sentence about a backup that began then (monotonic)."""
    size = sum(file.size for file in made.files)
    messages = sum(one.state["messages"] for one in made.streams)
    took = time.monotonic() - began
    return f"{size / MIB:,.1f} MiB in {len(made.files)} files, {messages:,} messages, {took:.1f} s; state of {made.moment}."
