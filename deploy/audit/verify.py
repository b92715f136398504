"""Holds the rows of an export against its digest, and the digest against its signature and against copies of it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from deploy.audit.export import Export
from deploy.audit.records import Records
from deploy.audit.rows import derived, differing
from services.logs.cursor import microseconds, moment
from services.logs.digests.copies import CHECKPOINT, Diverged, opened
from services.logs.digests.entries import NO_SALT, TreeEntry, entry_of, read_entry, salt_in
from services.logs.digests.notes import Checkpoint, VerifierKey
from services.logs.digests.tree import WIDTH, Edge, Tile, leaf_hash, unbundled
from services.logs.domain import Digested
from shared.envelope import rfc3339
from shared.questions.digests import ArchivedRow

# The stream whose messages say why others are not there.
AUDIT = "AUDIT"
# Entries that the tree is made anew of at a time.
_STEP = 1 << 16
# Hashes of documents that stand in the wrong place are remembered up to so many: to say which row holds them.
_REMEMBERED = 100_000


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it was sealed: `kind`, the sequence (None: of the digest itself), and a sentence."""

    stream: str
    kind: str
    detail: str
    seq: int | None = None
    incarnation: str | None = None


class Counts(msgspec.Struct):
    """Of a stream: entries of the digest, rows, messages younger than the digest, erased ones, and those that retention removed."""

    entries: int = 0
    rows: int = 0
    unsealed: int = 0
    erased: int = 0
    removed: int = 0


class Stream:
    """The verification of one stream; `progress` is called with the number of entries that have been held against rows.

    `records` is what the audit trail says of messages that are not there; `verified` is called with each message's row that is as
    it was sealed.
    """

    def __init__(
        self,
        name: str,
        export: Export,
        *,
        keys: Sequence[VerifierKey],
        copies: Sequence[Path] = (),
        records: Records | None = None,
        verified: Callable[[ArchivedRow], None] = lambda _row: None,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        self.name = name
        self.counts = Counts()
        self._export = export
        self._keys = keys
        self._copies = copies
        self._records = Records() if records is None else records
        self._verified = verified
        self._progress = progress
        self._newest = 0

    def findings(self) -> Iterator[Finding]:
        """Return what is wrong, as it is found. Raises `StartError` for rows that cannot be read."""
        note = self._export.read(self.name, CHECKPOINT)
        if note is None:
            rows = sum(1 for _ in self._export.rows(self.name))
            self.counts.unsealed = self.counts.rows = rows
            return
        try:
            checkpoint = self._opened(note)
        except Diverged as error:
            yield Finding(self.name, "forged", str(error))
            return
        self.counts.entries = checkpoint.size
        broken = list(self._tree(checkpoint))
        yield from broken
        if not any(one.kind == "digest" for one in broken):
            yield from self._rows(checkpoint)

    def _opened(self, note: bytes) -> Checkpoint:
        # A key has the name of its tree, and the trees of an installation have the same keys: any one of them will do.
        checkpoint = opened(note, lambda origin: [VerifierKey(origin, key.public) for key in self._keys])
        if not checkpoint.origin.endswith(f"/{self.name.lower()}"):
            raise Diverged(f"the checkpoint is of another stream: {checkpoint.origin}")
        return checkpoint

    def _tree(self, checkpoint: Checkpoint) -> Iterator[Finding]:
        """Return what is wrong with the tree: made anew from its entries it has every tile, its root, and that of each copy."""
        roots = {checkpoint.size: ("the checkpoint", checkpoint.root)}
        for folder in self._copies:
            where = f"the copy {folder}"
            try:
                note = (folder / self.name.lower() / CHECKPOINT).read_bytes()
                copied = self._opened(note)
            except OSError as error:
                yield Finding(self.name, "cut off", f"{where} cannot be read: {error.strerror}")
                continue
            except Diverged as error:
                yield Finding(self.name, "forged", f"{where}: {error}")
                continue
            if copied.origin != checkpoint.origin:
                yield Finding(self.name, "forged", f"{where} is of another tree, {copied.origin}")
            elif copied.size > checkpoint.size:
                yield Finding(self.name, "cut off", f"{where} has {copied.size} entries, the digest {checkpoint.size}")
            elif copied.size == checkpoint.size and copied.root != checkpoint.root:
                yield Finding(self.name, "forged", f"{where} has another root for as many entries")
            else:
                roots.setdefault(copied.size, (where, copied.root))
        edge = Edge()
        leaves = (leaf_hash(entry) for entry in self._encoded(checkpoint.size))
        for size in sorted({*roots, *range(_STEP, checkpoint.size, _STEP)}):
            try:
                tiles = edge.grow(itertools.islice(leaves, size - edge.size))
            except Diverged as error:
                yield Finding(self.name, "digest", str(error))
                return
            where, root = roots.get(size, ("", edge.root()))
            if edge.root() != root:
                yield Finding(self.name, "digest", f"its first {size} entries do not have the root that {where} names")
            for tile, content in tiles.items():
                # The export has of a partial tile only the last state.
                if (tile.width == WIDTH or size == checkpoint.size) and content != self._export.tile(self.name, tile):
                    yield Finding(self.name, "tile", f"{tile.path} does not hold the hashes of the entries below it")

    def _encoded(self, size: int) -> Iterator[bytes]:
        """Return the entries. Raises `Diverged` where some are missing."""
        for start in range(0, size, WIDTH):
            tile = Tile(None, start // WIDTH, min(WIDTH, size - start))
            content = self._export.tile(self.name, tile)
            try:
                entries = unbundled(content or b"")
            except ValueError as error:
                raise Diverged(f"{tile.path}: {error}") from error
            if len(entries) != tile.width:
                raise Diverged(f"{tile.path} is missing, or has {len(entries)} entries in place of {tile.width}")
            yield from entries

    def _rows(self, checkpoint: Checkpoint) -> Iterator[Finding]:
        runs = self._runs(checkpoint.size)
        done: set[str] = set()
        stray: dict[bytes, int] = {}
        grouped = itertools.groupby(self._export.rows(self.name), key=lambda row: row.incarnation)
        for incarnation, rows in grouped:
            done.add(incarnation)
            first, count = runs.get(incarnation, (0, 0))
            yield from self._incarnation(incarnation, rows, first, count, stray)
        for incarnation, (first, count) in runs.items():
            if incarnation not in done:
                yield from self._incarnation(incarnation, iter(()), first, count, stray)

    def _runs(self, size: int) -> dict[str, tuple[int, int]]:
        """Return of each incarnation the index of its first entry, and the number of its entries, which follow each other."""
        runs: dict[str, tuple[int, int]] = {}
        for index, encoded in enumerate(self._encoded(size)):
            entry = read_entry(encoded)
            first, count = runs.get(entry.incarnation, (index, 0))
            runs[entry.incarnation] = first, count + 1
            self._newest = entry.time
        return runs

    def _entries(self, first: int, count: int, size: int) -> Iterator[tuple[TreeEntry, bytes]]:
        """Return entries with their salts."""
        salts = b""
        bundle = -1
        for index, encoded in enumerate(itertools.islice(self._encoded(size), first, first + count), start=first):
            if index // WIDTH != bundle:
                bundle = index // WIDTH
                salts = self._export.salts(self.name, bundle) or b""
            yield read_entry(encoded), salt_in(salts, index)

    def _incarnation(
        self, incarnation: str, rows: Iterator[ArchivedRow], first: int, count: int, stray: dict[bytes, int]
    ) -> Iterator[Finding]:
        groups = ((seq, list(group)) for seq, group in itertools.groupby(rows, key=lambda row: row.seq))
        group = next(groups, None)
        last = reached = 0
        missing = _Missing(self.name, incarnation)

        def found(kind: str, seq: int, detail: str) -> Finding:
            return Finding(self.name, kind, detail, seq, incarnation)

        for number, (entry, salt) in enumerate(self._entries(first, count, self.counts.entries), start=first + 1):
            self._progress(number, self.counts.entries)
            for begin, end in self._records.unexplained(self.name, incarnation, reached + 1, entry.seq - 1):
                yield from missing.end()
                yield found("missing before it was sealed", begin, _never_sealed(begin, end))
            reached = max(reached, entry.seq)
            while group is not None and group[0] < entry.seq:
                self.counts.rows += len(group[1])
                yield found("inserted", group[0], f"{_kinds(group[1])}, and no message was sealed with this sequence")
                group = next(groups, None)
            if group is None or group[0] != entry.seq:
                if entry.seq != last:
                    if self._records.removed(self.name, incarnation, entry.seq):
                        self.counts.removed += 1
                        last = entry.seq
                        yield from missing.end()
                    else:
                        yield from missing.add(entry)
                    continue
                yield found("inserted", entry.seq, "two messages with this sequence were sealed")
                continue
            yield from missing.end()
            last = entry.seq
            self.counts.rows += len(group[1])
            for kind, detail in self._compare(entry, salt, group[1], stray):
                yield found(kind, entry.seq, detail)
            group = next(groups, None)
        yield from missing.end()
        if group is not None:
            for seq, young in itertools.chain([group], groups):
                self.counts.rows += len(young)
                if _microseconds(young[0].time) < self._newest:
                    yield found("inserted", seq, f"{_kinds(young)}, and is not in the digest, which has younger ones")
                else:
                    self.counts.unsealed += 1

    def _compare(
        self, entry: TreeEntry, salt: bytes, rows: Sequence[ArchivedRow], stray: dict[bytes, int]
    ) -> Iterator[tuple[str, str]]:
        """Return what differs between an entry and the rows of its sequence, and rows and what their message says."""
        messages = [row for row in rows if row.line <= 0]
        true = [row for row in messages if _digest_of(row, salt).sha256 == entry.sha256]
        if salt == NO_SALT and len(messages) == 1 and not messages[0].size:
            self.counts.erased += 1
            return
        if not true:
            if not messages:
                if self._records.removed(self.name, entry.incarnation, entry.seq):
                    self.counts.removed += 1
                else:
                    yield "missing", "only lines are left of this message"
                return
            row = messages[0]
            digest = hashlib.sha256(row.document).digest()
            swapped = stray.get(digest)
            if len(stray) < _REMEMBERED:
                stray[digest] = entry.seq
            of = "" if swapped is None else f", and are those that {swapped} has, too"
            yield "changed", f"the bytes of {row.type} of {row.org} are not those that were sealed{of}"
            return
        row = true[0]
        if _microseconds(row.time) != entry.time:
            yield "changed", f"it was stored at {row.time}, says the row, and the digest says otherwise"
        for other in messages:
            if other is not row:
                yield "inserted", f"a second {other.type}, stored at {other.time}"
        self._verified(row)
        made, odd = derived(self.name, row)
        for line in rows:
            if line.line <= 0:
                continue
            if line.line not in made:
                yield "inserted", f"the line {line.line}, which the message does not hold: {line.message[:80]!r}"
            elif odd_columns := differing(made.pop(line.line), line):
                yield "changed", f"{', '.join(odd_columns)} of the line {line.line}"
        for number in sorted(number for number in made if number > 0):
            yield "missing", f"the line {number}"
        if odd_columns := [] if odd else differing(made.get(row.line), row):
            yield "changed", f"{', '.join(odd_columns)} of {row.type} of {row.org}, beside the message as it was sealed"


def recorded(export: Export, *, keys: Sequence[VerifierKey], copies: Sequence[Path] = ()) -> Records:
    """Return what the audit trail says of messages that are not there, as far as it is itself as it was sealed."""
    records = Records()
    if AUDIT in export.streams:
        for _ in Stream(AUDIT, export, keys=keys, copies=copies, verified=records.read).findings():
            pass
    return records


class _Missing:
    """Messages without rows, told as ranges."""

    def __init__(self, stream: str, incarnation: str) -> None:
        self._stream, self._incarnation = stream, incarnation
        self._first: TreeEntry | None = None
        self._last: TreeEntry | None = None
        self._count = 0

    def add(self, entry: TreeEntry) -> Iterator[Finding]:
        if self._last is not None and entry.seq != self._last.seq + 1:
            yield from self.end()
        self._first = self._first or entry
        self._last = entry
        self._count += 1

    def end(self) -> Iterator[Finding]:
        if self._first is not None and self._last is not None:
            many = "" if self._count == 1 else f" to {self._last.seq}, {self._count} messages"
            detail = f"no row is left{many}, stored from {_time(self._first)} on"
            yield Finding(self._stream, "missing", detail, self._first.seq, self._incarnation)
        self._first = self._last = None
        self._count = 0


def _digest_of(row: ArchivedRow, salt: bytes) -> TreeEntry:
    digested = Digested(row.incarnation, row.seq, datetime.fromisoformat(row.time), hashlib.sha256(row.document).digest())
    return entry_of(digested, salt)


def _never_sealed(first: int, last: int) -> str:
    many = "the stream had a message here" if first == last else f"to {last}, the stream had {last - first + 1} messages here"
    return f"{many}, and no record of the audit trail says why the archive has none"


def _microseconds(text: str) -> int:
    return microseconds(datetime.fromisoformat(text))


def _time(entry: TreeEntry) -> str:
    return rfc3339(moment(entry.time))


def _kinds(rows: Sequence[ArchivedRow]) -> str:
    return f"{rows[0].type} of {rows[0].org}, stored at {rows[0].time}"
