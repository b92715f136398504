"""Holds the rows of an export against its digest, and the digest against its signature and against copies of it."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from deploy.audit.export import Export
from deploy.audit.records import Records
from deploy.audit.rows import derived, differing
from deploy.audit.trees import SealedTree, salts_of, trees_of
from services.logs.cursor import microseconds, moment
from services.logs.digests.copies import Diverged
from services.logs.digests.entries import NO_SALT, TreeEntry, entry_of
from services.logs.digests.notes import VerifierKey
from services.logs.domain import Digested
from shared.envelope import rfc3339
from shared.questions.digests import ArchivedRow
from shared.streams import STREAMS

# The stream whose messages say why others are not there.
AUDIT = "AUDIT"
# Seconds that a message may be older than an export that does not have it: it was being archived.
GRACE = 60.0
# The streams of which messages are erased; in another one without a salt somebody has hidden what it says.
_ERASABLE = frozenset(one.name for one in STREAMS if one.erased_by is not None)
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
    """Of a stream: entries, rows, messages younger than the digest, erased ones, those that retention removed, and those `later`.

    A message is `later` when it was stored after the export, and has an entry because a copy of the digest has grown since.
    """

    entries: int = 0
    rows: int = 0
    unsealed: int = 0
    erased: int = 0
    removed: int = 0
    later: int = 0


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
        self._newest = self._sealed = 0
        # An export that does not say when it was begun might have had all that any copy has.
        self._begun = math.inf if export.time is None else _microseconds(export.time) - GRACE * 1_000_000

    def findings(self) -> Iterator[Finding]:
        """Return what is wrong, as it is found. Raises `StartError` for rows that cannot be read."""
        try:
            trees = trees_of(self.name, self._export, self._copies, self._keys)
        except Diverged as error:
            yield Finding(self.name, "forged", str(error))
            return
        for kind, detail in trees.faults:
            yield Finding(self.name, kind, detail)
        self._sealed = self.counts.entries = trees.sealed
        whole: SealedTree | None = None
        for tree in trees.found:
            is_whole = True
            for kind, detail in tree.faults(trees.roots):
                yield Finding(self.name, kind, detail)
                is_whole = is_whole and kind != "digest"
            whole = whole or (tree if is_whole else None)
        if whole is not None:
            self.counts.entries = whole.size
            yield from self._cut_off(whole)
            yield from self._rows(whole)
        elif not trees.found:
            rows = sum(1 for _ in self._export.rows(self.name))
            self.counts.unsealed = self.counts.rows = rows

    def _cut_off(self, tree: SealedTree) -> Iterator[Finding]:
        """Return whether the export's digest ends before what had to be sealed by then."""
        if tree.size > self._sealed:
            oldest = min(entry.time for entry in tree.entries(self._sealed))
            if oldest < self._begun - self._export.every * 1_000_000:
                detail = (
                    f"{tree.where}it has {tree.size} entries, the digest {self._sealed}: the next was stored at {_time(oldest)}"
                )
                yield Finding(self.name, "cut off", detail)

    def _rows(self, tree: SealedTree) -> Iterator[Finding]:
        runs = self._runs(tree)
        done: set[str] = set()
        stray: dict[bytes, int] = {}
        grouped = itertools.groupby(self._export.rows(self.name), key=lambda row: row.incarnation)
        for incarnation, rows in grouped:
            done.add(incarnation)
            first, count = runs.get(incarnation, (0, 0))
            yield from self._incarnation(tree, incarnation, rows, first, count, stray)
        for incarnation, (first, count) in runs.items():
            if incarnation not in done:
                yield from self._incarnation(tree, incarnation, iter(()), first, count, stray)

    def _runs(self, tree: SealedTree) -> dict[str, tuple[int, int]]:
        """Return of each incarnation the index of its first entry, and the number of its entries, which follow each other."""
        runs: dict[str, tuple[int, int]] = {}
        for index, entry in enumerate(tree.entries()):
            first, count = runs.get(entry.incarnation, (index, 0))
            runs[entry.incarnation] = first, count + 1
            self._newest = entry.time
        return runs

    def _is_later(self, index: int, entry: TreeEntry) -> bool:
        """Return whether an entry may be of a message that came after the export."""
        return index >= self._sealed and entry.time >= self._begun

    def _incarnation(
        self, tree: SealedTree, incarnation: str, rows: Iterator[ArchivedRow], first: int, count: int, stray: dict[bytes, int]
    ) -> Iterator[Finding]:
        groups = ((seq, list(group)) for seq, group in itertools.groupby(rows, key=lambda row: row.seq))
        group = next(groups, None)
        last = reached = 0
        missing = _Missing(self.name, incarnation)

        def found(kind: str, seq: int, detail: str) -> Finding:
            return Finding(self.name, kind, detail, seq, incarnation)

        sealed = zip(tree.entries(first, count), salts_of(tree, self._export, first, count), strict=True)
        for index, (entry, salt) in enumerate(sealed, start=first):
            self._progress(index + 1, tree.size)
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
                    elif self._is_later(index, entry):
                        self.counts.later += 1
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
        # A folder that was exported to before has the salt of then.
        is_erased = self.name in _ERASABLE and (salt == NO_SALT or self._records.erased(self.name, entry.incarnation, entry.seq))
        if is_erased and len(rows) == 1 and messages and not messages[0].size:
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
            detail = f"no row is left{many}, stored from {_time(self._first.time)} on"
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


def _time(microseconds_: int) -> str:
    return rfc3339(moment(microseconds_))


def _kinds(rows: Sequence[ArchivedRow]) -> str:
    return f"{rows[0].type} of {rows[0].org}, stored at {rows[0].time}"
