"""Least privilege, tried: each service is refused what it does not own, on the bus and in the database."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import asyncpg
import nats
import pytest
import pytest_asyncio
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from shared.envelope import rfc3339, utc_now
from shared.messages import DECLARATIONS, TimerSet
from shared.messages.log import SERVICES
from shared.messages.timer import fired_for, is_foreign
from shared.ordered_reader import OrderedReader
from shared.pull import StreamError, api_request, inbox_prefix
from shared.streams import BUCKETS, REGISTRIES, STREAMS, WORK, Work, among_replicas
from tests.support.inside import bus_of
from tests.support.servers import Place, Servers


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def place(servers: Servers) -> AsyncIterator[Place]:
    """One for all: what is refused leaves nothing behind."""
    async with servers.place() as given:
        yield given


async def refusals(place: Place, service: str, subject: str, *, subscribe: bool = False) -> list[str]:
    """Try a subject as a service; return what the server refused."""
    heard: list[str] = []
    answered = asyncio.Event()

    async def note(error: Exception) -> None:
        heard.append(str(error).lower())
        answered.set()

    client = await nats.connect(
        place.nats_url(service),
        error_cb=note,
        inbox_prefix=inbox_prefix(service).encode(),
        allow_reconnect=False,
        connect_timeout=20,
    )
    try:
        if subscribe:
            await client.subscribe(subject)
        else:
            await client.publish(subject, b"{}")
        await client.flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await answered.wait()
    finally:
        await client.close()
    return heard


async def allowed(place: Place, service: str, subjects: list[str]) -> list[str]:
    """Say something on each of these subjects as a service; return those that the server did not refuse."""
    refused: set[str] = set()

    async def note(error: Exception) -> None:
        refused.update(subject for subject in subjects if f'publish to "{subject}"'.lower() in str(error).lower())
        if len(refused) == len(set(subjects)):
            everything.set()

    everything = asyncio.Event()
    client = await nats.connect(place.nats_url(service), error_cb=note, inbox_prefix=inbox_prefix(service).encode())
    try:
        for subject in subjects:
            await client.publish(subject, b"{}")
        await client.flush()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await everything.wait()
    finally:
        await client.close()
    return sorted(set(subjects) - refused)


def foreign_subjects(service: str) -> list[str]:
    return sorted(
        declared.pattern().replace("*", "x").replace(">", f"{other}.info" if declared.noun in {"log", "dead"} else "x")
        for declared, _ in DECLARATIONS.values()
        for other in [next(one for one in SERVICES if one != service)]
        if service not in declared.by
    )


def told_among_others(service: str) -> list[str]:
    return [among_replicas(other, "used") for other in SERVICES if other != service]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_cannot_say_what_others_say(place: Place, service: str) -> None:
    for subject in [
        *foreign_subjects(service),
        f"log.{'gateway' if service != 'gateway' else 'logs'}.info",
        *told_among_others(service),
    ]:
        assert any("permissions violation" in refusal for refusal in await refusals(place, service, subject)), subject


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_cannot_listen_to_others(place: Place, service: str) -> None:
    others = [other for other in SERVICES if other != service]
    for subject in [
        ">",
        "run.>",
        "replicas.>",
        *told_among_others(service),
        "ask.>",
        f"ask.{others[0]}.*",
        f"do.{others[0]}.*",
        f"_INBOX_{others[0]}.>",
        "_INBOX.>",
    ]:
        heard = await refusals(place, service, subject, subscribe=True)
        assert any("permissions violation" in refusal for refusal in heard), subject


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_can_neither_change_streams_nor_write_others_registries(place: Place, service: str) -> None:
    subjects = [f"$JS.API.STREAM.{verb}.{stream.name}" for verb in ("CREATE", "UPDATE", "DELETE") for stream in STREAMS]
    subjects += [f"$JS.API.STREAM.PURGE.{stream.name}" for stream in STREAMS if stream.purged_by != service]
    subjects += [
        f"$JS.API.STREAM.MSG.DELETE.{stream.name}" for stream in STREAMS if service not in {stream.erased_by, stream.removed_by}
    ]
    subjects += [f"$KV.{registry.bucket}.x" for registry in REGISTRIES if registry.writer != service]
    subjects += [
        f"$JS.API.CONSUMER.CREATE.{stream.name}.x.>" for stream in STREAMS if service != "logs" and service not in stream.readers
    ]
    for subject in subjects:
        assert any("permissions violation" in refusal for refusal in await refusals(place, service, subject)), subject


WORKING = tuple((work, service) for work in WORK for service in SERVICES)


def named(works: tuple[tuple[Work, str], ...]) -> list[str]:
    return [f"{service}-{work.name}" for work, service in works]


@pytest.mark.parametrize(("work", "service"), WORKING, ids=named(WORKING))
async def test_a_durable_is_touched_by_its_owner_only_and_deleted_by_nobody(place: Place, work: Work, service: str) -> None:
    of = f"{work.stream}.{work.name}"
    verbs = ["DELETE", "PAUSE", "RESET", "UNPIN", "LEADER.STEPDOWN", "DURABLE.CREATE"]
    subjects = [f"$JS.API.CONSUMER.{verb}.{of}" for verb in verbs]
    subjects += [f"$JS.API.CONSUMER.DELETE.{of}.x"]
    if service != work.service:
        seen = () if service in work.watched_by else ("INFO",)
        subjects += [f"$JS.API.CONSUMER.{verb}.{of}" for verb in ("MSG.NEXT", "CREATE", *seen)]
        subjects += [f"$JS.API.CONSUMER.CREATE.{of}.{subject}" for subject in work.subjects]
        subjects += [f"$JS.ACK.{of}.1.1.1.1.1", f"$JS.ACK._.hash.{of}.1.1.1.1.1", f"$JS.ACK.{of}.x"]
    assert await allowed(place, service, subjects) == []


async def test_a_consumer_for_reading_cannot_be_asked_for_under_one_name_and_made_under_another(place: Place) -> None:
    """The rules are about subjects, and the name stands in the body as well: the server must not believe the body."""
    (parse,) = [work for work in WORK if work.name == "events-parse"]
    async with bus_of(place, "admin") as admin, bus_of(place, "logs") as logs:
        before = (await api_request(admin.client, f"$JS.API.CONSUMER.INFO.{parse.stream}.{parse.name}", None))["config"]
        for said in ({"name": parse.name}, {"durable_name": parse.name}, {"durable_name": parse.name, "name": parse.name}):
            config = {"deliver_policy": "new", "ack_policy": "explicit", "ack_wait": 1_000_000_000, **said}
            for action in ("", "create", "update"):
                asked = {"stream_name": parse.stream, "config": config, "action": action}
                with contextlib.suppress(StreamError):
                    await api_request(logs.client, f"$JS.API.CONSUMER.CREATE.{parse.stream}.x", asked)
        after = (await api_request(admin.client, f"$JS.API.CONSUMER.INFO.{parse.stream}.{parse.name}", None))["config"]
    assert after == before


@pytest.mark.parametrize("service", SERVICES)
async def test_nobody_writes_to_a_bucket_that_is_not_his(place: Place, service: str) -> None:
    subjects = [f"$O.{bucket.name}.{part}.x" for bucket in BUCKETS if service not in bucket.writers for part in "CM"]
    subjects += [f"$JS.API.STREAM.PURGE.OBJ_{bucket.name}" for bucket in BUCKETS if service not in bucket.writers]
    kept = [*(f"KV_{registry.bucket}" for registry in REGISTRIES), *(f"OBJ_{bucket.name}" for bucket in BUCKETS)]
    subjects += [f"$JS.API.STREAM.{verb}.{name}" for name in kept for verb in ("UPDATE", "DELETE", "MSG.DELETE")]
    subjects += [f"$JS.API.STREAM.PURGE.KV_{registry.bucket}" for registry in REGISTRIES]
    assert await allowed(place, service, subjects) == []


async def test_questions_reach_their_owner_only_from_those_who_may_ask(place: Place) -> None:
    assert await refusals(place, "gateway", "ask.oauth.token")
    assert await refusals(place, "logs", "ask.oauth.token")
    for other in ("gateway", "events", "logs"):
        assert await refusals(place, other, "ask.oauth.secret"), other
    client = await nats.connect(place.nats_url("executor"), inbox_prefix=inbox_prefix("executor").encode())
    try:
        with pytest.raises((NoRespondersError, NatsTimeout)):
            await client.request("ask.oauth.token", b"{}", timeout=1)
    finally:
        await client.close()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_role_cannot_touch_other_schemas(place: Place, service: str) -> None:
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        tables = await admin.fetch(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = ANY($1::text[]) AND schemaname <> $2",
            list(SERVICES),
            service,
        )
        assert tables
    finally:
        await admin.close()
    connection = await asyncpg.connect(place.database_url(service))
    try:
        for table in tables:
            name = f'"{table["schemaname"]}"."{table["tablename"]}"'
            for statement in (f"SELECT * FROM {name}", f"DELETE FROM {name}", f"CREATE TABLE {table['schemaname']}.mine (x int)"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        for statement in ("CREATE ROLE other", "CREATE SCHEMA other", "CREATE TABLE public.mine (x int)"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("schema", SERVICES)
async def test_every_time_in_every_table_is_aware(place: Place, schema: str) -> None:
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        naive = await admin.fetch(
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = $1 AND data_type IN ('timestamp without time zone', 'time without time zone', 'date')",
            schema,
        )
        assert [tuple(row) for row in naive] == []
    finally:
        await admin.close()


async def test_an_executor_may_emit_for_a_run_and_change_nothing_that_is_configured(place: Place) -> None:
    for subject in ("ask.events.mapping", "do.events.emit"):
        heard = await refusals(place, "executor", subject)
        assert not any("permissions violation" in refusal for refusal in heard), subject
    for verb in ("put_mapping", "remove_mapping", "put_integration", "remove_integration", "put_source"):
        heard = await refusals(place, "executor", f"do.events.{verb}")
        assert any("permissions violation" in refusal for refusal in heard), verb


TIMING = ("executor", "events")


@pytest.mark.parametrize(("service", "other"), [TIMING, TIMING[::-1]])
async def test_a_service_neither_sets_nor_reads_the_timers_of_another(place: Place, service: str, other: str) -> None:
    create = "$JS.API.CONSUMER.CREATE.TIMERS.x"
    own = [f"timer.x.set.{service}", f"{create}.{fired_for(service)}"]
    foreign = [f"timer.x.set.{other}", f"timer.x.fired.{other}", f"timer.x.fired.{service}", "timer.x.set", "timer.x.fired"]
    foreign += [f"{create}.{fired_for(other)}", f"{create}.timer.x.set.{other}", f"{create}.timer.>", f"{create}.>", create]
    foreign += [
        f"$JS.API.{get}" for get in ("STREAM.MSG.GET.TIMERS", "DIRECT.GET.TIMERS", f"DIRECT.GET.TIMERS.timer.x.set.{other}")
    ]
    assert await allowed(place, service, own + foreign) == sorted(own)


async def test_a_reader_of_timers_cannot_ask_for_its_own_and_be_given_anothers(place: Place) -> None:
    """The rules are about subjects, and the filter stands in the body as well: the server must not believe the body."""
    async with bus_of(place, "executor") as bus:
        for filters in (
            {"filter_subject": fired_for("events")},
            {"filter_subjects": [fired_for("executor"), fired_for("events")]},
            {"filter_subject": ""},
        ):
            asked = {"stream_name": "TIMERS", "config": {"name": "x", "ack_policy": "none", "mem_storage": True, **filters}}
            with pytest.raises(StreamError):
                await api_request(bus.client, f"$JS.API.CONSUMER.CREATE.TIMERS.x.{fired_for('executor')}", asked)


async def test_what_anothers_schedule_has_the_broker_publish_is_told_from_ones_own(place: Place) -> None:
    """The broker asks for no permission at a schedule's target, which lies in the same stream."""
    async with bus_of(place, "executor") as executor, bus_of(place, "events") as events:
        due = rfc3339(utc_now())
        await events.publish(events.seal(TimerSet(key="own", owner="events", at=due), org="default"))
        headers = {"Nats-Schedule": f"@at {due}", "Nats-Schedule-Target": "timer.forged.fired.events"}
        await executor.client.jetstream().publish("timer.own.set.executor", b"{}", headers=headers, stream="TIMERS")
        found: dict[str, bool] = {}
        async with (
            asyncio.timeout(20),
            contextlib.aclosing(OrderedReader(events.client, "TIMERS", filters=(fired_for("events"),)).batches()) as batches,
        ):
            async for batch in batches:
                found |= {one.subject: is_foreign(one.headers, "events") for one in batch}
                if len(found) == 2:
                    break
    assert found == {"timer.own.fired.events": False, "timer.forged.fired.events": True}
