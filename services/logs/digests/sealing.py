"""Seals what the archive holds: of each stream, its new rows become entries of its tree, and the tree a signed checkpoint.

Everything that a checkpoint names is written before it, and the checkpoint only by one who knows the one before: a writer that was
killed, or stood still while another took over, leaves at most files that no checkpoint names. Salts are drawn once for each bundle,
so that the same rows make the same files whoever writes them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Sequence

import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nats.aio.client import Client
from sqlalchemy.ext.asyncio import AsyncEngine

from services.logs import store
from services.logs.digests.copies import CHECKPOINT, Diverged, bring_up, edge_at, opened, restore, tile_of
from services.logs.digests.entries import SALT_BYTES, TreeEntry, entry_of, read_entry, salt_in, salts_name
from services.logs.digests.notes import Checkpoint, Signer, VerifierKey, sign
from services.logs.digests.storage import TreeBucket, TreeCopy
from services.logs.digests.tree import EMPTY, HASH_BYTES, WIDTH, Edge, Tile, bundled, leaf_hash, unbundled
from services.logs.domain import Digested
from shared.db import transaction
from shared.errors import Conflict, Unavailable

# Rows that become entries together; of each the database gives a hash.
TOGETHER = 4096

_log = structlog.get_logger()


def seeds(keys: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the seeds of signing keys, one for each key of the installation, the first being the newest.

    Every key signs for as long as it is one: who knows only an older public key can verify while a new one is brought in.
    """
    return tuple(HKDF(SHA256(), 32, salt=None, info=b"millrace audit digests").derive(key) for key in keys)


class _Tree:
    """A tree at its checkpoint, with what it takes to grow; `note` is the checkpoint as it is kept, None where there is none yet.

    `partial` are the entries of its last bundle, where that is not complete; `last` is its last entry.
    """

    def __init__(
        self, note: bytes | None, checkpoint: Checkpoint, edge: Edge, partial: list[bytes], last: TreeEntry | None
    ) -> None:
        self.note = note
        self.checkpoint = checkpoint
        self.edge = edge
        self.partial = partial
        self.last = last


class Sealer:
    """Seals one stream."""

    def __init__(self, stream: str, *, client: Client, engine: AsyncEngine, seeds: Sequence[bytes], copies: Sequence[str]) -> None:
        """Seal `stream` with the keys of `seeds`, and keep copies below the URLs `copies`."""
        self.stream = stream
        self.bucket = TreeBucket(client, stream)
        self._engine = engine
        self._seeds = seeds
        self.copies = [TreeCopy(url, stream) for url in copies]
        self._tree: _Tree | None = None

    async def seal(self) -> int:
        """Make entries of at most `TOGETHER` rows that have none, and return of how many.

        Raises `Unavailable`, also where only a copy could not be written; `Diverged` where what is kept contradicts itself or a
        copy: then nothing is written any more.
        """
        async with self.alone():
            return await self._seal()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let nobody else write copies of this tree for the block: what a copy is given was read before. Raises `Unavailable`."""
        async with transaction(self._engine) as connection:
            await store.claim_copies(connection, self.stream)
            yield

    async def _seal(self) -> int:
        # Forgotten until all is written: what is there is then read again.
        tree, self._tree = self._tree, None
        if tree is None:
            tree = await self._load()
            with contextlib.suppress(Unavailable):
                await self._bring_up_copies(tree)
        async with transaction(self._engine) as connection:
            last = None if tree.last is None else (tree.last.incarnation, tree.last.seq)
            rows = await store.unsealed(connection, self.stream, last, TOGETHER)
        if rows:
            try:
                await self._grow(tree, rows)
            except Conflict as error:
                raise Diverged(error.detail) from error
        self._tree = tree
        await self._bring_up_copies(tree)
        return len(rows)

    @property
    def size(self) -> int:
        """Return the number of entries of the tree as this process knows it."""
        return 0 if self._tree is None else self._tree.edge.size

    def keys(self, origin: str) -> list[VerifierKey]:
        """Return the public keys under which the checkpoints of `origin` are signed, the newest first."""
        return [Signer(origin, seed).verifier for seed in self._seeds]

    async def _bring_up_copies(self, tree: _Tree) -> None:
        if tree.note is not None:
            for copy in self.copies:
                await bring_up(copy, self.bucket, tree.checkpoint, tree.note, self.keys)

    async def _grow(self, tree: _Tree, rows: Sequence[Digested]) -> None:
        old = tree.edge.size
        encoded: list[bytes] = []
        salts = await self._salts(old // WIDTH)
        for index, row in enumerate(rows, start=old):
            if index % WIDTH == 0 and index > old:
                salts = await self._salts(index // WIDTH)
            tree.last = entry_of(row, salt_in(salts, index))
            encoded.append(tree.last.encoded())
        await self._write_entries(tree, encoded)
        for tile, content in tree.edge.grow(map(leaf_hash, encoded)).items():
            had = max(0, min(WIDTH, (old >> (8 * (tile.level or 0))) - tile.index * WIDTH))
            await self.bucket.extend(tile.name, content[: had * HASH_BYTES], content)
        origin = tree.checkpoint.origin
        tree.checkpoint = Checkpoint(origin, tree.edge.size, tree.edge.root())
        note = sign(str(tree.checkpoint), [Signer(origin, seed) for seed in self._seeds]).encode()
        if not await self.bucket.replace(CHECKPOINT, tree.note, note):
            raise Conflict("another one has written the checkpoint")
        tree.note = note

    async def _write_entries(self, tree: _Tree, encoded: Sequence[bytes]) -> None:
        first, kept = tree.edge.size // WIDTH, len(tree.partial)
        entries = [*tree.partial, *encoded]
        for start in range(0, len(entries), WIDTH):
            bundle = entries[start : start + WIDTH]
            before = bundled(bundle[:kept] if start == 0 else [])
            await self.bucket.extend(Tile(None, first + start // WIDTH).name, before, bundled(bundle))
        tree.partial = entries[len(entries) // WIDTH * WIDTH :]

    async def _salts(self, bundle: int) -> bytes:
        name = salts_name(bundle)
        kept = await self.bucket.get(name)
        if kept is not None:
            return kept
        drawn = os.urandom(WIDTH * SALT_BYTES)
        return drawn if await self.bucket.replace(name, None, drawn) else await self._salts(bundle)

    async def _load(self) -> _Tree:
        """Read the tree; where the broker has none, from the first copy that has one."""
        note = await self.bucket.get(CHECKPOINT) or await self._restored()
        if note is None:
            origin = f"millrace/{secrets.token_hex(8)}/{self.stream.lower()}"
            return _Tree(None, Checkpoint(origin, 0, EMPTY), Edge(), [], None)
        checkpoint = opened(note, self.keys)
        edge = await edge_at(self.bucket, checkpoint.size)
        if edge.root() != checkpoint.root:
            raise Diverged("the tree does not have the root that its checkpoint names")
        if checkpoint.size == 0:
            return _Tree(note, checkpoint, edge, [], None)
        index = checkpoint.size - 1
        last_bundle = Tile(None, index // WIDTH, index % WIDTH + 1)
        entries = unbundled(await tile_of(self.bucket.get, last_bundle.name, last_bundle))
        try:
            last = read_entry(entries[-1])
        except ValueError as error:
            raise Diverged(f"the entry {index} cannot be read") from error
        return _Tree(note, checkpoint, edge, entries if len(entries) < WIDTH else [], last)

    async def _restored(self) -> bytes | None:
        for copy in self.copies:
            note = await copy.get(CHECKPOINT)
            if note is not None:
                checkpoint = opened(note, self.keys)
                try:
                    await restore(self.bucket, copy, checkpoint, note)
                except Conflict as error:
                    raise Diverged(error.detail) from error
                _log.warning("digests.restored", stream=self.stream, size=checkpoint.size)
                return note
        return None
