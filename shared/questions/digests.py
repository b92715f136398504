"""Questions to the logs service about the digests of the archive, and about its rows as they are."""

from __future__ import annotations

import msgspec

from shared.questions.declaration import Question, question
from shared.values import Instant, Name, Sequence


class DigestView(msgspec.Struct, frozen=True, kw_only=True):
    """The digest of a stream: a Merkle tree of `size` entries, one for each archived message, below the hash `root` (base64).

    `checkpoint` is the signed note that says so (C2SP tlog-checkpoint), `keys` the verifier keys of this installation, the newest
    first; both are missing while the stream has no digest. `problem` says why it does not grow.
    """

    stream: str
    origin: str | None = None
    size: int = 0
    root: str | None = None
    checkpoint: str | None = None
    keys: list[str] = []
    problem: str | None = None


class DigestList(msgspec.Struct, frozen=True):
    """The digests of all streams as they were at `time`; what is new is sealed every so many seconds."""

    items: list[DigestView]
    time: Instant | None = None
    every: float = 60.0


@question("logs.digests", by="gateway")
class ListDigests(Question[DigestList], frozen=True, kw_only=True):
    """The digest of every stream."""


class Part(msgspec.Struct, frozen=True):
    """Bytes, in base64; none where nothing is there."""

    content: bytes | None


@question("logs.digest_file", by="gateway")
class ReadDigestFile(Question[Part], frozen=True, kw_only=True):
    """A file of a stream's digest: `checkpoint`, a tile or bundle by its path in C2SP tlog-tiles, or `salts/<its number>`."""

    stream: Name
    path: Name


class ArchivedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the archive, each column as it stands there; `data` is JSON as text. `line`: 0 for a message, see the archive.

    `version` is that of what made the row of the message, 0 before there were versions.
    `document` is the message's first bytes, and `size` says how many it has.
    """

    incarnation: str
    seq: int
    time: str
    line: int
    id: str
    type: str
    level: str
    service: str
    org: str
    key: str
    run: str | None
    correlation_id: str
    causation_id: str | None
    message: str
    data: str | None
    said_at: str
    workflow: str | None
    size: int
    document: bytes
    version: int = 0


class ArchivedRows(msgspec.Struct, frozen=True):
    """Some rows; `more` where others follow."""

    items: list[ArchivedRow]
    more: bool


class RowKey(msgspec.Struct, frozen=True):
    """The key of a row."""

    incarnation: Name
    seq: Sequence
    time: Instant


@question("logs.archived_rows", by="gateway", timeout=60.0)
class ReadArchivedRows(Question[ArchivedRows], frozen=True, kw_only=True):
    """The rows of a stream, of all organizations, by incarnation, sequence and time, from the one after `after` on."""

    stream: Name
    after: RowKey | None = None


@question("logs.archived_document", by="gateway")
class ReadArchivedDocument(Question[Part], frozen=True, kw_only=True):
    """The bytes of a row's document from `start` on, as far as they are read at once."""

    stream: Name
    of: RowKey
    start: Sequence
