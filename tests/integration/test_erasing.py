"""A person's right: what a message says is erased wherever it is, what needs it keeps it, and the digests stay whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import asyncpg
import pytest

from deploy.audit.verify import Stream, recorded
from deploy.positions import administrator, held
from deploy.rebuild.display import Display
from deploy.rebuild.parts import open_parts, replay
from deploy.rebuild.refill import Refill
from deploy.rebuild.rows import drop, rows_of
from deploy.stores import Stores
from services.logs import erasing as steps
from services.logs import erasures
from services.logs.digests.notes import verifier_key
from services.logs.erasing import Erasing, ErasingDeps
from services.logs.questions import QUESTIONS
from shared.blobs import Blobs
from shared.envelope import new_id, rfc3339, utc_now
from shared.errors import Invalid, NotFound
from shared.messages import EventAccepted, Logged
from shared.projection import incarnation_of
from shared.pull import StreamError, api_request
from shared.questions.erasing import Erased, ErasedMessage, EraseInEvents, EraseMessages
from shared.questions.events import RetryDelivery
from tests.integration.test_audit_verify import Sealed, sealed
from tests.integration.test_gateway import gateway
from tests.integration.test_keys import by, made
from tests.integration.test_refill import Addresses, lose
from tests.support.inside import bus_of, eventually, running
from tests.support.river import river
from tests.support.servers import Place

SECRET = "alice-at-example"
LOGGED = 10


def asked(q: str, **fields: Any) -> EraseMessages:
    given = {"org": "global", "everything": True} | fields
    return EraseMessages(id=new_id(), actor="key:ops", q=q, reason="request 17", **given)


class Archive:
    """A sealed archive whose logs name somebody, one message each, with what erases them."""

    def __init__(self, archive: Sealed, erasing: Erasing) -> None:
        self.archive = archive
        self.erasing = erasing
        self.deps = ErasingDeps(archive.deps.engine, utc_now, erasing=erasing)

    async def erase(self, q: str, **fields: Any) -> Erased:
        answer: Erased = await QUESTIONS[EraseMessages](asked(q, **fields), self.deps)
        return answer

    async def verified(self, folder: Path, stream: str = "LOGS") -> tuple[list[str], int]:
        """Return the kinds of what is wrong, and how many messages are erased."""
        export = await self.archive.export(folder)
        keys = [verifier_key(key) for key in export.keys]
        found = Stream(stream, export, keys=keys, copies=[self.archive.copy], records=recorded(export, keys=keys))
        return [one.kind for one in found.findings()], found.counts.erased

    async def rows(self) -> list[Any]:
        return list(await self.archive.sql.fetch("SELECT * FROM message WHERE stream = 'LOGS' ORDER BY seq"))

    async def archived(self, place: Place, count: int) -> None:
        """Archive what is new: so many logs in all."""

        async def are_there() -> bool:
            return bool(await self.archive.sql.fetchval("SELECT count(*) FROM message WHERE stream = 'LOGS'") == count)

        async with running(place, "logs"):
            await eventually(are_there)


@asynccontextmanager
async def logged(place: Place, data: Path) -> AsyncIterator[Archive]:
    async with sealed(place, data / "copy") as archive, bus_of(place, "logs") as own, bus_of(place, "executor") as bus:
        for number in range(LOGGED):
            said = Logged(service="executor", level="info", event=f"x.{number}", fields={"who": SECRET})
            await bus.publish(bus.seal(said, org="acme" if number % 2 else "globex"))
        made = Archive(archive, Erasing(archive.deps.engine, own, archive.deps.digests))
        await made.archived(place, LOGGED)
        yield made


async def test_a_message_is_erased_from_the_archive_the_broker_and_the_digests_salts(place: Place, data: Path) -> None:
    async with logged(place, data) as archive:
        early = await archive.erase(SECRET)
        assert (early.erased, len(early.kept)) == (0, LOGGED)
        assert "not sealed yet" in early.kept[0].reason
        await archive.archive.deps.digests.seal()
        bucket = archive.archive.deps.digests.of("LOGS").bucket
        salts = await bucket.get("salts/0")
        assert salts is not None
        # Of one organization, and by its place.
        assert (await archive.erase(f"{SECRET} seq:2", everything=False, org="acme")).erased == 1
        assert (await archive.erase(f"{SECRET} seq:1", everything=False, org="acme")).erased == 0
        assert await archive.erase(SECRET) == Erased(erased=LOGGED - 1, kept=[], next_cursor=None)
        for row in await archive.rows():
            assert (row["document"], row["data"], row["tsv"], row["message"]) == (b"", None, "", erasures.ERASED)
        without = await bucket.get("salts/0")
        assert without == bytes(LOGGED * 16) + salts[LOGGED * 16 :]
        assert (archive.archive.copy / "logs" / "salts" / "0").read_bytes() == without
        async with administrator(place.nats_url("admin")) as admin:
            assert (await held(admin, "LOGS")).messages == 0
        assert await archive.verified(data / "export") == ([], LOGGED)
        # Again: nothing is left to be erased, by what is still known of it either.
        assert (await archive.erase("stream:LOGS")).erased == 0


async def test_what_says_how_things_are_is_kept_and_a_search_has_to_be_named(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with logged(place, data) as archive:
        await archive.archive.deps.digests.seal()
        said = await archive.erase("stream:AUDIT OR stream:CATALOG")
        assert (said.erased, {one.stream for one in said.kept} <= {"AUDIT", "CATALOG"}) == (0, True)
        with pytest.raises(Invalid, match="q is needed"):
            await archive.erase("  ")
        # A part at a time, however many match.
        monkeypatch.setattr(steps, "TOGETHER", 4)
        parts = [await archive.erase(SECRET)]
        while parts[-1].next_cursor is not None:
            parts.append(await archive.erase(SECRET, cursor=parts[-1].next_cursor))
        assert [one.erased for one in parts] == [4, 4, 2]


# What is done for a message, in order, by where it is found.
STEPS = [
    (steps.erasures, "begin"),
    (steps, "erase_messages"),
    (steps.erasures, "mark"),
    (steps, "forget"),
    (steps.erasures, "blank"),
    (steps, "forget_in_copies"),
]


async def test_whoever_is_killed_on_the_way_is_followed_up(place: Place, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with logged(place, data) as archive:
        await archive.archive.deps.digests.seal()
        for number, (module, name) in enumerate(STEPS, start=1):
            step = getattr(module, name)

            async def killed(*given: Any, step: Any = step, **also: Any) -> None:
                await step(*given, **also)
                raise KeyboardInterrupt

            with monkeypatch.context() as patched:
                patched.setattr(module, name, killed)
                with pytest.raises(KeyboardInterrupt):
                    await archive.erase(f"{SECRET} seq:{number}")
            # Of what the transaction had not kept nothing has been done, and the one who asked has no answer: they ask again.
            resumed = await archive.erasing.resume()
            if not resumed:
                assert name == "begin"
                assert (await archive.erase(f"{SECRET} seq:{number}")).erased == 1
            assert await archive.erasing.resume() == 0
            assert (await archive.rows())[number - 1]["document"] == b""
        assert await archive.verified(data / "export") == ([], len(STEPS))
        assert await archive.archive.sql.fetchval("SELECT count(*) FROM erasure WHERE NOT done") == 0


async def test_a_copy_that_cannot_be_written_keeps_no_content_and_is_tried_again(place: Place, data: Path) -> None:
    async with logged(place, data) as archive:
        await archive.archive.deps.digests.seal()
        copied = archive.archive.copy / "logs" / "salts" / "0"
        salts = copied.read_bytes()
        copied.unlink()
        copied.symlink_to(copied)
        assert (await archive.erase(f"{SECRET} seq:1")).erased == 1
        assert (await archive.rows())[0]["document"] == b""
        assert await archive.erasing.resume() == 0
        copied.unlink()
        copied.write_bytes(salts)
        assert await archive.erasing.resume() == 1
        assert copied.read_bytes() == bytes(16) + salts[16:]


async def test_what_a_copy_keeps_for_ever_does_not_keep_others_from_being_followed_up(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with logged(place, data) as archive:
        await archive.archive.deps.digests.seal()
        copied = archive.archive.copy / "logs" / "salts" / "0"
        copied.unlink()
        copied.symlink_to(copied)
        assert (await archive.erase(f"{SECRET} seq:[1 TO 4]")).erased == 4

        async def killed(*_given: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(steps, "erase_messages", killed)
            with pytest.raises(KeyboardInterrupt):
                await archive.erase(f"{SECRET} seq:9")
        monkeypatch.setattr(steps, "TOGETHER", 4)
        assert await archive.erasing.resume() == 0
        assert (await archive.rows())[8]["document"] == b""


async def test_an_erased_message_does_not_come_back_by_a_replay_or_a_rebuild(place: Place, data: Path) -> None:
    async with logged(place, data) as archive:
        await archive.archive.deps.digests.seal()
        assert (await archive.erase(f"{SECRET} seq:[3 TO 4]")).erased == 2
        before = await archive.rows()
        sql = await asyncpg.connect(place.database_url("admin"))
        async with administrator(place.nats_url("admin")) as admin:

            async def replayed() -> None:
                async with open_parts(cast("Stores", Addresses(place)), ("logs",)) as parts:
                    (part,) = [one for one in parts if one.name == "logs.archive-logs"]
                    await replay([part], admin, sql, lambda *_: None)

            async with open_parts(cast("Stores", Addresses(place)), ("logs",)) as parts:
                projections = [one for part in parts for one in part.projections if one.name == "archive-logs"]
            # From the bus: the rows that are dropped come back, and the erased ones stay as they are, and are no loss.
            await drop(sql, rows_of("logs", projections, {"LOGS": await held(admin, "LOGS")}))
            assert [row["seq"] for row in await archive.rows()] == [3, 4]
            await sql.execute("DELETE FROM logs.checkpoint WHERE projection = 'archive-logs'")
            await replayed()
            assert await archive.rows() == before
            # From the archive: what is put back into the stream has no such message.
            await lose(admin, "LOGS")
            assert set(await Refill(admin, sql, Display()).run()) == {"LOGS"}
            for seq in (3, 4):
                with pytest.raises(StreamError):
                    await api_request(admin, "$JS.API.STREAM.MSG.GET.LOGS", {"seq": seq})
            assert (await held(admin, "LOGS")).messages == LOGGED - 2
            await replayed()
            assert await archive.rows() == before
            assert await sql.fetchval("SELECT count(*) FROM logs.gap WHERE stream = 'LOGS'") == 0
        await sql.close()
        assert await archive.verified(data / "export") == ([], 2)


WORKFLOW = b"""
from millrace import artifacts, log, step, wait_for, workflow


@workflow(name="greet")
async def greet(event: dict) -> str:
    who = event["data"]["who"]
    log.info("greeting", who=await step("known", lambda: who))
    print(who)
    artifacts.write("report.txt", who)
    await wait_for("go", timeout=60)
    artifacts.write("report.txt", f"dear {who}")
    return who
"""


async def test_all_that_came_of_a_webhook_is_erased_everywhere_once_it_has_ended(place: Place, data: Path) -> None:
    copy = data / "copy"
    given = {"MILLRACE_DIGEST_COPIES": copy.as_uri(), "MILLRACE_DIGEST_SECONDS": "1"}
    async with running(place, "logs", **given), river(place, data) as outside:
        assert (await outside.put_file("flows.py", WORKFLOW)).problems == []
        source = await outside.source()
        await outside.subscription()
        delivery = await outside.webhook(source, {"who": SECRET})
        (run,) = (await outside.delivery(delivery, "routed")).runs
        await outside.recorded(run.id, "waiting")
        sql = await asyncpg.connect(place.database_url("admin"))
        chain = f"why:{run.id} (stream:WEBHOOKS OR stream:EVENTS OR stream:RUNS OR stream:LINES)"

        async def erased(q: str) -> Erased | None:
            answer: Erased = await outside.bus.ask(asked(q, everything=False, org="default"))
            return answer if all("sealed" not in one.reason and "try again" not in one.reason for one in answer.kept) else None

        going: Any = await eventually(lambda: erased(f"stream:RUNS run:{run.id}"))
        assert going.erased == 0
        assert {one.reason for one in going.kept} == {f"the run {run.id} has not ended"}
        await outside.signal(run.id, "go", {"by": SECRET})
        await outside.recorded(run.id)
        # So soon after its end a repetition of the run's request would not be known.
        kept: Any = await eventually(lambda: erased(chain))
        assert await sql.fetchval("SELECT count(*) FROM executor.file_version WHERE starts_with(path, 'artifacts/')") > 1
        assert {one.stream for one in kept.kept} == {"RUNS"}
        assert all("within the last hour" in one.reason for one in kept.kept)
        await sql.execute("UPDATE executor.run SET finished_at = finished_at - interval '2 hours'")
        last: Any = await eventually(lambda: erased(chain))
        assert (last.erased >= 3, last.kept) == (True, [])
        shown = await outside.run(run.id, "succeeded")
        assert (shown.input, shown.result, shown.erased) == (None, None, True)
        with pytest.raises(NotFound, match="no longer on the bus"):
            await outside.bus.ask(RetryDelivery(id=new_id(), org="default", actor="t", delivery=delivery))
        assert await everywhere(sql) == []

        async def forgotten() -> bool:
            files, versions = "SELECT count(*) FROM executor.file", "SELECT count(*) FROM executor.file_version"
            left = [await sql.fetchval(f"{one} WHERE starts_with(path, 'artifacts/')") for one in (files, versions)]
            return left == [0, 0]

        await eventually(forgotten)
        async with administrator(place.nats_url("admin")) as admin:
            for stream in ("WEBHOOKS", "EVENTS", "RUNS", "LINES"):
                assert (await held(admin, stream)).messages == 0, stream
        said = await sql.fetch("SELECT data FROM logs.message WHERE type = 'audit.erased'")
        assert said
        assert all('"reason": "request 17"' in row["data"] and "key:ops" in row["data"] for row in said)
        await sql.close()


async def everywhere(sql: Any) -> list[tuple[str, str]]:
    """Return the tables, and rows, of any service that name the one who is to be forgotten."""
    found = []
    tables = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('events', 'executor', 'logs', 'oauth')"
    for (table,) in await sql.fetch(tables):
        # Bytes are shown in hexadecimal.
        like = f"t::text LIKE '%{SECRET}%' OR t::text LIKE '%{SECRET.encode().hex()}%'"
        found += [(table, row[0]) for row in await sql.fetch(f"SELECT t::text FROM {table} t WHERE {like}")]
    return found


async def test_what_a_delivery_is_to_become_keeps_its_messages(place: Place, data: Path) -> None:
    async with river(place, data) as outside, bus_of(place, "logs") as own:
        assert (await outside.put_file("flows.py", WORKFLOW)).problems == []
        source = await outside.source()
        await outside.subscription(debounce=3600)
        await outside.subscription(name="later", event="other", workflow="late", retry="long")
        waits = await outside.webhook(source, {"who": SECRET})
        await outside.delivery(waits, "held")
        again = await outside.webhook(source, {"who": SECRET}, "other")
        await outside.delivery(again, "unroutable")
        for stream in ("EVENTS", "WEBHOOKS"):
            messages = [ErasedMessage(1, waits), ErasedMessage(2, again)]
            incarnation = await incarnation_of(own.client, stream)
            given: Any = {"stream": stream, "incarnation": incarnation, "messages": messages}
            needed = await own.ask(EraseInEvents(id=new_id(), org="global", actor="logs", **given))
            assert needed.reasons == {
                1: f"a subscription holds an event of the delivery {waits}",
                2: f"the delivery {again} is to be tried again",
            }


async def test_a_body_is_removed_unless_another_message_has_the_same(place: Place, data: Path) -> None:
    async with sealed(place, data / "copy") as archive, bus_of(place, "logs") as own, bus_of(place, "events") as bus:
        bodies = Blobs(bus.client, "bodies")

        async def parts(text: str) -> AsyncIterator[bytes]:
            yield text.encode()

        own_body, shared_body = (await bodies.put(parts("own"))).sha256, (await bodies.put(parts("shared"))).sha256
        for number, reference in enumerate((own_body, shared_body, shared_body)):
            accepted = EventAccepted(
                source="s",
                source_name="s",
                event=new_id(),
                delivery=new_id(),
                type=f"t{number}",
                headers={},
                received_at=rfc3339(utc_now()),
                data_ref=reference,
            )
            await bus.publish(bus.seal(accepted, org="acme"))

        async def archived() -> bool:
            return bool(await archive.sql.fetchval("SELECT count(*) FROM message WHERE stream = 'EVENTS'") >= 3)

        async with running(place, "logs"):
            await eventually(archived)
        await archive.deps.digests.seal()
        erasing = Erasing(archive.deps.engine, own, archive.deps.digests)
        deps = ErasingDeps(archive.deps.engine, utc_now, erasing=erasing)
        async with running(place, "events"):
            # Their rows come in their own time, and each ends by itself: no subscription wants it.
            async def have_ended() -> bool:
                return bool(await archive.sql.fetchval("SELECT count(*) FROM events.delivery WHERE ended") == 3)

            await eventually(have_ended)
            first: Erased = await QUESTIONS[EraseMessages](asked("stream:EVENTS type:event.accepted seq:[1 TO 2]"), deps)
            assert (first.erased, first.kept) == (2, [])
            assert await bodies.stat(own_body) is None
            assert await bodies.stat(shared_body) is not None
            second: Erased = await QUESTIONS[EraseMessages](asked("stream:EVENTS type:event.accepted seq:3"), deps)
            assert (second.erased, second.kept) == (1, [])
            assert await bodies.stat(shared_body) is None


async def test_the_endpoint_says_what_is_missing_and_the_audit_trail_has_no_search(place: Place) -> None:
    async with running(place, "logs"), gateway(place) as client:
        body = {"org": "*", "q": f"stream:LOGS {SECRET}", "reason": "request 17", "from": "now-1h"}
        got = await client("POST", "/api/v1/erasures", json=body)
        assert (got.status, got.json) == (200, {"erased": 0, "kept": [], "next_cursor": None})
        assert (await client("POST", "/api/v1/erasures", json=body, headers={})).status == 401
        for name in body:
            lacking = {key: value for key, value in body.items() if key != name}
            refused = await client("POST", "/api/v1/erasures", json=lacking)
            assert (refused.status, name in refused.body.decode()) == (422, True)
        # For the platform's administrators alone.
        own = await made(client, role="admin", org="acme")
        for org in ("acme", "*"):
            assert (await by(client, own["key"], "POST", "/api/v1/erasures", json=body | {"org": org})).status == 403
        unread = await client("POST", "/api/v1/erasures", json=body | {"q": "(("})
        assert (unread.status, unread.json["errors"][0]["path"][:1]) == (422, "q")

        async def told() -> Any:
            return (await client("GET", "/api/v1/logs?q=stream:AUDIT%20data.verb:erase&org=*&order=asc")).json["items"] or None

        first, *_ = await eventually(told)
        assert first["data"]["detail"] == {"reason": "request 17", "erased": 0, "kept": 0}
        assert (first["data"]["category"], first["data"]["outcome"], SECRET in str(first)) == ("archive", "ok", False)
