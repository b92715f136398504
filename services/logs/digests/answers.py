"""Answers the questions about digests, and about the rows of the archive as they are."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import store
from services.logs.digests.copies import CHECKPOINT, Diverged, narrowed, opened
from services.logs.digests.entries import SALTS
from services.logs.digests.keeping import Digests
from services.logs.digests.tree import tile_at
from shared.asking import Questions
from shared.db import transaction
from shared.envelope import rfc3339
from shared.questions.declaration import PAGE_BYTES
from shared.questions.digests import (
    ArchivedRow,
    ArchivedRows,
    DigestList,
    DigestView,
    ListDigests,
    Part,
    ReadArchivedDocument,
    ReadArchivedRows,
    ReadDigestFile,
    RowKey,
)
from shared.values import moment_at

# Rows read at once: their documents are at most as much as one answer holds.
ROWS = 1000


class DigestDeps(Protocol):
    """Dependencies of the answers."""

    @property
    def engine(self) -> AsyncEngine:
        """Connections to the archive."""

    @property
    def digests(self) -> Digests:
        """The digests of all streams."""

    @property
    def now(self) -> Callable[[], datetime]:
        """The clock."""


async def list_digests(_asked: ListDigests, deps: DigestDeps) -> DigestList:
    """Return the digest of every stream."""
    asked = rfc3339(deps.now())
    return DigestList([await _view(stream, deps.digests) for stream in deps.digests.streams], asked, deps.digests.every)


async def _view(stream: str, digests: Digests) -> DigestView:
    sealer, problem = digests.of(stream), digests.problem(stream)
    note = await sealer.bucket.get(CHECKPOINT)
    if note is None:
        return DigestView(stream=stream, problem=problem)
    try:
        checkpoint = opened(note, sealer.keys)
    except Diverged as error:
        return DigestView(stream=stream, checkpoint=note.decode("utf-8", "replace"), problem=str(error))
    return DigestView(
        stream=stream,
        origin=checkpoint.origin,
        size=checkpoint.size,
        root=base64.b64encode(checkpoint.root).decode(),
        checkpoint=note.decode(),
        keys=[str(key) for key in sealer.keys(checkpoint.origin)],
        problem=problem,
    )


async def read_file(asked: ReadDigestFile, deps: DigestDeps) -> Part:
    """Return a file of a tree. Raises `NotFound` for a stream that there is not."""
    bucket = deps.digests.of(asked.stream).bucket
    tile = tile_at(asked.path)
    if tile is not None:
        content = await bucket.get(tile.name)
        try:
            return Part(None if content is None else narrowed(tile, content))
        except Diverged:
            return Part(None)  # it is not that wide
    if asked.path == CHECKPOINT or SALTS.fullmatch(asked.path):
        return Part(await bucket.get(asked.path))
    return Part(None)


async def read_rows(asked: ReadArchivedRows, deps: DigestDeps) -> ArchivedRows:
    """Return as many of the next rows as one answer holds."""
    after = None if asked.after is None else _key(asked.after)
    async with transaction(deps.engine) as connection:
        rows = await store.rows_of(connection, asked.stream, after, ROWS)
    items: list[ArchivedRow] = []
    room = PAGE_BYTES
    for row in rows:
        room -= len(row["document"]) * 4 // 3 + len(row["data"] or "") + len(row["message"]) + 1000
        if items and room < 0:
            break
        items.append(_row(row))
    return ArchivedRows(items, more=len(items) < len(rows) or len(rows) == ROWS)


async def read_document(asked: ReadArchivedDocument, deps: DigestDeps) -> Part:
    """Return a part of a document."""
    async with transaction(deps.engine) as connection:
        return Part(await store.slice_of(connection, asked.stream, _key(asked.of), asked.start))


def _key(key: RowKey) -> tuple[str, int, datetime]:
    return key.incarnation, key.seq, moment_at(key.time, "time")


def _row(found: RowMapping) -> ArchivedRow:
    return ArchivedRow(**{**found, "time": rfc3339(found["time"]), "said_at": rfc3339(found["said_at"])})


QUESTIONS: Questions = {
    ListDigests: list_digests,
    ReadDigestFile: read_file,
    ReadArchivedRows: read_rows,
    ReadArchivedDocument: read_document,
}
