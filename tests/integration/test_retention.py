"""What the archive is not to keep is hidden at once, recorded, and then removed; the verification takes it for that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.audit.verify import Stream, recorded
from services.gateway.api.application import ENDPOINTS
from services.logs import partitions
from services.logs.digests.notes import verifier_key
from services.logs.limits import Limit, hiding, limits_at, ranges_of
from services.logs.questions import QUESTIONS
from services.logs.retention import Removals
from services.logs.scope import ArchiveDeps
from shared.bus import Bus
from shared.db import open_engine
from shared.envelope import rfc3339, utc_now
from shared.errors import Invalid
from shared.health import Health
from shared.messages import Audited
from shared.questions import Page
from shared.questions.logs import ReadChain, Search
from shared.registry import RegistryView
from shared.resources.retention import Retention as Spec
from shared.resources.retention import RetentionEntry
from tests.integration.test_audit_verify import MESSAGES, Sealed, sealed
from tests.integration.test_gateway import gateway
from tests.support.inside import bus_of, eventually, running
from tests.support.resources import putting
from tests.support.servers import Place

NOW = datetime(2026, 11, 10, tzinfo=UTC)
LATER = timedelta(days=31)


def entry(org: str, stream: Any, days: int) -> RetentionEntry:
    return RetentionEntry(
        id=f"{org}-{stream}",
        org=org,
        key="",
        name=stream,
        spec=Spec(stream=stream, days=days),
        created_at="",
        updated_at="",
        version=1,
    )


def test_an_organizations_own_retention_comes_before_the_platforms_and_that_before_the_default() -> None:
    found = limits_at(
        NOW, [entry("acme", "LOGS", 14), entry("acme", "LOGS", 7), entry("global", "RUNS", 60), entry("acme", "AUDIT", 10)]
    )
    assert found == [
        Limit("RUNS", None, NOW - timedelta(days=60)),
        Limit("LINES", None, NOW - timedelta(days=90)),
        Limit("LOGS", "acme", NOW - timedelta(days=14)),
        Limit("LOGS", None, NOW - timedelta(days=30), ("acme",)),
        # As few days as this version does not take were recorded once.
        Limit("AUDIT", "acme", NOW - timedelta(days=365)),
    ]


def test_a_search_is_held_to_the_limits_of_its_organization() -> None:
    limits = limits_at(NOW, [entry("acme", "LOGS", 60)])
    assert hiding([], "acme") == hiding(limits, "acme", NOW - timedelta(days=30)) == ("TRUE", {})
    # Acme keeps its own for longer: what others' limit hides it is to see.
    assert "acme" in hiding(limits, "acme", NOW - timedelta(days=61))[1].values()
    assert set(hiding(limits, None, NOW - timedelta(days=40))[1].values()) >= {"LOGS", "acme"}
    assert "acme" in hiding(limits, "acme")[1].values()
    assert "acme" not in hiding(limits, "globex")[1].values()


def test_sequences_become_ranges() -> None:
    assert ranges_of([5, 1, 2, 9, 3, 9]) == [(1, 3), (5, 5), (9, 9)]
    assert ranges_of([]) == []


class Removing:
    """The retention of an archive of 300 runs of acme, with a clock that stands a month later."""

    def __init__(self, archive: Sealed, bus: Bus, view: RegistryView[RetentionEntry]) -> None:
        self.now = utc_now() + LATER
        self.archive = archive
        self.bus = bus
        self.view = view
        self.health = Health("logs")
        self.retention = self.anew()

    def anew(self) -> Removals:
        """Return the retention of a process that has just begun."""
        return Removals(self.archive.deps.engine, self.bus, self.view, self.health, lambda: self.now)

    async def archived(self, count: int) -> None:
        """Wait until so many records of removals are archived, and seal them."""

        async def there() -> bool:
            return bool(await self.archive.sql.fetchval("SELECT count(*) FROM message WHERE type = 'audit.removed'") == count)

        await eventually(there)
        await self.archive.deps.digests.seal()

    async def left(self, stream: str = "RUNS") -> int:
        return int(await self.archive.sql.fetchval("SELECT count(*) FROM message WHERE stream = $1", stream))

    async def verified(self, folder: Path, stream: str = "RUNS") -> tuple[list[tuple[str, int | None]], int]:
        """Return what an export is found to lack, and how many messages it takes for removed."""
        export = await self.archive.export(folder)
        keys = [verifier_key(key) for key in export.keys]
        verification = Stream(stream, export, keys=keys, records=recorded(export, keys=keys))
        found = [(one.kind, one.seq) for one in verification.findings()]
        return found, verification.counts.removed


@asynccontextmanager
async def removing(place: Place, data: Path, **days: int) -> AsyncIterator[Removing]:
    async with (
        sealed(place, data / "copy") as archive,
        running(place, "events"),
        running(place, "logs"),
        bus_of(place, "logs") as bus,
    ):
        async with bus_of(place, "gateway") as asker:
            for stream, number in days.items():
                await asker.ask(putting("retention", stream, org="acme", stream=stream, days=number))
        view = RegistryView(bus.client, "retentions", RetentionEntry, Health("logs"))
        watching = asyncio.create_task(view.run())
        try:

            async def known() -> bool:
                return len(list(view.values())) == len(days)

            await eventually(known)
            yield Removing(archive, bus, view)
        finally:
            watching.cancel()


async def test_what_is_past_its_days_is_recorded_then_removed_and_verified_as_removed(place: Place, data: Path) -> None:
    async with removing(place, data, RUNS=30, LINES=30) as made:
        assert await made.retention.look() == 0
        assert await made.left() == MESSAGES
        await made.archived(2)
        assert await made.verified(data / "recorded") == ([], 0)
        assert await made.retention.look() == MESSAGES + 1
        assert (await made.left(), await made.left("LINES")) == (0, 0)
        assert await made.verified(data / "removed") == ([], MESSAGES)
        assert await made.verified(data / "lines", "LINES") == ([], 1)
        assert made.health.document()["retention"]["removed"] == {"RUNS": MESSAGES, "LINES": 4}
        # There is nothing more to do, nor to say.
        assert await made.retention.look() == 0
        await made.archived(2)
        # What somebody else deletes is still named.
        await made.archive.sql.execute("DELETE FROM message WHERE type = 'audit.removed' AND document LIKE '%RUNS%'::bytea")
        found, removed = await made.verified(data / "untold")
        assert (found, removed) == ([("missing", 1)], 0)


async def test_a_record_covers_nobody_elses_messages(place: Place, data: Path) -> None:
    async with removing(place, data, RUNS=30) as made:
        await made.archive.sql.execute("UPDATE message SET org = 'globex' WHERE stream = 'RUNS' AND seq % 2 = 0")
        await made.retention.look()
        await made.archived(1)
        await made.retention.look()
        assert await made.left() == MESSAGES // 2
        await made.archive.sql.execute("DELETE FROM message WHERE stream = 'RUNS' AND seq = 100")
        found, removed = await made.verified(data / "export")
        assert removed == MESSAGES // 2
        assert ("missing", 100) in found
        assert not [one for one in found if one[0] == "missing" and one[1] != 100]


async def test_a_retention_that_is_prolonged_before_the_removal_keeps_the_messages(place: Place, data: Path) -> None:
    async with removing(place, data, RUNS=30) as made:
        await made.retention.look()
        async with bus_of(place, "gateway") as asker:
            await asker.ask(putting("retention", "RUNS", org="acme", stream="RUNS", days=60))

        async def known() -> bool:
            return [one.spec.days for one in made.view.values()] == [60]

        await eventually(known)
        assert await made.retention.look() == 0
        assert await made.left() == MESSAGES
        await made.archived(1)
        assert await made.verified(data / "export") == ([], 0)


async def test_a_process_that_is_killed_between_record_and_removal_leaves_it_to_the_next(place: Place, data: Path) -> None:
    async with removing(place, data, RUNS=30) as made:
        await made.anew().look()
        await made.archived(1)
        after = made.anew()
        await after.look()
        await made.archived(2)
        assert await after.look() == MESSAGES
        assert await made.verified(data / "export") == ([], MESSAGES)


async def test_records_of_removals_outlive_the_audit_trail_around_them(place: Place, data: Path) -> None:
    async with removing(place, data, RUNS=30, AUDIT=365) as made:
        await made.bus.publish(made.bus.seal(Audited(category="c", verb="v", actor="a", target="t", outcome="ok"), org="acme"))
        await made.bus.publish(
            made.bus.seal(Audited(category="c", verb="removed", actor="a", target="t", outcome="ok"), org="acme")
        )
        await made.retention.look()
        await made.archived(2)
        made.now += timedelta(days=400)
        await made.retention.look()

        async def gone() -> bool:
            await made.retention.look()
            left = await made.archive.sql.fetch("SELECT type, key FROM message WHERE stream = 'AUDIT' AND org = 'acme'")
            return {tuple(row) for row in left} == {("audit.removed", "archive")}

        await eventually(gone)


async def test_searches_show_nothing_past_its_days_though_it_is_there(place: Place, data: Path) -> None:
    async with removing(place, data, RUNS=30) as made:
        deps = made.archive.deps
        later = ArchiveDeps(deps.engine, lambda: made.now, made.retention.limits)
        since, until = rfc3339(made.now - timedelta(days=40)), rfc3339(made.now)
        correlation = await made.archive.sql.fetchval("SELECT correlation_id FROM message WHERE stream = 'RUNS' LIMIT 1")

        async def shown(to: ArchiveDeps, *, everything: bool) -> int:
            asked = Search(
                org="acme", q="run.requested", since=since, until=until, order="asc", everything=everything, page=Page(limit=1000)
            )
            return len((await QUESTIONS[Search](asked, to)).items)

        async def chained(to: ArchiveDeps) -> int:
            asked = ReadChain(org="acme", correlation_id=correlation, since=since, limit=10)
            return len((await QUESTIONS[ReadChain](asked, to)).items)

        kept = ArchiveDeps(deps.engine, lambda: made.now)
        assert [await shown(kept, everything=every) for every in (False, True)] == [MESSAGES, MESSAGES]
        assert await chained(kept) == 1
        assert [await shown(later, everything=every) for every in (False, True)] == [0, 0]
        assert await chained(later) == 0


async def test_a_partition_is_dropped_when_nothing_is_left_in_it_and_not_before(place: Place) -> None:
    engine = open_engine(place.database_url("logs"), service="logs")
    own = await asyncpg.connect(place.database_url("logs"))
    async with bus_of(place, "logs") as bus:
        days = [utc_now().date() - timedelta(days=age) for age in (40, 20, 3)]
        for day in days:
            await partitions._make_day(engine, day)
        view: RegistryView[RetentionEntry] = RegistryView(bus.client, "retentions", RetentionEntry, Health("logs"))
        view._complete.set()
        await own.execute(
            "INSERT INTO message (time, stream, incarnation, seq, id, type, level, service, org, key, correlation_id, message,"
            " document, said_at, tsv) VALUES (now() - interval '20 days', 'CATALOG', 'i', 1, '', '', '', '', '', '', '', '', '',"
            " now(), '')"
        )
        await Removals(engine, bus, view, Health("logs"), utc_now).look()
        names = {
            row[0]
            for row in await own.fetch("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'message'::regclass")
        }
        assert names >= {partitions.name_of(day) for day in days[1:]}
        assert partitions.name_of(days[0]) not in names
        assert await own.fetchval("SELECT to_regclass($1)", partitions.name_of(days[0])) is None
    await own.close()
    await engine.dispose()


async def test_a_stream_is_kept_for_its_fewest_days_at_least(place: Place) -> None:
    async with running(place, "events"), bus_of(place, "gateway") as asker:
        for stream, days in (("AUDIT", 364), ("RUNS", 29), ("CATALOG", 400), ("LOGS", 6)):
            with pytest.raises(Invalid):
                await asker.ask(putting("retention", stream, org="acme", stream=stream, days=days))
        await asker.ask(putting("retention", "AUDIT", org="acme", stream="AUDIT", days=365))


async def test_a_retention_is_its_organizations_and_the_platforms_is_seen_and_changed_by_no_other(place: Place) -> None:
    async with running(place, "events"), running(place, "logs"), gateway(place) as client:

        async def call(method: str, path: str, org: str, status: int, body: Any = None) -> Any:
            got = await client(method, f"/api/v1/retentions{path}?org={org}", json=body)
            assert got.status == status, got.body
            return got.json if got.body else None

        async def seen(org: str) -> list[tuple[str, str, int]]:
            return [(one["name"], one["org"], one["days"]) for one in (await call("GET", "", org, 200))["items"]]

        await call("PUT", "/logs", "global", 200, {"stream": "LOGS", "days": 60})
        await call("PUT", "/runs", "acme", 200, {"stream": "RUNS", "days": 40})
        assert await seen("acme") == [("logs", "global", 60), ("runs", "acme", 40)]
        assert await seen("globex") == [("logs", "global", 60)]
        await call("GET", "/runs", "globex", 404)
        # Neither by its name nor by its id.
        inherited = await call("GET", "/logs", "acme", 200)
        for path in ("/logs", f"/{inherited['id']}"):
            await call("PATCH", path, "acme", 404, {"days": 7})
            await call("DELETE", path, "acme", 404)
        # One of the same name is the organization's own.
        await call("PUT", "/logs", "acme", 200, {"stream": "LOGS", "days": 10})
        assert (await seen("acme"), await seen("globex")) == (
            [("logs", "acme", 10), ("runs", "acme", 40)],
            [("logs", "global", 60)],
        )
        for method, path, body in (("GET", "", None), ("PUT", "/logs", {}), ("PATCH", "/logs", {}), ("DELETE", "/logs", None)):
            without = await client(method, f"/api/v1/retentions{path}", headers={}, json=body)
            assert without.status == 401


def test_retentions_and_levels_are_read_by_viewers_and_changed_by_administrators() -> None:
    found = {(one.method, one.path): one.role for one in ENDPOINTS if one.path.startswith(("/api/v1/retentions", "/api/v1/levels"))}
    assert {method for (method, _), role in found.items() if role == "viewer"} == {"GET"}
    assert {method for (method, _), role in found.items() if role == "admin"} == {"POST", "PUT", "PATCH", "DELETE"}
    assert len(found) == 12
