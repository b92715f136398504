"""Keeps a tree and its copies outside of the broker equal: each is held against the other before anything is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from services.logs.digests.entries import salts_name
from services.logs.digests.notes import Checkpoint, VerifierKey, checkpoint_of, open_note
from services.logs.digests.storage import TreeBucket, TreeCopy
from services.logs.digests.tree import HASH_BYTES, WIDTH, Edge, Tile, bundled, edge_of, partial_tiles, tiles_between, unbundled

CHECKPOINT = "checkpoint"
Keys = Callable[[str], Sequence[VerifierKey]]


class Diverged(Exception):
    """What is kept of a tree contradicts itself, or its copy: somebody changed one of them."""


def opened(note: bytes, keys: Keys) -> Checkpoint:
    """Return a signed checkpoint; `keys` gives the public keys of an origin. Raises `Diverged` where none of them has signed it."""
    try:
        text = note.decode()
        checkpoint = checkpoint_of(text)
        return checkpoint_of(open_note(text, keys(checkpoint.origin)))
    except ValueError as error:
        raise Diverged(f"the checkpoint is not one of this installation: {error}") from error


def narrowed(tile: Tile, content: bytes) -> bytes:
    """Return of a tile's content, which may be longer, as much as `tile` has. Raises `Diverged` where it is shorter."""
    if tile.level is not None:
        if len(content) < tile.width * HASH_BYTES:
            raise Diverged(f"{tile.path} is cut off")
        return content[: tile.width * HASH_BYTES]
    try:
        entries = unbundled(content)
    except ValueError as error:
        raise Diverged(f"{tile.path}: {error}") from error
    if len(entries) < tile.width:
        raise Diverged(f"{tile.path} is cut off")
    return content if len(entries) == tile.width else bundled(entries[: tile.width])


async def tile_of(read: Callable[[str], Awaitable[bytes | None]], name: str, tile: Tile) -> bytes:
    """Return a tile's content, which is read by `name`. Raises `Diverged` where there is none."""
    content = await read(name)
    if content is None:
        raise Diverged(f"{tile.path} is missing, which the checkpoint names")
    return narrowed(tile, content)


async def edge_at(bucket: TreeBucket, size: int) -> Edge:
    """Return the edge that the tree in the bucket had when it had `size` entries. Raises `Diverged`."""

    async def read(tile: Tile) -> bytes:
        return await tile_of(bucket.get, tile.name, tile)

    return await edge_of(size, read)


async def bring_up(copy: TreeCopy, bucket: TreeBucket, checkpoint: Checkpoint, note: bytes, keys: Keys) -> None:
    """Write to a copy what it lacks of the tree at `checkpoint`, whose `note` comes last.

    Raises `Diverged` where the copy is not an earlier state of the tree: then nothing is written. `Unavailable`.
    """
    found = await copy.get(CHECKPOINT)
    if found == note:
        return
    size = 0
    if found is not None:
        kept = opened(found, keys)
        size = kept.size
        if kept.origin != checkpoint.origin:
            raise Diverged(f"the copy is of another tree: {kept.origin}, not {checkpoint.origin}")
        if size > checkpoint.size:
            raise Diverged(f"the copy has {size} entries, the tree has {checkpoint.size}: its end was cut off")
        if (await edge_at(bucket, size)).root() != kept.root:
            raise Diverged(f"the tree's first {size} entries are not those of its copy")
    for tile in tiles_between(size, checkpoint.size):
        await copy.put(tile.path, await tile_of(bucket.get, tile.name, tile))
    for bundle in range(size // WIDTH, -(-checkpoint.size // WIDTH)):
        salts = await bucket.get(salts_name(bundle))
        if salts is None:
            raise Diverged(f"{salts_name(bundle)} is missing")
        await copy.put(salts_name(bundle), salts)
    await copy.put(CHECKPOINT, note)
    for tile in partial_tiles(size) - partial_tiles(checkpoint.size):
        await copy.remove(tile.path)


async def restore(bucket: TreeBucket, copy: TreeCopy, checkpoint: Checkpoint, note: bytes) -> None:
    """Write a copy's tree into the bucket, which has none. Raises `Diverged`, `Conflict`, `Unavailable`."""
    for tile in tiles_between(0, checkpoint.size):
        await bucket.extend(tile.name, b"", await tile_of(copy.get, tile.path, tile))
    for bundle in range(-(-checkpoint.size // WIDTH)):
        salts = await copy.get(salts_name(bundle))
        if salts is None:
            raise Diverged(f"{salts_name(bundle)} is missing")
        await bucket.replace(salts_name(bundle), None, salts)
    await bucket.replace(CHECKPOINT, None, note)
