"""A Merkle tree as RFC 6962 hashes it, kept in tiles of 256 hashes as C2SP `tlog-tiles` lays them out: pure.

Tile `index` of level `level` holds the hashes of 256 complete subtrees, of 256**level entries each, and its own root is one hash of
the level above. The last tile of each level is partial: together these are the tree's edge, from which it grows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

WIDTH = 256
HASH_BYTES = 32
# The root of a tree without entries (RFC 6962, 2.1).
EMPTY = hashlib.sha256().digest()
_PATH = re.compile(r"tile/(?:(?P<level>[0-9]{1,2})|entries)/(?P<index>(?:x[0-9]{3}/)*[0-9]{3})(?:\.p/(?P<width>[0-9]{1,3}))?")


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry."""
    return hashlib.sha256(b"\x00" + entry).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _complete(hashes: Sequence[bytes]) -> bytes:
    """Return the root of a complete subtree: of 1, 2, 4, … hashes."""
    while len(hashes) > 1:
        hashes = [_node_hash(hashes[at], hashes[at + 1]) for at in range(0, len(hashes), 2)]
    return hashes[0]


class Tile(msgspec.Struct, frozen=True):
    """A tile of a tree, and how many hashes it has there; of level None the bundle of the entries below tile 0 of that index."""

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def name(self) -> str:
        """Return the path of the full tile, as C2SP has it: `tile/0/x001/234`."""
        digits = f"{self.index:03d}"
        digits = digits.rjust(-(-len(digits) // 3) * 3, "0")
        groups = [digits[at : at + 3] for at in range(0, len(digits), 3)]
        return "/".join(
            ["tile", "entries" if self.level is None else str(self.level), *(f"x{one}" for one in groups[:-1]), groups[-1]]
        )

    @property
    def path(self) -> str:
        """Return the path of this tile: a partial one ends in `.p/` and its width."""
        return self.name if self.width == WIDTH else f"{self.name}.p/{self.width}"


def tile_at(path: str) -> Tile | None:
    """Return the tile that a path names; None where it names none."""
    found = _PATH.fullmatch(path)
    if found is None:
        return None
    level = None if found["level"] is None else int(found["level"])
    width = WIDTH if found["width"] is None else int(found["width"])
    tile = Tile(level, int(re.sub("[x/]", "", found["index"])), width)
    return tile if tile.path == path and 0 < width <= WIDTH else None


def tiles_between(old: int, new: int) -> list[Tile]:
    """Return the tiles, bundles of entries first, that differ between trees of `old` and `new` entries, as the latter has them."""
    if new <= old:
        return []
    changed: list[Tile] = []
    level: int | None = None
    while True:
        shift = 8 * (level or 0)
        have, want = old >> shift, new >> shift
        if want == 0:
            return changed
        for index in range(have // WIDTH, -(-want // WIDTH)):
            width = min(WIDTH, want - index * WIDTH)
            if index * WIDTH + width > have:
                changed.append(Tile(level, index, width))
        level = 0 if level is None else level + 1


def partial_tiles(size: int) -> set[Tile]:
    """Return the partial tiles, and the partial bundle, of the tree of `size` entries."""
    levels = ((level, size >> (8 * level)) for level in range(size.bit_length() // 8 + 1))
    tiles = {Tile(level, count // WIDTH, count % WIDTH) for level, count in levels if count % WIDTH}
    return tiles | ({Tile(None, size // WIDTH, size % WIDTH)} if size % WIDTH else set())


class Edge:
    """The right edge of a tree of `size` entries: of each level the hashes of its last, partial tile."""

    def __init__(self, size: int = 0, levels: Iterable[Sequence[bytes]] = ()) -> None:
        self.size = size
        self._levels = [list(level) for level in levels]

    def grow(self, leaves: Iterable[bytes]) -> dict[Tile, bytes]:
        """Add the hashes of entries; return the tiles of hashes that this changed, as they are afterwards."""
        old, full = self.size, {}
        for leaf in leaves:
            added, level = leaf, 0
            self.size += 1
            while True:
                if level == len(self._levels):
                    self._levels.append([])
                hashes = self._levels[level]
                hashes.append(added)
                if len(hashes) < WIDTH:
                    break
                full[level, (self.size >> (8 * (level + 1))) - 1] = b"".join(hashes)
                added = _complete(hashes)
                hashes.clear()
                level += 1
        changed = (one for one in tiles_between(old, self.size) if one.level is not None)
        return {one: full.get((one.level or 0, one.index)) or b"".join(self._levels[one.level or 0]) for one in changed}

    def root(self) -> bytes:
        """Return the tree's root."""
        roots: list[bytes] = []
        for hashes in reversed(self._levels):
            at = 0
            for bit in range(7, -1, -1):
                if len(hashes) & (1 << bit):
                    roots.append(_complete(hashes[at : at + (1 << bit)]))
                    at += 1 << bit
        if not roots:
            return EMPTY
        root = roots.pop()
        for one in reversed(roots):
            root = _node_hash(one, root)
        return root


async def edge_of(size: int, read: Callable[[Tile], Awaitable[bytes]]) -> Edge:
    """Return the edge of the tree of `size` entries; `read` returns at least as many hashes of a tile as it has in that tree."""
    levels: list[list[bytes]] = []
    level = 0
    while size >> (8 * level):
        width = (size >> (8 * level)) % WIDTH
        content = await read(Tile(level, size >> (8 * (level + 1)), width)) if width else b""
        levels.append(hashes_of(content)[:width])
        level += 1
    return Edge(size, levels)


def hashes_of(tile: bytes) -> list[bytes]:
    """Return the hashes that a tile holds."""
    return [tile[at : at + HASH_BYTES] for at in range(0, len(tile), HASH_BYTES)]


def bundled(entries: Iterable[bytes]) -> bytes:
    """Return entries, of at most 65,535 bytes each, as a bundle holds them: each after its length in two bytes."""
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def unbundled(bundle: bytes) -> list[bytes]:
    """Return the entries of a bundle. Raises ValueError where it ends within one."""
    entries: list[bytes] = []
    at = 0
    while at < len(bundle):
        size = int.from_bytes(bundle[at : at + 2], "big")
        entry = bundle[at + 2 : at + 2 + size]
        if len(bundle) - at < 2 or len(entry) < size:
            raise ValueError(f"the bundle ends within its entry {len(entries)}")
        entries.append(entry)
        at += 2 + size
    return entries
