"""No stored message stops a projection: what it cannot take is found, kept cleaned or given up, and told."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec
import nats
import pytest
from structlog.testing import capture_logs

from services.events import projections as events
from shared import projection as projection_module
from shared import tasks
from shared.db import Connection, open_engine
from shared.envelope import new_id, open_envelope, open_message
from shared.errors import Unavailable
from shared.health import Health
from shared.letters import GivenUp, bury_in_place
from shared.messages import DeadLettered, RunRequested
from shared.projected import Apply, Projected, Recorded, in_batches
from shared.projection import Projection
from shared.pull import Delivered
from shared.statements import Statement
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place

Fold = Callable[[Sequence[Recorded], Connection], Awaitable[Sequence[Statement]]]


@pytest.fixture(autouse=True)
def unrendered() -> Iterator[None]:
    """Tracebacks take longer to be drawn than all the rest."""
    with capture_logs():
        yield


class Running:
    """A projection that is being run, with what it tells."""

    def __init__(self, place: Place, projection: Projection, health: Health, task: asyncio.Task[None]) -> None:
        self.place = place
        self.projection = projection
        self.health = health
        self.task = task

    @property
    def told(self) -> dict[str, Any]:
        """The fact that `/readyz` shows."""
        told: dict[str, Any] = self.health.document()["projections"]
        return told

    async def reached(self, sequence: int) -> None:
        assert await self.projection.caught_up(sequence, timeout=30), self.health.document()


@asynccontextmanager
async def projecting(place: Place, apply: Apply, *, stream: str = "RUNS", name: str = "runs") -> AsyncIterator[Running]:
    """Run a projection into the rows of deliveries, as the events service does."""
    engine = open_engine(place.database_url("events"), service="events")
    health = Health("events")
    health.started = True
    async with bus_of(place, "events") as bus:
        projection = Projection(
            client=bus.client,
            engine=engine,
            url=place.database_url("events"),
            service="events",
            projected=Projected(name=name, stream=stream, apply=apply, tables=("delivery_run",)),
            health=health,
        )
        task = asyncio.create_task(projection.run())
        try:
            yield Running(place, projection, health, task)
        finally:
            await tasks.end([task])
    await engine.dispose()


def document(workflow: str = "w", run: str | None = None, **attributes: Any) -> bytes:
    """Return a request of a delivery as an older version wrote it, with whatever text was given to it."""
    run = run or new_id()
    data = {
        "run": run, "workflow": workflow, "version": "v", "requested_by": "t", "timeout": 1.0, "delivery": "d", "input": None,
    }  # fmt: skip
    made = {
        "id": new_id(), "type": "run.requested", "source": "/events", "subject": run, "time": "2026-01-02T03:04:05Z", "org": "acme",
        "correlationid": "c", "data": data,
    }  # fmt: skip
    return json.dumps(made | attributes).encode()


async def put(place: Place, documents: Sequence[bytes], subject: str = "run.r.requested.normal") -> list[int]:
    """Write documents to their stream as they are, past everything that cleans; return their sequences."""
    client = await nats.connect(place.nats_url("admin"))
    try:
        return [(await client.jetstream().publish(subject, one)).seq for one in documents]
    finally:
        await client.close()


async def letters(place: Place) -> list[DeadLettered]:
    client = await nats.connect(place.nats_url("admin"))
    try:
        js = client.jetstream()
        state = (await js.stream_info("DEAD")).state
        found = [await js.get_msg("DEAD", number) for number in range(max(1, state.first_seq), state.last_seq + 1)]
        return [open_message(open_envelope(one.data or b""), DeadLettered) for one in found]
    finally:
        await client.close()


async def rows(place: Place) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(place.database_url("events"))
    try:
        return [tuple(row) for row in await connection.fetch("SELECT run, workflow, requested_at FROM delivery_run ORDER BY run")]
    finally:
        await connection.close()


def failing(error: BaseException) -> Apply:
    """Return the fold of runs, with a bug that those of the workflow `bad` meet."""

    async def fold(batch: Sequence[Recorded], connection: Connection) -> Sequence[Statement]:
        for one in batch:
            if isinstance(one.message, RunRequested) and one.message.workflow == "bad":
                raise error
        return await events.RunsOfDeliveries().apply(batch, connection)

    return in_batches(fold)


@pytest.mark.parametrize("spoiled", ["a\0b", "\ud800", "x\0" * 3000])
async def test_text_that_postgres_does_not_take_is_kept_cleaned_and_its_neighbours_whole(place: Place, spoiled: str) -> None:
    documents = [document(spoiled if number in {0, 133, 299} else f"w{number}", f"r{number:03}") for number in range(300)]
    last = (await put(place, documents))[-1]
    async with projecting(place, in_batches(events.RunsOfDeliveries().apply)) as running:
        await running.reached(last)
        clean = spoiled.replace("\0", "\ufffd").replace("\ud800", "\ufffd")
        found = [row[1] for row in await rows(place)]
        assert found == [clean if number in {0, 133, 299} else f"w{number}" for number in range(300)]
        assert running.told["salvaged"] == {"runs": 3}
        assert running.told["dead"] == {}
        assert running.health.ready, running.health.document()
    assert await letters(place) == []


@pytest.mark.parametrize("error", [KeyError("k"), OverflowError("o"), TypeError("t"), RecursionError("deep"), MemoryError("m")])
async def test_a_bug_in_a_fold_costs_only_the_message_that_meets_it(place: Place, error: Exception) -> None:
    documents = [document("bad" if number == 41 else "good", f"r{number:03}") for number in range(100)]
    sequences = await put(place, documents)
    async with projecting(place, failing(error)) as running:
        await running.reached(sequences[-1])
        assert [row[0] for row in await rows(place)] == [f"r{number:03}" for number in range(100) if number != 41]
        assert running.told["dead"] == {"runs": 1}
        assert running.told["last"] == {"runs": f"{type(error).__name__} at {sequences[41]}"}
        assert running.health.ready, running.health.document()
        (letter,) = await letters(place)
        assert base64.b64decode(letter.document_base64) == documents[41]
        assert (letter.stream, letter.sequence, letter.consumer) == ("RUNS", sequences[41], "events.runs")
        assert letter.error.startswith(type(error).__name__)
        # The rest goes on, and so does what comes later.
        await running.reached((await put(place, [document("good", "r999")]))[-1])
        assert (await rows(place))[-1][0] == "r999"


async def test_what_is_no_message_is_a_dead_letter_once(place: Place) -> None:
    broken = [b"\x00\xff no json", b"", document(subject=7), document(data={"run": 5}), document(time="+99999-01-01T00:00:00Z")]
    last = (await put(place, [document("w", "r1"), *broken, document("w", "r2")]))[-1]
    async with projecting(place, in_batches(events.RunsOfDeliveries().apply)) as running:
        await running.reached(last)
        assert [row[0] for row in await rows(place)] == ["r1", "r2"]
        assert running.told["dead"] == {"runs": len(broken)}
    assert [base64.b64decode(letter.document_base64) for letter in await letters(place)] == broken


async def test_a_message_whose_letter_does_not_fit_is_given_up_by_its_place_alone(place: Place) -> None:
    large = b"\xff" * 1_900_000
    sequences = await put(place, [large, document("w", "r1")])
    async with projecting(place, in_batches(events.RunsOfDeliveries().apply)) as running:
        await running.reached(sequences[-1])
        assert running.told["dead"] == {"runs": 1}
    (letter,) = await letters(place)
    assert (letter.stream, letter.sequence, letter.document_base64) == ("RUNS", sequences[0], "")
    assert "1900000 bytes" in letter.reason


async def test_a_replay_yields_no_second_letter_however_late(place: Place) -> None:
    last = (await put(place, [document("bad", "r1"), document("good", "r2")]))[-1]
    apply = failing(KeyError("k"))
    async with projecting(place, apply) as running:
        await running.reached(last)
        before = await rows(place)
    assert len(await letters(place)) == 1
    client = await nats.connect(place.nats_url("admin"))
    config = (await client.jetstream().stream_info("DEAD")).config
    # What the broker remembers of ids is gone after this, which in life takes ten minutes.
    config.duplicate_window = 0.1
    await client.jetstream().update_stream(config)
    await asyncio.sleep(0.3)
    await client.close()
    connection = await asyncpg.connect(place.database_url("events"))
    await connection.execute("TRUNCATE checkpoint, delivery_run")
    await connection.close()
    async with projecting(place, apply) as running:
        await running.reached(last)
        assert await rows(place) == before
        assert running.told["dead"] == {"runs": 1}
        # Another projection that cannot take it says so for itself.
    assert len(await letters(place)) == 1


@pytest.mark.parametrize("moment", range(1, 16, 2))
async def test_whoever_is_killed_within_a_salvage_leaves_equal_rows_and_one_letter(place: Place, moment: int) -> None:
    kinds = ["bad" if number == 5 else "a\0b" if number in {1, 9} else "good" for number in range(16)]
    last = (await put(place, [document(kind, f"r{number:02}") for number, kind in enumerate(kinds)]))[-1]
    takes = 0

    def dying(apply: Apply) -> Apply:
        async def apply_and_die(batch: Sequence[Delivered], incarnation: str, connection: Connection) -> Sequence[Statement]:
            nonlocal takes
            takes += 1
            if takes == moment:
                running.task.cancel()
                await asyncio.sleep(0)
            return await apply(batch, incarnation, connection)

        return apply_and_die

    async with projecting(place, dying(failing(KeyError("k")))) as running:
        # How many takes there are depends on what arrives together.
        whole = asyncio.create_task(running.reached(last))
        await asyncio.wait([running.task, whole], return_when=asyncio.FIRST_COMPLETED)
        await tasks.end([whole])
    async with projecting(place, failing(KeyError("k"))) as running:
        await running.reached(last)
    expected = [kind.replace("\0", "\ufffd") for kind in kinds if kind != "bad"]
    assert [row[1] for row in await rows(place)] == expected
    assert len(await letters(place)) == 1


async def test_whoever_is_killed_between_the_letter_and_the_checkpoint_leaves_one_letter(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = (await put(place, [document("bad", "r1"), document("good", "r2")]))[-1]

    async def bury_and_die(journal: Any, given_up: GivenUp, incarnation: str) -> None:
        await bury_in_place(journal, given_up, incarnation)
        running.task.cancel()
        await asyncio.sleep(0)

    with monkeypatch.context() as patched:
        patched.setattr(projection_module, "bury_in_place", bury_and_die)
        async with projecting(place, failing(KeyError("k"))) as running:
            with pytest.raises(asyncio.CancelledError):
                await running.task
    assert await rows(place) == []
    async with projecting(place, failing(KeyError("k"))) as running:
        await running.reached(last)
    assert [row[0] for row in await rows(place)] == ["r2"]
    assert len(await letters(place)) == 1


@pytest.mark.parametrize(
    "error",
    [
        Unavailable("the broker is away"),
        asyncpg.DeadlockDetectedError("deadlock detected"),
        asyncpg.SerializationError("could not serialize"),
        asyncpg.QueryCanceledError("statement timeout"),
        asyncpg.DiskFullError("no space left"),
        asyncpg.ReadOnlySQLTransactionError("a standby"),
        ConnectionResetError("cut"),
        TimeoutError(),
    ],
)
async def test_passing_trouble_is_waited_out_and_halves_nothing(place: Place, error: Exception) -> None:
    last = (await put(place, [document("w", f"r{number}") for number in range(20)]))[-1]
    writers: list[int] = []

    async def fold(batch: Sequence[Recorded], connection: Connection) -> Sequence[Statement]:
        writers.append(connection.get_server_pid())
        if len(writers) <= 2:
            raise error
        return await events.RunsOfDeliveries().apply(batch, connection)

    async with projecting(place, in_batches(fold)) as running:

        async def told() -> bool:
            return not running.health.ready

        await eventually(told)
        await running.reached(last)
        # Each time from the checkpoint, under the lock taken anew: not a half of what there was.
        assert len(set(writers)) == 3
        assert running.health.ready
        assert (running.told["salvaged"], running.told["dead"]) == ({}, {})
    assert len(await rows(place)) == 20
    assert await letters(place) == []


async def test_a_connection_that_is_cut_is_not_the_messages_fault(place: Place) -> None:
    last = (await put(place, [document("w", f"r{number}") for number in range(20)]))[-1]
    admin = await asyncpg.connect(place.database_url("admin"))
    cut = 0

    async def fold(batch: Sequence[Recorded], connection: Connection) -> Sequence[Statement]:
        nonlocal cut
        if not cut:
            cut = connection.get_server_pid()
            await admin.execute("SELECT pg_terminate_backend($1)", cut)

            async def gone() -> bool:
                return connection.is_closed()

            await eventually(gone)
            raise KeyError("what a fold makes of an answer that never came")
        return await events.RunsOfDeliveries().apply(batch, connection)

    async with projecting(place, in_batches(fold)) as running:
        await running.reached(last)
        assert running.told["dead"] == {}
    await admin.close()
    assert len(await rows(place)) == 20


async def test_a_schema_that_does_not_fit_buries_nothing_and_is_told(place: Place) -> None:
    admin = await asyncpg.connect(place.database_url("admin"))
    await admin.execute("ALTER TABLE events.delivery_run RENAME TO elsewhere")
    last = (await put(place, [document("w", f"r{number}") for number in range(3)]))[-1]
    async with projecting(place, in_batches(events.RunsOfDeliveries().apply)) as running:

        async def told() -> bool:
            return not running.health.ready

        await eventually(told)
        assert "delivery_run" in running.health.document()["parts"]["projection runs"]["detail"]
        await admin.execute("ALTER TABLE events.elsewhere RENAME TO delivery_run")
        await running.reached(last)

        async def well() -> bool:
            return running.health.ready

        await eventually(well)
    await admin.close()
    assert len(await rows(place)) == 3
    assert await letters(place) == []


async def test_a_letter_that_cannot_be_taken_yields_no_letter(place: Place) -> None:
    sequences = await put(place, [b"no letter", b"nor this"], "dead.events.x.y")
    async with projecting(place, in_batches(events.dead), stream="DEAD", name="dead") as running:
        await running.reached(sequences[-1])
        assert running.told["dead"] == {"dead": 2}
    client = await nats.connect(place.nats_url("admin"))
    assert (await client.jetstream().stream_info("DEAD")).state.messages == 2
    await client.close()


async def test_what_fails_only_together_is_taken_one_by_one(place: Place) -> None:
    last = (await put(place, [document("w", f"r{number}") for number in range(8)]))[-1]

    async def fold(batch: Sequence[Recorded], connection: Connection) -> Sequence[Statement]:
        if len(batch) > 1:
            raise ValueError("two of a kind")
        return await events.RunsOfDeliveries().apply(batch, connection)

    async with projecting(place, in_batches(fold)) as running:
        await running.reached(last)
        assert (running.told["salvaged"], running.told["dead"]) == ({}, {})
    assert len(await rows(place)) == 8


async def test_the_letter_of_a_row_says_nothing_about_its_delivery(place: Place) -> None:
    """It was handled: only a projection could not make a row of it."""
    letter = DeadLettered(
        service="events",
        verb="webhook.received",
        consumer="events.webhooks",
        stream="WEBHOOKS",
        sequence=1,
        subject="webhook.s.received",
        document_base64="",
        error="KeyError: 'k'",
        reason="no row can be made of it",
        tries=1,
        place="p",
    )
    async with bus_of(place, "events") as bus:
        assert await bus.publish(bus.seal(letter, org="acme")) == 1
        assert msgspec.structs.replace(letter, place=None).broker_headers() == {}
    async with projecting(place, in_batches(events.dead), stream="DEAD", name="dead") as running:
        await running.reached(1)
        assert (running.told["salvaged"], running.told["dead"]) == ({}, {})
