"""Blobs: content-addressed bodies and files in JetStream's object store, streamed both ways in bounded memory.

The layout is the object store's own (NATS ADR-20: chunks on `$O.<bucket>.C.<nuid>`, metadata on `$O.<bucket>.M.<name>`), so that
`nats object` reads it; the name is the SHA-256 of the content. A record is replaced only by one that expects it: of two that store
the same content the second one finds the first, and what renews a record wins against what collects it as garbage, or loses whole.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import msgspec
import nats.errors
from nats.aio.client import Client

from shared.client import unique_name
from shared.commit import ACK_TIMEOUT, WRONG_LAST_SEQUENCE
from shared.envelope import utc_now
from shared.errors import NotFound, TooLarge, Unavailable
from shared.ordered_reader import OrderedReader
from shared.pull import Inbox, StreamError, api_request

CHUNK = 128 * 1024
# Chunks on their way to or from the broker, of all contents of one bucket in this process and of one: what they may have in memory.
TOGETHER, EACH = 96, 48
# A record names the place in the stream of every so many-th chunk, fewer of a very large content, for those who read from there.
STEP, MOST_PLACES = 16, 1024
# Others that store or renew the same content at the same time.
TRIES = 20
# Heartbeats in a row instead of chunks, after which those are not there any more.
IDLE = 3
# Seconds for which content stays that nothing refers to: no upload, and no commit, takes nearly as long.
GRACE = 24 * 3600.0
EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class Blob(msgspec.Struct, frozen=True):
    """A blob by the hexadecimal SHA-256 of its content, and its size in bytes."""

    sha256: str
    size: int


class BlobRecord(msgspec.Struct, frozen=True):
    """The record of a blob as it is in the bucket at `sequence`, since `since`; no `meta` where it was removed, or never was."""

    sequence: int = 0
    since: datetime | None = None
    meta: dict[str, Any] | None = None

    def is_older(self, seconds: float, now: datetime) -> bool:
        """Return whether it is there for so many seconds."""
        return self.since is not None and now - self.since >= timedelta(seconds=seconds)


class Blobs:
    """One bucket.

    With `renewed_after` it is one that forgets nothing by itself, but is cleaned of what nothing refers to: whoever is about to
    refer to a content renews its record where that is older than so many seconds.
    """

    def __init__(self, client: Client, bucket: str, *, renewed_after: float | None = None) -> None:
        self._client = client
        self.bucket = bucket
        self.stream = f"OBJ_{bucket}"
        self._renewed_after = renewed_after
        self._sending = self._reading = 0

    async def put(self, parts: AsyncIterable[bytes], *, limit: int | None = None, renew_after: float | None = None) -> Blob:
        """Store the bytes of `parts`, at most `limit`, holding a few chunks in memory.

        Raises `TooLarge`, `Unavailable`. Content that is there already is not stored again, unless it is there for `renew_after`
        seconds, for buckets that forget; the stored part of a refused body is purged.
        """
        nuid = unique_name()  # a NUID, by ADR-20
        subject = f"$O.{self.bucket}.C.{nuid}"
        digest = hashlib.sha256()
        size = 0
        self._sending += 1
        try:
            async with Inbox(self._client) as inbox:
                chunks = _Chunks(self._client, subject, inbox)
                async for chunk in _even(parts):
                    size += len(chunk)
                    if limit is not None and size > limit:
                        raise TooLarge(f"the body is larger than {limit} bytes")
                    digest.update(chunk)
                    await chunks.send(chunk, most=self._window(self._sending))
                await chunks.all_stored()
            blob = Blob(digest.hexdigest(), size)
            step, places = _thinned(sorted(chunks.sequences))
            meta = {
                "name": blob.sha256,
                "bucket": self.bucket,
                "nuid": nuid,
                "size": size,
                "chunks": len(chunks.sequences),
                "digest": "SHA-256=" + base64.urlsafe_b64encode(digest.digest()).decode(),
                "options": {"max_chunk_size": CHUNK},
                "metadata": {"step": str(step), "places": places},
            }
            if not await self._keep(meta, renew_after):
                await self._purge(subject)
        except BaseException as error:
            with contextlib.suppress(Unavailable, StreamError):
                # A broker that did not answer will not purge either, and the sender waits to hear of the failure.
                await self._purge(subject, wait=0.1 if isinstance(error, Unavailable) else 5.0)
            raise
        finally:
            self._sending -= 1
        return blob

    async def get(self, sha256: str, *, start: int = 0, length: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the content in chunks, or `length` bytes of it from `start` on.

        Raises `NotFound` before the first one when there is no such blob, `Unavailable` where not all of it is there.
        """
        meta = (await self.record(sha256)).meta
        if meta is None:
            raise NotFound(f"there is no content {sha256[:12]}… in {self.bucket}")
        left = min(int(meta["size"]) - start, int(meta["size"]) if length is None else length)
        if left <= 0:
            return
        self._reading += 1
        try:
            async with contextlib.aclosing(self._chunks(meta, start)) as chunks:
                async for chunk in chunks:
                    yield chunk if len(chunk) <= left else chunk[:left]
                    left -= len(chunk)
                    if left <= 0:
                        return
        finally:
            self._reading -= 1

    async def read(self, sha256: str) -> bytes:
        """Return the whole content, for those that are known to be small. Raises `NotFound`, `Unavailable`."""
        return b"".join([chunk async for chunk in self.get(sha256)])

    async def stat(self, sha256: str) -> Blob | None:
        """Return a blob's size and hash, or None."""
        meta = (await self.record(sha256)).meta
        return None if meta is None else Blob(sha256, int(meta["size"]))

    async def claim(self, sha256: str) -> Blob | None:
        """Return a blob that somebody is about to refer to, or None: its record is renewed where that may be collected soon."""
        for _ in range(TRIES):
            record = await self.record(sha256)
            if record.meta is None:
                return None
            if await self._renewed(record):
                return Blob(sha256, int(record.meta["size"]))
        raise Unavailable(f"too many others store the content {sha256[:12]}… at this moment")

    async def remove(self, sha256: str, *, expected: int | None = None) -> bool:
        """Remove a blob, if it is there: its record first, so that nobody begins to read it. Raises `Unavailable`.

        Returns whether it is gone: with `expected` only the record at this sequence is removed, and none that has been renewed.
        """
        record = await self.record(sha256)
        if record.meta is None:
            return True
        gone = {"name": sha256, "bucket": self.bucket, "nuid": record.meta["nuid"], "size": 0, "chunks": 0, "deleted": True}
        if not await self._write(gone, expected=expected):
            return False
        await self._purge(f"$O.{self.bucket}.C.{record.meta['nuid']}")
        return True

    async def record(self, sha256: str) -> BlobRecord:
        """Return a blob's record as it is now."""
        try:
            request = {"last_by_subj": self.meta_subject(sha256)}
            answer = await api_request(self._client, f"$JS.API.STREAM.MSG.GET.{self.stream}", request)
        except StreamError:
            return BlobRecord()
        message = answer["message"]
        meta: dict[str, Any] = json.loads(base64.b64decode(message["data"]))
        return BlobRecord(int(message["seq"]), datetime.fromisoformat(message["time"]), None if meta.get("deleted") else meta)

    async def uploads(self) -> set[str]:
        """Return the names of everything that was uploaded, whether a record names it or not. Raises `Unavailable`."""
        found: set[str] = set()
        while True:
            request = {"subjects_filter": f"$O.{self.bucket}.C.*", "offset": len(found)}
            info = await api_request(self._client, f"$JS.API.STREAM.INFO.{self.stream}", request, wait=30.0)
            subjects = info["state"].get("subjects") or {}
            found |= {subject.rpartition(".")[2] for subject in subjects}
            if not subjects or len(found) >= int(info.get("total", 0)):
                return found

    async def last_chunk(self, nuid: str) -> datetime | None:
        """Return when the last chunk of an upload was stored; None where there is none."""
        try:
            request = {"last_by_subj": f"$O.{self.bucket}.C.{nuid}"}
            answer = await api_request(self._client, f"$JS.API.STREAM.MSG.GET.{self.stream}", request)
        except StreamError:
            return None
        return datetime.fromisoformat(answer["message"]["time"])

    async def purge_chunks(self, nuid: str) -> None:
        """Remove an upload that no record names."""
        await self._purge(f"$O.{self.bucket}.C.{nuid}")

    def meta_subject(self, sha256: str) -> str:
        """Return the subject of a blob's record."""
        return f"$O.{self.bucket}.M.{base64.urlsafe_b64encode(sha256.encode()).decode()}"

    def _window(self, going: int) -> int:
        return max(2, min(EACH, TOGETHER // going))

    async def _chunks(self, meta: dict[str, Any], start: int) -> AsyncGenerator[bytes, None]:
        """Yield what is stored of a content from the byte `start` on."""
        each = int(meta["options"]["max_chunk_size"])
        skipped, place = _place(meta, start // each)
        missing, within = int(meta["chunks"]) - skipped, start - skipped * each
        filters, whole = (f"$O.{self.bucket}.C.{meta['nuid']}",), missing
        reader = OrderedReader(
            self._client, self.stream, filters=filters, after=place, batch=self._window(self._reading), heartbeats=True
        )
        idle = 0
        async with contextlib.aclosing(reader.batches()) as batches:
            async for batch in batches:
                if reader.pending_at_start != whole and skipped:
                    break  # the bucket was put back with other sequences
                for one in batch:
                    missing -= 1
                    if within < len(one.data):
                        yield one.data[within:] if within else one.data
                    within = max(0, within - len(one.data))
                if missing <= 0:
                    return
                idle = 0 if batch else idle + 1
                if reader.pending_at_start != whole or idle == IDLE:
                    raise Unavailable(f"the content {meta['name'][:12]}… lacks {missing} of its {meta['chunks']} chunks")
                reader.batch = self._window(self._reading)
        # From the beginning, then, which needs no place.
        async with contextlib.aclosing(self._chunks(meta | {"metadata": {}}, 0)) as chunks:
            async for chunk in chunks:
                if start < len(chunk):
                    yield chunk[start:]
                start = max(0, start - len(chunk))

    async def _keep(self, meta: dict[str, Any], renew_after: float | None) -> bool:
        """Write the record of content that was stored; returns False where the same was there before, and stays."""
        for _ in range(TRIES):
            found = await self.record(meta["name"])
            if found.meta is not None and (renew_after is None or not found.is_older(renew_after, utc_now())):
                if await self._renewed(found):
                    return False
            elif await self._write(meta, expected=found.sequence):
                return True
        raise Unavailable("too many others store the same content at this moment")

    async def _renewed(self, record: BlobRecord) -> bool:
        """Return whether a record that was there is, and is young enough to be relied upon, by being written again if need be."""
        if self._renewed_after is None or record.meta is None or not record.is_older(self._renewed_after, utc_now()):
            return True
        return await self._write(record.meta, expected=record.sequence)

    async def _write(self, meta: dict[str, Any], *, expected: int | None) -> bool:
        """Write a record in the place of the one at `expected`; returns False where that is not there any more."""
        if not self._client.is_connected:
            raise Unavailable("the broker is not connected")
        headers = {"Nats-Rollup": "sub"} | ({} if expected is None else {EXPECTED: str(expected)})
        subject, body = self.meta_subject(meta["name"]), json.dumps(meta).encode()
        try:
            answer = json.loads((await self._client.request(subject, body, timeout=ACK_TIMEOUT, headers=headers)).data)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"the broker did not take a record: {type(error).__name__}") from error
        if answer.get("error", {}).get("err_code") in WRONG_LAST_SEQUENCE:
            return False
        if "error" in answer:
            raise Unavailable(f"the broker did not take a record: {answer['error'].get('description')}")
        return True

    async def _purge(self, subject: str, *, wait: float = 5.0) -> None:
        await api_request(self._client, f"$JS.API.STREAM.PURGE.{self.stream}", {"filter": subject}, wait=wait)


class _Chunks:
    """Chunks of one content on their way: some at a time, for each is acknowledged only when it is on disk."""

    def __init__(self, client: Client, subject: str, inbox: Inbox) -> None:
        self._client = client
        self._subject = subject
        self._inbox = inbox
        self._unanswered = 0
        self.sequences: list[int] = []

    async def send(self, chunk: bytes, *, most: int) -> None:
        """Publish one, once fewer than `most` are not acknowledged. Raises `Unavailable`."""
        self._settle(self._inbox.arrived())
        while self._unanswered >= most:
            await self._next()
        if not self._client.is_connected:
            raise Unavailable("the broker is not connected")
        self._unanswered += 1
        try:
            await self._client.publish(self._subject, chunk, reply=self._inbox.subject)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(f"the broker did not take a chunk: {type(error).__name__}") from error

    async def all_stored(self) -> None:
        """Wait until each is on disk. Raises `Unavailable`."""
        while self._unanswered:
            await self._next()

    async def _next(self) -> None:
        arrived = await self._inbox.take(ACK_TIMEOUT)
        if not arrived:
            raise Unavailable("the broker did not take a chunk: it does not answer")
        self._settle(arrived)

    def _settle(self, arrived: list[Any]) -> None:
        for msg in arrived:
            answer: dict[str, Any] = json.loads(msg.data) if msg.data else {"error": {"description": "nobody takes it"}}
            if "error" in answer:
                raise Unavailable(f"the broker did not take a chunk: {answer['error'].get('description')}")
            self._unanswered -= 1
            self.sequences.append(int(answer["seq"]))


def _thinned(sequences: list[int]) -> tuple[int, str]:
    """Return every how many-th chunk has its place named, and those places."""
    step = STEP
    while len(sequences) > step * MOST_PLACES:
        step *= 2
    return step, ",".join(map(str, sequences[::step]))


def _place(meta: dict[str, Any], chunk: int) -> tuple[int, int | None]:
    """Return how many chunks may be passed over in order to read one, and the sequence after which the next one comes."""
    told: dict[str, Any] = meta.get("metadata") or {}
    places = [one for one in told.get("places", "").split(",") if one]
    step = int(told.get("step", STEP))
    if not places or chunk < step:
        return 0, None
    number = min(chunk // step, len(places) - 1)
    return number * step, int(places[number]) - 1


async def _even(parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for part in parts:
        view = memoryview(part)
        while view:
            room = CHUNK - len(buffer)
            buffer += view[:room]
            view = view[room:]
            if len(buffer) == CHUNK:
                yield bytes(buffer)
                buffer.clear()
    if buffer:
        yield bytes(buffer)
