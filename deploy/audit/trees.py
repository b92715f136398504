"""The trees of a stream: the export's, and a copy's that has grown beyond it; each is made anew from its entries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from deploy.audit.export import DigestFiles
from services.logs.digests.copies import CHECKPOINT, Diverged, opened
from services.logs.digests.entries import TreeEntry, read_entry, salt_in
from services.logs.digests.notes import Checkpoint, VerifierKey
from services.logs.digests.tree import WIDTH, Edge, Tile, leaf_hash, unbundled

# Entries that the tree is made anew of at a time.
_STEP = 1 << 16


class SealedTree(msgspec.Struct, frozen=True):
    """A stream's tree at a checkpoint, and the files it is made of; `where` begins what is said of a copy."""

    stream: str
    files: DigestFiles
    checkpoint: Checkpoint
    where: str = ""

    @property
    def size(self) -> int:
        """Return the number of its entries."""
        return self.checkpoint.size

    def faults(self, roots: Mapping[int, tuple[str, bytes]]) -> Iterator[tuple[str, str]]:
        """Return what is wrong: made anew from its entries it has every tile, and at each size in `roots` the root beside it."""
        edge = Edge()
        leaves = (leaf_hash(entry) for entry in self._encoded())
        for size in sorted({self.size, *(one for one in roots if one <= self.size), *range(_STEP, self.size, _STEP)}):
            try:
                tiles = edge.grow(itertools.islice(leaves, size - edge.size))
            except Diverged as error:
                yield "digest", f"{self.where}{error}"
                return
            where, root = roots.get(size, ("", edge.root()))
            if edge.root() != root:
                yield "digest", f"{self.where}its first {size} entries do not have the root that {where} names"
            for tile, content in tiles.items():
                # Of a partial tile there is only the last state.
                if (tile.width == WIDTH or size == self.size) and content != self.files.tile(self.stream, tile):
                    yield "tile", f"{self.where}{tile.path} does not hold the hashes of the entries below it"

    def entries(self, first: int = 0, count: int | None = None) -> Iterator[TreeEntry]:
        """Return entries, from the one with the index `first` on."""
        end = None if count is None else first + count
        return (read_entry(encoded) for encoded in itertools.islice(self._encoded(), first, end))

    def _encoded(self) -> Iterator[bytes]:
        """Return the entries. Raises `Diverged` where some are missing."""
        for start in range(0, self.size, WIDTH):
            tile = Tile(None, start // WIDTH, min(WIDTH, self.size - start))
            content = self.files.tile(self.stream, tile)
            try:
                entries = unbundled(content or b"")
            except ValueError as error:
                raise Diverged(f"{tile.path}: {error}") from error
            if len(entries) != tile.width:
                raise Diverged(f"{tile.path} is missing, or has {len(entries)} entries in place of {tile.width}")
            yield from entries


class SealedTrees(msgspec.Struct, frozen=True):
    """The trees of a stream, the largest first, the sizes and roots that all of them have to have, and what is wrong already.

    `sealed` is the number of entries of the export's own digest.
    """

    found: list[SealedTree]
    roots: dict[int, tuple[str, bytes]]
    faults: list[tuple[str, str]]
    sealed: int


def trees_of(stream: str, export: DigestFiles, copies: Sequence[Path], keys: Sequence[VerifierKey]) -> SealedTrees:
    """Return the export's tree, and the largest that a copy has beyond it. Raises `Diverged` where the export's is forged."""
    note = export.read(stream, CHECKPOINT)
    own = None if note is None else SealedTree(stream, export, _opened(stream, note, keys))
    made = SealedTrees([] if own is None else [own], {}, [], 0 if own is None else own.size)
    if own is not None:
        made.roots[own.size] = "the checkpoint", own.checkpoint.root
    origin = None if own is None else own.checkpoint.origin
    for folder in copies:
        where, files = f"the copy {folder}", DigestFiles(folder)
        try:
            copied = _opened(stream, (folder / stream.lower() / CHECKPOINT).read_bytes(), keys)
        except OSError as error:
            # Where nothing was sealed there is nothing to copy.
            if own is not None or not isinstance(error, FileNotFoundError):
                made.faults.append(("cut off", f"{where} cannot be read: {error.strerror}"))
            continue
        except Diverged as error:
            made.faults.append(("forged", f"{where}: {error}"))
            continue
        origin = origin or copied.origin
        if copied.origin != origin:
            made.faults.append(("forged", f"{where} is of another tree, {copied.origin}"))
        elif made.roots.setdefault(copied.size, (where, copied.root))[1] != copied.root:
            made.faults.append(("forged", f"{where} has another root for as many entries"))
        elif copied.size > max((one.size for one in made.found), default=0):
            made.found[:] = [SealedTree(stream, files, copied, f"{where}: "), *([] if own is None else [own])]
    return made


def salts_of(tree: SealedTree, export: DigestFiles, first: int, count: int) -> Iterator[bytes]:
    """Return the salts of entries: the export's where it has them, for it is of the moment of its rows."""
    salts, bundle = b"", -1
    for index in range(first, first + count):
        if index // WIDTH != bundle:
            bundle = index // WIDTH
            salts = export.salts(tree.stream, bundle) or tree.files.salts(tree.stream, bundle) or b""
        yield salt_in(salts, index)


def _opened(stream: str, note: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    # A key has the name of its tree, and the trees of an installation have the same keys: any one of them will do.
    checkpoint = opened(note, lambda origin: [VerifierKey(origin, key.public) for key in keys])
    if not checkpoint.origin.endswith(f"/{stream.lower()}"):
        raise Diverged(f"the checkpoint is of another stream: {checkpoint.origin}")
    return checkpoint
