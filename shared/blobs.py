"""Blobs: content-addressed bodies and files in JetStream's object store, streamed both ways in bounded memory.

The layout is the object store's own (NATS ADR-20: chunks on `$O.<bucket>.C.<nuid>`, metadata on `$O.<bucket>.M.<name>`), so that
`nats object` reads it; the name is the SHA-256 of the content.
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
from shared.commit import ACK_TIMEOUT
from shared.envelope import utc_now
from shared.errors import NotFound, TooLarge, Unavailable
from shared.pull import OrderedReader, StreamError, api_request

CHUNK = 128 * 1024


class Blob(msgspec.Struct, frozen=True):
    """A blob by the hexadecimal SHA-256 of its content, and its size in bytes."""

    sha256: str
    size: int


class Blobs:
    """One bucket."""

    def __init__(self, client: Client, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._stream = f"OBJ_{bucket}"

    async def put(self, parts: AsyncIterable[bytes], *, limit: int | None = None, renew_after: float | None = None) -> Blob:
        """Store the bytes of `parts`, at most `limit`, holding one chunk in memory.

        Raises `TooLarge`, `Unavailable`. Content that is there already is not stored again, unless it is there for `renew_after`
        seconds, for buckets that forget; the stored part of a refused body is purged.
        """
        nuid = unique_name()  # a NUID, by ADR-20
        subject = f"$O.{self._bucket}.C.{nuid}"
        digest = hashlib.sha256()
        size = chunks = 0
        try:
            async for chunk in _even(parts):
                size += len(chunk)
                if limit is not None and size > limit:
                    raise TooLarge(f"the body is larger than {limit} bytes")
                digest.update(chunk)
                await self._publish(subject, chunk)
                chunks += 1
            blob = Blob(digest.hexdigest(), size)
            found = await self._found(blob.sha256)
            if found is not None and (renew_after is None or utc_now() - found[1] < timedelta(seconds=renew_after)):
                await self._purge(subject)
                return blob
            meta = {
                "name": blob.sha256,
                "bucket": self._bucket,
                "nuid": nuid,
                "size": size,
                "chunks": chunks,
                "digest": "SHA-256=" + base64.urlsafe_b64encode(digest.digest()).decode(),
                "options": {"max_chunk_size": CHUNK},
            }
            await self._publish(self._meta_subject(blob.sha256), json.dumps(meta).encode(), {"Nats-Rollup": "sub"})
        except BaseException as error:
            with contextlib.suppress(Unavailable, StreamError):
                # A broker that did not answer will not purge either, and the sender waits to hear of the failure.
                await self._purge(subject, wait=0.1 if isinstance(error, Unavailable) else 5.0)
            raise
        return blob

    async def get(self, sha256: str) -> AsyncGenerator[bytes, None]:
        """Yield the content in chunks. Raises `NotFound` before the first one when there is no such blob."""
        meta = await self._meta(sha256)
        if meta is None:
            raise NotFound(f"there is no content {sha256[:12]}… in {self._bucket}")
        missing = int(meta["chunks"])
        if not missing:
            return
        reader = OrderedReader(self._client, self._stream, filters=(f"$O.{self._bucket}.C.{meta['nuid']}",), batch=32)
        batches = reader.batches()
        async with contextlib.aclosing(batches):
            async for batch in batches:
                for delivered in batch:
                    yield delivered.data
                missing -= len(batch)
                if missing <= 0:
                    return

    async def read(self, sha256: str) -> bytes:
        """Return the whole content, for those that are known to be small. Raises `NotFound`, `Unavailable`."""
        return b"".join([chunk async for chunk in self.get(sha256)])

    async def stat(self, sha256: str) -> Blob | None:
        """Return a blob's size and hash, or None."""
        meta = await self._meta(sha256)
        return None if meta is None else Blob(sha256, int(meta["size"]))

    async def remove(self, sha256: str) -> None:
        """Remove a blob, if it is there: its record first, so that nobody begins to read it. Raises `Unavailable`."""
        meta = await self._meta(sha256)
        if meta is None:
            return
        gone = {"name": sha256, "bucket": self._bucket, "nuid": meta["nuid"], "size": 0, "chunks": 0, "deleted": True}
        await self._publish(self._meta_subject(sha256), json.dumps(gone).encode(), {"Nats-Rollup": "sub"})
        await self._purge(f"$O.{self._bucket}.C.{meta['nuid']}")

    def _meta_subject(self, name: str) -> str:
        return f"$O.{self._bucket}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    async def _meta(self, name: str) -> dict[str, Any] | None:
        found = await self._found(name)
        return None if found is None else found[0]

    async def _found(self, name: str) -> tuple[dict[str, Any], datetime] | None:
        """Return a blob's record, and since when it is there."""
        try:
            answer = await api_request(
                self._client, f"$JS.API.STREAM.MSG.GET.{self._stream}", {"last_by_subj": self._meta_subject(name)}
            )
        except StreamError:
            return None
        found: dict[str, Any] = json.loads(base64.b64decode(answer["message"]["data"]))
        return None if found.get("deleted") else (found, datetime.fromisoformat(answer["message"]["time"]))

    async def _publish(self, subject: str, body: bytes, headers: dict[str, str] | None = None) -> None:
        if not self._client.is_connected:
            raise Unavailable("the broker is not connected")
        try:
            answer = json.loads((await self._client.request(subject, body, timeout=ACK_TIMEOUT, headers=headers)).data)
        except (nats.errors.Error, TimeoutError, OSError) as error:
            raise Unavailable(f"the broker did not take a chunk: {type(error).__name__}") from error
        if "error" in answer:
            raise Unavailable(f"the broker did not take a chunk: {answer['error'].get('description')}")

    async def _purge(self, subject: str, *, wait: float = 5.0) -> None:
        await api_request(self._client, f"$JS.API.STREAM.PURGE.{self._stream}", {"filter": subject}, wait=wait)


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
