"""Merkle trees in tiles and signed notes, held to the vectors of their specifications and to the definitions."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.logs.digests.notes import (
    Checkpoint,
    Signer,
    Unverified,
    checkpoint_of,
    open_note,
    sign,
    verifier_key,
)
from services.logs.digests.tree import (
    WIDTH,
    Edge,
    Tile,
    bundled,
    edge_of,
    hashes_of,
    leaf_hash,
    partial_tiles,
    tile_at,
    tiles_between,
    unbundled,
)

# The entries and roots of the tests of Certificate Transparency (RFC 6962).
ENTRIES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize("size", ROOTS)
def test_the_published_roots(size: int) -> None:
    edge = Edge()
    edge.grow(leaf_hash(bytes.fromhex(entry)) for entry in ENTRIES[:size])
    assert edge.root().hex() == ROOTS[size]


def test_the_tree_of_nothing_has_the_root_of_nothing() -> None:
    assert Edge().root() == hashlib.sha256().digest()


def defined(leaves: list[bytes]) -> bytes:
    """Return the root as RFC 6962, 2.1 defines it."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return hashlib.sha256(b"\x01" + defined(leaves[:split]) + defined(leaves[split:])).digest()


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(size)]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=5), st.data())
async def test_a_tree_that_grows_in_steps_has_the_defined_root_at_each_size_and_can_be_taken_up_from_its_tiles(
    steps: list[int], data: st.DataObject
) -> None:
    leaves = leaves_of(sum(steps))
    kept: dict[tuple[int | None, int], bytes] = {}
    edge, size = Edge(), 0
    for step in steps:
        grown = edge.grow(leaves[size : size + step])
        assert list(grown) == [tile for tile in tiles_between(size, size + step) if tile.level is not None]
        size += step
        for tile, content in grown.items():
            assert len(content) == 32 * tile.width
            kept[tile.level, tile.index] = content
        assert edge.root() == defined(leaves[:size])

    async def read(tile: Tile) -> bytes:
        return kept[tile.level, tile.index]

    past = data.draw(st.integers(1, size))
    again = await edge_of(past, read)
    assert (again.size, again.root()) == (past, defined(leaves[:past]))
    again.grow(leaves[past:])
    assert again.root() == edge.root()


def test_a_tree_of_three_levels_keeps_the_roots_of_full_tiles_above() -> None:
    size = WIDTH * WIDTH + WIDTH + 1
    leaves = leaves_of(size)
    kept = Edge().grow(leaves)
    assert kept[Tile(2, 0, 1)] == defined(leaves[: WIDTH * WIDTH])
    assert hashes_of(kept[Tile(1, 1, 1)]) == [defined(leaves[WIDTH * WIDTH : -1])]
    assert kept[Tile(0, 257, 1)] == leaves[-1]
    assert len(kept[Tile(1, 0)]) == 32 * WIDTH


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(1, 273, 112), "tile/1/273.p/112"),
        (Tile(None, 1000, 1), "tile/entries/x001/000.p/1"),
    ],
)
def test_paths_of_tiles(tile: Tile, path: str) -> None:
    assert tile.path == path
    assert tile_at(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "tile/0/1",
        "tile/0/x000/001",
        "tile/0/001.p/256",
        "tile/0/001.p/0",
        "tile/00/001",
        "tile/0/../001",
        "checkpoint",
        "tile/0/001.p/01",
    ],
)
def test_what_names_no_tile(path: str) -> None:
    assert tile_at(path) is None


@given(st.integers(0, 2**20))
def test_partial_tiles_are_those_of_the_whole_tree(size: int) -> None:
    assert partial_tiles(size) == {tile for tile in tiles_between(0, size) if tile.width < WIDTH}


def test_bundles_hold_their_entries() -> None:
    entries = [b"", b"one", b"x" * 65535]
    assert unbundled(bundled(entries)) == entries
    for cut in (1, 3, 70000):
        with pytest.raises(ValueError, match="ends within its entry"):
            unbundled(bundled([b"one", *entries])[:cut] if cut < 70000 else bundled(entries)[:-1])


# The example of Go's package golang.org/x/mod/sumdb/note.
VERIFIER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
NOTE = f"{TEXT}\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"


def test_the_published_note_opens_with_its_key() -> None:
    key = verifier_key(VERIFIER)
    assert str(key) == VERIFIER
    assert open_note(NOTE, [key]) == TEXT
    with pytest.raises(Unverified, match="wrong"):
        open_note(NOTE.replace("answer", "reason"), [key])


def test_a_checkpoint_is_signed_by_every_key_and_read_with_any() -> None:
    checkpoint = Checkpoint("millrace/1/audit", 12, hashlib.sha256(b"root").digest())
    old, new, other = (Signer("millrace/1/audit", bytes([number]) * 32) for number in (1, 2, 3))
    note = sign(str(checkpoint), [new, old])
    for signer in (old, new):
        assert checkpoint_of(open_note(note, [signer.verifier])) == checkpoint
    with pytest.raises(Unverified, match="none of the known keys"):
        open_note(note, [other.verifier])
    witnessed = note + other.line(str(checkpoint))
    assert checkpoint_of(open_note(witnessed, [other.verifier])) == checkpoint


@pytest.mark.parametrize(
    "text", ["", "\n", "a+b", "name+00000000+AQ==", VERIFIER.replace("c74f20a3", "c74f20a4"), "a b" + VERIFIER]
)
def test_what_is_no_verifier_key(text: str) -> None:
    with pytest.raises(Unverified, match="no verifier key"):
        verifier_key(text)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.text(alphabet="— aA=\n+1")))
def test_rubbish_is_unverified_and_nothing_else(text: str) -> None:
    for read in (lambda: open_note(text, [verifier_key(VERIFIER)]), lambda: checkpoint_of(text)):
        with pytest.raises(Unverified):
            read()
