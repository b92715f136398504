"""Forgets salts: without its salt an entry of a tree tells nothing of its message, and the tree stays as it is."""

from __future__ import annotations

from collections.abc import Collection

from services.logs.digests.copies import CHECKPOINT, Diverged, opened, tile_of
from services.logs.digests.entries import NO_SALT, SALT_BYTES, TreeEntry, read_entry, salts_name
from services.logs.digests.sealing import Sealer
from services.logs.digests.tree import WIDTH, Tile, unbundled
from shared.errors import Unavailable


class EntryFinder:
    """The entries of a stream's tree, as far as they are looked at."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer
        self._bundles: dict[int, list[TreeEntry]] = {}
        self._size: int | None = None

    async def index(self, incarnation: str, seq: int, time: int) -> int | None:
        """Return the index of a message's entry, None where it has none yet; `time` is that of its storage, in microseconds.

        Raises `Unavailable`, also where the tree cannot be read.
        """
        try:
            low, high = 0, -(-await self._read_size() // WIDTH)
            # The last bundle that does not begin after the message: of its incarnation by sequence, of another one by time.
            while low < high:
                middle = (low + high) // 2
                first = (await self._bundle(middle))[0]
                if (first.seq <= seq) if first.incarnation == incarnation else (first.time <= time):
                    low = middle + 1
                else:
                    high = middle
            if low == 0:
                return None
            entries = await self._bundle(low - 1)
        except Diverged as error:
            raise Unavailable(f"the digest of {self._sealer.stream} cannot be read: {error}") from error
        return next(
            ((low - 1) * WIDTH + at for at, one in enumerate(entries) if (one.incarnation, one.seq) == (incarnation, seq)), None
        )

    async def _read_size(self) -> int:
        if self._size is None:
            note = await self._sealer.bucket.get(CHECKPOINT)
            self._size = 0 if note is None else opened(note, self._sealer.keys).size
        return self._size

    async def _bundle(self, index: int) -> list[TreeEntry]:
        if index not in self._bundles:
            tile = Tile(None, index, min(WIDTH, await self._read_size() - index * WIDTH))
            content = await tile_of(self._sealer.bucket.get, tile.name, tile)
            self._bundles[index] = [read_entry(one) for one in unbundled(content)]
        return self._bundles[index]


async def forget(sealer: Sealer, indexes: Collection[int]) -> None:
    """Forget the salts of entries in the bucket. Raises `Unavailable`."""
    for bundle, within in _by_bundle(indexes).items():
        name = salts_name(bundle)
        while (kept := await sealer.bucket.get(name)) is not None and kept != (without := _without(kept, within)):
            # Nobody else changes salts, but another replica may be at the same.
            await sealer.bucket.replace(name, kept, without)


async def forget_in_copies(sealer: Sealer, indexes: Collection[int]) -> None:
    """Forget the salts of entries in every copy. Raises `Unavailable`."""
    async with sealer.alone():
        for bundle, within in _by_bundle(indexes).items():
            name = salts_name(bundle)
            for copy in sealer.copies:
                kept = await copy.get(name)
                if kept is not None and kept != (without := _without(kept, within)):
                    await copy.put(name, without)


def _by_bundle(indexes: Collection[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for index in sorted(indexes):
        found.setdefault(index // WIDTH, []).append(index % WIDTH)
    return found


def _without(salts: bytes, within: Collection[int]) -> bytes:
    made = bytearray(salts)
    for at in within:
        made[at * SALT_BYTES : (at + 1) * SALT_BYTES] = NO_SALT
    return bytes(made)
