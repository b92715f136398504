"""A workspace's files as a run has them: it reads its organization's and the platform's, and writes below `data/`."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from sqlalchemy import RowMapping

from services.executor import domain
from services.executor.sandbox.interface import MAX_CHUNK
from services.executor.workspaces import commits, registration
from shared.envelope import derived_id, rfc3339
from shared.errors import Invalid, NotFound, PermissionDenied, TooLarge, Unavailable
from shared.organizations import first_seen, seen_by
from shared.pull import StreamError
from shared.questions.files import FileView, PutFile, RemoveFile

FILE_BYTES = 64 << 20
"""Of one file: a run can hold it besides its own data. Larger ones are for the API, or for a store of their own."""
WRITTEN_BYTES = 128 << 20
READ_BYTES = 512 << 20
"""Of one attempt, over all files: bounds the broker's work for one run."""
CHANGES = 1000
"""Files that one attempt may write or delete: each is a message that is kept for ever."""
AT_ONCE = 6
"""Readings, and writings, that are under way: each holds some megabytes here. The SDK begins no more."""
IDLE = 10.0
"""Seconds after which an abandoned one makes room for another."""
LISTED = 500
_IN_MEMORY = 256 << 10


class _UnderWay:
    """One file on its way."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.at = 0
        self.lock = asyncio.Lock()
        self.touched = time.monotonic()

    async def close(self) -> None:
        """Let go of it, finished or not."""


class _Reading(_UnderWay):
    """To the child."""

    def __init__(self, path: str, size: int, parts: AsyncIterator[bytes]) -> None:
        super().__init__(path)
        self.size = size
        self._parts = parts
        self._kept = bytearray()

    async def next(self) -> bytes:
        while len(self._kept) < MAX_CHUNK:
            part = await anext(self._parts, None)
            if part is None:
                break
            self._kept += part
        data = bytes(self._kept[:MAX_CHUNK])
        del self._kept[:MAX_CHUNK]
        self.at += len(data)
        return data

    async def close(self) -> None:
        closes = getattr(self._parts, "aclose", None)
        if closes is not None:
            await closes()


class _Writing(_UnderWay):
    """From the child: in memory as long as it is small, then in a file without a name."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - closed when the writing ends

    async def add(self, data: bytes) -> None:
        await asyncio.to_thread(self._file.write, data)
        self.at += len(data)

    async def parts(self) -> AsyncIterator[bytes]:
        await asyncio.to_thread(self._file.seek, 0)
        while part := await asyncio.to_thread(self._file.read, _IN_MEMORY):
            yield part

    async def close(self) -> None:
        self._file.close()


U = TypeVar("U", bound=_UnderWay)


class Files:
    """The files of one attempt at a run of `org`; `claim` is the id of its `run.started`, from which its commands' ids derive."""

    def __init__(self, deps: registration.RegistrationDeps, org: str, run: str, claim: str) -> None:
        self._deps = deps
        self._org = org
        self._actor = f"run:{run}"
        self._run = run
        self._claim = claim
        self._readings: dict[int, _Reading] = {}
        self._writings: dict[int, _Writing] = {}
        self._written = self._read = self._changes = 0

    async def find(self, path: str) -> dict[str, Any]:
        """See `interface.Capabilities.file_find`."""
        row = await self._row(path)
        return _described(row["path"], row["size"], row["sha256"], rfc3339(row["updated_at"]))

    async def list(self, prefix: str, after: str) -> dict[str, Any]:
        """See `interface.Capabilities.file_list`: of two files of one path the organization's own is listed."""
        rows: dict[str, RowMapping] = {}
        for org in reversed(seen_by(self._org)):
            for row in await self._deps.store.files(org, prefix, after, LISTED + 1):
                rows[row["path"]] = row
        paths = sorted(rows)
        items = [
            _described(path, rows[path]["size"], rows[path]["sha256"], rfc3339(rows[path]["updated_at"])) for path in paths[:LISTED]
        ]
        return {"items": items, "next": paths[LISTED - 1] if len(paths) > LISTED else None}

    async def read(self, path: str, reading: int, at: int) -> dict[str, Any]:
        """See `interface.Capabilities.file_read`."""
        found = self._readings.get(reading)
        if found is None:
            if at != 0:
                raise Invalid(f"{path[:120]!r} is not being read: begin at 0")
            row = await self._row(path)
            await self._make_room()
            size, sha256 = row["size"], row["sha256"]
            found = self._begun(self._readings, reading, lambda: _Reading(path, size, self._deps.blobs.get(sha256)))
        async with found.lock:
            found.touched = time.monotonic()
            if (found.path, found.at) != (path, at):
                raise Invalid(f"{found.path!r} is being read at {found.at}, not {path[:120]!r} at {at}")
            if self._read >= READ_BYTES:
                raise TooLarge(f"this attempt has read {self._read} bytes of files; at most {READ_BYTES} are given to one")
            data = b""
            try:
                data = await found.next()
            except StreamError as error:
                raise Unavailable(f"{path!r} cannot be read now: {error}") from error
            finally:
                self._read += len(data)
                if not data or found.at >= found.size:
                    self._readings.pop(reading, None)
                    await found.close()
        return {"data": data, "size": found.size}

    async def write(self, path: str, writing: int, at: int, data: bytes, *, is_last: bool) -> dict[str, Any] | None:
        """See `interface.Capabilities.file_write`."""
        found = self._writings.get(writing)
        if found is None:
            self._check_own(path)
            if at != 0:
                raise Invalid(f"{path!r} is not being written: begin at 0")
            await self._make_room()
            found = self._begun(self._writings, writing, lambda: _Writing(path))
        async with found.lock:
            found.touched = time.monotonic()
            is_over = True
            try:
                if (found.path, found.at) != (path, at):
                    raise Invalid(f"{found.path!r} is being written at {found.at}, not {path[:120]!r} at {at}")
                self._check_size(found, len(data))
                await found.add(data)
                is_over = is_last
                return await self._keep(found) if is_last else None
            finally:
                if is_over:
                    self._writings.pop(writing, None)
                    await found.close()

    async def delete(self, path: str) -> None:
        """See `interface.Capabilities.file_delete`."""
        self._check_own(path)
        command = RemoveFile(id=self._command(), org=self._org, actor=self._actor, path=path)
        try:
            await commits.remove_file(command, self._deps)
        except StreamError as error:
            raise Unavailable(f"{path!r} cannot be deleted now: {error}") from error

    async def close(self) -> None:
        """Close files that were begun and not ended."""
        for one in (*self._writings.values(), *self._readings.values()):
            await one.close()
        self._writings.clear()
        self._readings.clear()

    async def _make_room(self) -> None:
        """Where too much is under way, release abandoned uploads."""
        kinds: tuple[dict[int, Any], ...] = (self._readings, self._writings)
        for under_way in kinds:
            for number, one in list(under_way.items()):
                if len(self._readings) + len(self._writings) < AT_ONCE:
                    return
                if not one.lock.locked() and time.monotonic() - one.touched > IDLE:
                    del under_way[number]
                    await one.close()

    def _begun(self, under_way: dict[int, U], number: int, made: Callable[[], U]) -> U:
        """Record one that begins. Awaits nothing, so that no other task comes between."""
        if number in under_way:
            raise Invalid(f"{under_way[number].path!r} is under way by the number {number} already")
        if len(self._readings) + len(self._writings) >= AT_ONCE:
            raise Unavailable(f"a run reads and writes at most {AT_ONCE} files at a time: finish with one first")
        one = under_way[number] = made()
        return one

    async def _keep(self, writing: _Writing) -> dict[str, Any]:
        try:
            blob = await self._deps.blobs.put(writing.parts(), limit=FILE_BYTES)
            command = PutFile(
                id=self._command(),
                org=self._org,
                actor=self._actor,
                path=writing.path,
                sha256=blob.sha256,
                size=blob.size,
            )
            view: FileView = await commits.put_file(command, self._deps)
        except StreamError as error:
            raise Unavailable(f"{writing.path!r} cannot be written now: {error}") from error
        return _described(view.path, view.size, view.sha256, view.updated_at)

    async def _row(self, path: str) -> RowMapping:
        domain.checked_path(path)
        row = await first_seen(self._org, lambda org: self._deps.store.file(org, path))
        if row is None:
            raise NotFound(f"there is no file {path!r} in the workspace of this organization or of global")
        return row

    def _check_own(self, path: str) -> None:
        complaint = domain.kept_from_runs(domain.checked_path(path), self._run)
        if complaint is not None:
            raise PermissionDenied(f"a run may not write or delete {path!r}: {complaint}")

    def _check_size(self, writing: _Writing, more: int) -> None:
        if writing.at + more > FILE_BYTES:
            raise TooLarge(f"{writing.path!r} would have more than {FILE_BYTES} bytes, the most that a run may write into one file")
        if self._written + more > WRITTEN_BYTES:
            raise TooLarge(f"this attempt would have written more than {WRITTEN_BYTES} bytes, the most that one may")
        self._written += more

    def _command(self) -> str:
        if self._changes >= CHANGES:
            raise TooLarge(f"this attempt has changed {CHANGES} files, the most that one may")
        self._changes += 1
        return derived_id(self._claim, "file", str(self._changes))


def _described(path: str, size: int, sha256: str, updated_at: str) -> dict[str, Any]:
    return {"path": path, "size": size, "sha256": sha256, "updated_at": updated_at}
