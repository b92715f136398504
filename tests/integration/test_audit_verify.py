"""Whoever is superuser of the database changes the archive: the verification of an export names what was done."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asyncpg
import msgspec
import pytest

from deploy.audit.export import LIST, ROWS, DigestFiles, Export
from deploy.audit.verify import Finding, Stream
from services.logs.digests import keeping
from services.logs.digests.answers import DigestDeps
from services.logs.digests.copies import CHECKPOINT
from services.logs.digests.keeping import Digests, sealers
from services.logs.digests.notes import verifier_key
from services.logs.digests.sealing import seeds
from services.logs.digests.tree import WIDTH, Tile
from services.logs.questions import QUESTIONS
from shared.db import open_engine
from shared.envelope import new_id, rfc3339, utc_now
from shared.health import Health
from shared.messages import Audited, LineChunk, Lines, RunRequested
from shared.questions.digests import DigestList, ListDigests, ReadArchivedRows, ReadDigestFile, RowKey
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place

MESSAGES = 300
KEYS = seeds((b"k" * 32,))


class Sealed:
    """An archive of some messages of runs, sealed, with a copy of its digests in `copy`; `sql` is the superuser's connection."""

    def __init__(self, deps: DigestDeps, sql: Any, copy: Path) -> None:
        self.deps = deps
        self.sql = sql
        self.copy = copy

    async def export(self, folder: Path) -> Export:
        """Write an export as the command does."""
        listed = await QUESTIONS[ListDigests](ListDigests(org="global"), self.deps)
        for one in listed.items:
            place = folder / one.stream.lower()
            place.mkdir(parents=True, exist_ok=True)
            for path in _paths(one.size) if one.checkpoint else []:
                part = await QUESTIONS[ReadDigestFile](ReadDigestFile(org="global", stream=one.stream, path=path), self.deps)
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                (place / path).write_bytes(part.content)
            after: RowKey | None = None
            with gzip.open(place / ROWS, "wb") as file:
                while True:
                    page = await QUESTIONS[ReadArchivedRows](
                        ReadArchivedRows(org="global", stream=one.stream, after=after), self.deps
                    )
                    for row in page.items:
                        assert row.size == len(row.document)
                        file.write(msgspec.json.encode(row) + b"\n")
                        after = RowKey(row.incarnation, row.seq, row.time)
                    if not page.more:
                        break
        (folder / LIST).write_bytes(msgspec.json.encode(listed))
        return Export(folder)

    async def findings(self, folder: Path, stream: str = "RUNS", *, copies: bool = True) -> list[Finding]:
        """Export and verify a stream."""
        export = await self.export(folder)
        keys = [verifier_key(key) for key in export.keys]
        return list(Stream(stream, export, keys=keys, copies=[self.copy] if copies else []).findings())


def _paths(size: int) -> list[str]:
    partial = f".p/{size % WIDTH}" if size % WIDTH else ""
    last = size // WIDTH
    paths = [f"{kind}/{index:03d}" for index in range(last) for kind in ("tile/0", "tile/entries")]
    paths += [f"{kind}/{last:03d}{partial}" for kind in ("tile/0", "tile/entries") if partial]
    paths += [f"tile/1/000.p/{last}"] if last else []
    return [CHECKPOINT, *(f"salts/{bundle}" for bundle in range(-(-size // WIDTH))), *paths]


async def archive_some(place: Place) -> None:
    async with running(place, "logs"), bus_of(place, "executor") as bus:
        run = new_id()
        for number in range(MESSAGES):
            data = {"number": number, "float": 1e20 + number / 3, "text": f"ü{number}"}
            requested = RunRequested(
                run=new_id() if number else run, workflow=f"w{number}", version="v", input=data, requested_by="t", timeout=60.0
            )
            await bus.publish(bus.seal(requested, org="acme"))
        lines = [Lines(time="2026-01-02T03:04:05Z", level="info", message=f"line {number}") for number in range(3)]
        await bus.publish(bus.seal(LineChunk(run=run, workflow="w", attempt=1, chunk=1, lines=lines), org="acme"))
        own = await asyncpg.connect(place.database_url("logs"))

        async def archived() -> bool:
            count = await own.fetchval("SELECT count(*) FROM message WHERE stream IN ('RUNS', 'LINES')")
            return bool(count == MESSAGES + 4)

        await eventually(archived)
        await own.close()


@asynccontextmanager
async def sealed(place: Place, copy: Path) -> AsyncIterator[Sealed]:
    with pytest.MonkeyPatch.context() as patched:
        # Sealed is here alone, with keys of the tests' own, however long the service runs.
        patched.setattr(keeping, "FIRST", 600.0)
        await archive_some(place)
        engine = open_engine(place.database_url("logs"), service="logs", pool_size=2)
        superuser = await asyncpg.connect(place.database_url("admin"), server_settings={"search_path": "logs"})
        try:
            async with bus_of(place, "logs") as bus:
                digests = Digests(sealers(bus.client, engine, KEYS, [copy.as_uri()]), Health("logs"))
                assert await digests.seal() >= MESSAGES + 1
                yield Sealed(SimpleNamespace(engine=engine, digests=digests, now=utc_now), superuser, copy)
        finally:
            await superuser.close()
            await engine.dispose()


CHANGES: dict[str, tuple[str, list[tuple[str, int]]]] = {
    "a document is changed": (
        "UPDATE message SET document = document || ' ' WHERE stream = 'RUNS' AND seq = 7",
        [("changed", 7)],
    ),
    "what is searched is changed, beside the document": (
        "UPDATE message SET org = 'globex', data = '{}' WHERE stream = 'RUNS' AND seq = 7",
        [("changed", 7)],
    ),
    "a row is deleted": ("DELETE FROM message WHERE stream = 'RUNS' AND seq = 9", [("missing", 9)]),
    "the newest rows are deleted": ("DELETE FROM message WHERE stream = 'RUNS' AND seq > 290", [("missing", 291)]),
    "all rows are deleted": ("DELETE FROM message WHERE stream = 'RUNS'", [("missing", 1)]),
    "a row is put in between": (
        (
            "DELETE FROM message WHERE stream = 'RUNS' AND seq = 12; "
            "CREATE TEMPORARY TABLE made AS SELECT * FROM message WHERE stream = 'RUNS' AND seq = 13;"
            "UPDATE made SET seq = 12; INSERT INTO message SELECT * FROM made; DROP TABLE made"
        ),
        [("changed", 12)],
    ),
    "a row is put in beside another": (
        (
            "CREATE TEMPORARY TABLE made AS SELECT * FROM message WHERE stream = 'RUNS' AND seq = 20;"
            "UPDATE made SET time = time + interval '1 second'; INSERT INTO message SELECT * FROM made; DROP TABLE made"
        ),
        [("inserted", 20)],
    ),
    "a row is put in that is older than the digest": (
        (
            "CREATE TEMPORARY TABLE made AS SELECT * FROM message WHERE stream = 'RUNS' AND seq = 20;"
            "UPDATE made SET seq = 100000; INSERT INTO message SELECT * FROM made; DROP TABLE made"
        ),
        [("inserted", 100000)],
    ),
    "two rows change their places": (
        "UPDATE message SET seq = CASE seq WHEN 30 THEN 31 ELSE 30 END WHERE stream = 'RUNS' AND seq IN (30, 31)",
        [("changed", 30), ("changed", 31)],
    ),
    "a row is moved to another stream": (
        "UPDATE message SET stream = 'LOGS' WHERE stream = 'RUNS' AND seq = 40",
        [("missing", 40)],
    ),
    "a row is moved in time": (
        "UPDATE message SET time = time - interval '1 second' WHERE stream = 'RUNS' AND seq = 41",
        [("changed", 41)],
    ),
    "a partition is dropped": (
        (
            "DO $$ DECLARE name text; BEGIN FOR name IN SELECT inhrelid::regclass FROM pg_inherits"
            " WHERE inhparent = 'message'::regclass LOOP EXECUTE 'TRUNCATE ' || name; END LOOP; END $$"
        ),
        [("missing", 1)],
    ),
}


async def test_each_way_to_change_the_archive_is_named(place: Place, data: Path) -> None:
    async with sealed(place, data / "copy") as archive:
        assert await archive.findings(data / "before") == []
        assert await archive.findings(data / "before", "LINES") == []
        await archive.sql.execute("CREATE TABLE saved AS TABLE message")
        for number, (name, (statement, expected)) in enumerate(CHANGES.items()):
            await archive.sql.execute(statement)
            found = await archive.findings(data / str(number))
            assert [(one.kind, one.seq) for one in found] == expected, (name, found)
            await archive.sql.execute("TRUNCATE message; INSERT INTO message SELECT * FROM saved")
        assert await archive.findings(data / "after") == []


LINE_CHANGES: dict[str, tuple[str, str]] = {
    "UPDATE message SET message = 'another' WHERE line = 2": ("changed", "message"),
    "UPDATE message SET data = jsonb_set(data, '{attempt}', '7') WHERE line = 2": ("changed", "data"),
    "DELETE FROM message WHERE line = 3": ("missing", "the line 3"),
    "UPDATE message SET line = 9 WHERE line = 3": ("inserted", "the line 9"),
}


async def test_lines_are_held_against_the_message_that_holds_them(place: Place, data: Path) -> None:
    async with sealed(place, data / "copy") as archive:
        await archive.sql.execute("CREATE TABLE saved AS TABLE message")
        for number, (statement, (kind, detail)) in enumerate(LINE_CHANGES.items()):
            await archive.sql.execute(statement)
            first, *_ = await archive.findings(data / str(number), "LINES")
            assert (first.kind, first.seq) == (kind, 1)
            assert detail in first.detail
            await archive.sql.execute("TRUNCATE message; INSERT INTO message SELECT * FROM saved")


async def test_a_digest_that_was_changed_is_named(place: Place, data: Path) -> None:
    async with sealed(place, data / "copy") as archive:
        folder = data / "export"
        await archive.export(folder)

        def found(name: str, content: bytes | None) -> list[Finding]:
            file = folder / "runs" / name
            kept = file.read_bytes()
            if content is None:
                file.unlink()
            else:
                file.write_bytes(content)
            export = Export(folder)
            keys = [verifier_key(key) for key in export.keys]
            made = list(Stream("RUNS", export, keys=keys, copies=[archive.copy]).findings())
            file.write_bytes(kept)
            return made

        runs = folder / "runs"
        note = (runs / CHECKPOINT).read_text()
        bundle = (runs / "tile/entries/000").read_bytes()
        tile = (runs / "tile/0/000").read_bytes()
        assert found(CHECKPOINT, note.encode()) == []
        (forged,) = found(CHECKPOINT, note.replace("\n300\n", "\n299\n").encode())
        assert (forged.kind, "wrong" in forged.detail) == ("forged", True)
        (forged,) = found(CHECKPOINT, note.replace("— ", "— somebody/").encode())
        assert "none of the known keys" in forged.detail
        broken = found("tile/entries/000", bundle.replace(b'"seq":7,', b'"seq":8,'))
        assert ("digest", "its first 300 entries do not have the root that the checkpoint names") in [
            (one.kind, one.detail) for one in broken
        ]
        (broken_tile, *_) = found("tile/0/000", tile[:-1] + bytes([tile[-1] ^ 1]))
        assert (broken_tile.kind, "tile/0/000" in broken_tile.detail) == ("tile", True)
        (missing,) = found("tile/entries/000", None)
        assert (missing.kind, "missing" in missing.detail) == ("digest", True)


async def test_a_copy_that_has_grown_is_what_rows_are_held_against(place: Place, data: Path) -> None:
    async with sealed(place, data / "copy") as archive:
        early = data / "early"
        keys = [verifier_key(key) for key in (await archive.export(early)).keys]
        async with running(place, "logs"), bus_of(place, "executor") as bus:
            await bus.publish(
                bus.seal(RunRequested(run=new_id(), workflow="w", version="v", input={}, requested_by="t", timeout=1.0), org="acme")
            )

            async def more() -> bool:
                return bool(await archive.sql.fetchval("SELECT count(*) FROM message WHERE stream = 'RUNS'") == MESSAGES + 1)

            await eventually(more)
        await archive.deps.digests.seal()
        assert await archive.findings(data / "now") == []

        def verified(moment: str | None, copy: Path = archive.copy) -> tuple[Stream, list[tuple[str, int | None]]]:
            listed = msgspec.json.decode((early / LIST).read_bytes(), type=DigestList)
            (early / LIST).write_bytes(msgspec.json.encode(msgspec.structs.replace(listed, time=moment)))
            stream = Stream("RUNS", Export(early), keys=keys, copies=[copy])
            return stream, [(one.kind, one.seq) for one in stream.findings()]

        cut = [("cut off", None), ("missing", MESSAGES + 1)]
        stream, found = verified(rfc3339(utc_now()))
        assert (found, stream.counts.later, stream.counts.entries) == ([], 1, MESSAGES + 1)
        # What was stored long before the export had to be in it; one that says no moment had to have all.
        assert verified(rfc3339(utc_now() + timedelta(hours=1)))[1] == cut
        assert verified(None)[1] == cut
        # A copy without its entries is named, and the rows are held against the export's digest.
        damaged = Path(shutil.copytree(archive.copy, data / "damaged"))
        (damaged / "runs" / "tile" / "entries" / "000").unlink()
        stream, found = verified(rfc3339(utc_now()), damaged)
        assert (found, stream.counts.entries, stream.counts.rows) == ([("digest", None)], MESSAGES, MESSAGES)
        # An earlier copy is a part of what came of it.
        assert list(Stream("RUNS", Export(data / "now"), keys=keys, copies=[early]).findings()) == []
        # Nor does a digest that is not there at all hide what was sealed.
        (early / "runs" / CHECKPOINT).unlink()
        stream, found = verified(rfc3339(utc_now()))
        assert (found, stream.counts.later, stream.counts.rows) == ([], 1, MESSAGES)
        assert verified(None)[1] == cut


def test_a_tile_of_a_copy_that_grows_meanwhile_is_a_part_of_a_wider_one(data: Path) -> None:
    place = data / "runs" / "tile" / "0"
    (place / "000.p").mkdir(parents=True)
    files = DigestFiles(data)
    assert files.tile("RUNS", Tile(0, 0, 2)) is None
    (place / "000.p" / "3").write_bytes(b"a" * 32 + b"b" * 32 + b"c" * 32)
    assert files.tile("RUNS", Tile(0, 0, 2)) == b"a" * 32 + b"b" * 32
    assert files.tile("RUNS", Tile(0, 0, 4)) is None
    (place / "000").write_bytes(b"a" * 32 * WIDTH)
    assert files.tile("RUNS", Tile(0, 0, 2)) == b"a" * 64


async def test_an_erased_message_keeps_the_chain(place: Place, data: Path) -> None:
    async with sealed(place, data / "copy") as archive:
        bucket = archive.deps.digests.of("RUNS").bucket
        salts = await bucket.get("salts/0")
        assert salts is not None
        assert await bucket.replace("salts/0", salts, salts[: 6 * 16] + bytes(16) + salts[7 * 16 :])
        await archive.sql.execute(
            "UPDATE message SET document = '', data = NULL, message = '', tsv = '' WHERE stream = 'RUNS' AND seq = 7"
        )
        assert await archive.findings(data / "export") == []
        await archive.sql.execute("UPDATE message SET document = 'another' WHERE stream = 'RUNS' AND seq = 7")
        (changed,) = await archive.findings(data / "again")
        assert (changed.kind, changed.seq) == ("changed", 7)


async def test_no_message_of_the_audit_trail_passes_for_erased(place: Place, data: Path) -> None:
    async with sealed(place, data / "copy") as archive, bus_of(place, "gateway") as own:
        said = Audited(category="key", verb="create", actor="key:ops", target="ci", outcome="ok")
        await own.publish(own.seal(said, org="acme"))

        async def archived() -> bool:
            return bool(await archive.sql.fetchval("SELECT count(*) FROM message WHERE stream = 'AUDIT'"))

        async with running(place, "logs"):
            await eventually(archived)
        await archive.deps.digests.seal()
        bucket = archive.deps.digests.of("AUDIT").bucket
        salts = await bucket.get("salts/0")
        assert salts is not None
        assert await bucket.replace("salts/0", salts, bytes(len(salts)))
        await archive.sql.execute("UPDATE message SET document = '', data = NULL, message = '', tsv = '' WHERE stream = 'AUDIT'")
        (changed,) = await archive.findings(data / "export", "AUDIT")
        assert (changed.kind, changed.seq) == ("changed", 1)


@pytest.mark.parametrize("content", [b"", b"{", b'{"items": 3}'])
def test_a_folder_that_is_no_export_is_named(data: Path, content: bytes) -> None:
    (data / LIST).write_bytes(content)
    with pytest.raises(Exception, match="damaged"):
        Export(data)
