"""What an older version, or a bug, left on the stream ends its own run at most: the runs beside it, and the service, go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.executor.runs import end_messages
from services.executor.runs.poison import Poison
from services.executor.workspaces.bundles import Manifest
from shared import suspects
from shared.blobs import Blobs
from shared.bus import Bus
from shared.envelope import new_id, rfc3339, seal, utc_now
from shared.messages import (
    ConcurrencySlot,
    Message,
    RunRequested,
    RunResumed,
    RunStarted,
    RunWaiting,
    TimerSet,
    Wait,
    declaration_of,
)
from shared.messages.catalog import Policy
from shared.questions.runs import RunView
from shared.streams import SUSPECTS
from tests.contract.test_handling import dead_letters
from tests.support.inside import bus_of, eventually
from tests.support.river import Outside, river
from tests.support.servers import Place

WORKFLOWS = b"""
from millrace import runs, sleep, wait_for, workflow


@workflow
async def fine() -> str:
    await sleep(0.01)
    return "fine"


@workflow(retries=1)
def again() -> None:
    raise OSError("no")


@workflow
async def parent() -> str:
    child = await runs.astart("asking")
    try:
        await runs.wait(child)
    except Exception as error:
        return str(error)


@workflow
async def asking() -> None:
    await wait_for("answer")
"""
UNREADABLE = b"\xff\0 this is no message"


class Written:
    """A run whose messages are written straight to the stream, as no service of this version would."""

    def __init__(self, bus: Bus, version: str) -> None:
        self._bus = bus
        self._version = version
        self.run = new_id()

    async def raw(self, subject: str, document: bytes) -> None:
        await self._bus.client.jetstream().publish(subject, document)

    async def say(self, message: Message, **fields: Any) -> None:
        """Write a message with some fields of its data replaced by what no struct of ours would hold."""
        sealed = seal(message, service="executor", org="default", now=utc_now())
        document = msgspec.json.decode(sealed.document)
        document["data"] |= fields
        await self.raw(declaration_of(message).subject(message), msgspec.json.encode(document))

    async def requested(self, workflow: str = "fine", **fields: Any) -> None:
        message = RunRequested(run=self.run, workflow=workflow, version=self._version, requested_by="test", timeout=60.0, input={})
        await self.say(message, **fields)

    async def waiting(self, **fields: Any) -> None:
        await self.say(RunStarted(run=self.run, attempt=1, executor="killed", tier="none"))
        await self.say(RunWaiting(run=self.run, attempt=1, blocked_on="time"), **fields)


@asynccontextmanager
async def house(place: Place, data: Path) -> AsyncIterator[tuple[Outside, Bus, str]]:
    async with river(place, data) as outside, bus_of(place, "admin") as admin:
        view = await outside.put_file("workflows.py", WORKFLOWS)
        assert view.problems == []
        yield outside, admin, await outside.version("fine")
        # Whatever there was: who comes now is served, and so is who waits.
        assert (await outside.run(await outside.request("fine"), "succeeded")).result == "fine"


@asynccontextmanager
async def nobody_at_home(place: Place, data: Path) -> AsyncIterator[Written]:
    """Deploy with an executor that is gone for the block."""
    async with house(place, data) as (_, _admin, version):
        pass
    async with bus_of(place, "admin") as admin:
        yield Written(admin, version)


async def poisoned(outside: Outside, run: str) -> RunView:
    ended = await outside.run(run, "crashed")
    assert (ended.reason, ended.error and ended.error.type) == ("poison", "Poison")
    return ended


UNRECKONED: list[dict[str, Any]] = [
    {"deadline": 1e300},
    {"deadline": 3600.0, "run_at": "garbage"},
    {"run_at": "garbage"},
    {"run_at": "2026-01-01T00:00:00"},
    {"run_at": "0001-01-01T00:00:00+14:00", "deadline": 1e300},
    {"run_at": ""},
    {"timeout": 1e300},
    {"concurrency_key": "a\0b"},
    {"concurrency_key": "\0" * 10_000},
    {"priority": "loud"},
]


async def test_what_a_request_holds_that_cannot_be_reckoned_with_is_read_leniently(place: Place, data: Path) -> None:
    async with house(place, data) as (outside, admin, version):
        for fields in UNRECKONED:
            written = Written(admin, version)
            await written.requested(**fields)
            assert (await outside.run(written.run, "succeeded")).result == "fine", fields


async def test_a_time_to_wait_for_that_is_none_has_come(place: Place, data: Path) -> None:
    runs = []
    async with nobody_at_home(place, data) as written:
        for until in ("garbage", "", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00"):
            written.run = new_id()
            await written.requested()
            await written.waiting(blocked_on="retry", until=until)
            runs.append(written.run)
    async with house(place, data) as (outside, _, _version):
        for run in runs:
            assert (await outside.run(run, "succeeded")).result == "fine"


async def test_a_policy_of_an_older_version_is_read_leniently(place: Place, data: Path) -> None:
    async with house(place, data) as (outside, _admin, version):
        blobs = Blobs(outside.bus.client, "workspace")
        manifest = msgspec.json.decode(await blobs.read(version), type=Manifest)
        policy = Policy(retry_delay=1e15, retry_max_delay=1e300, queue_timeout=1e300, concurrency_limit=-(10**12))
        old = [
            msgspec.structs.replace(found, policy=policy, timeout=-5.0, concurrency="workflow", retries=10**12)
            for found in manifest.workflows
        ]

        async def parts() -> AsyncIterator[bytes]:
            yield msgspec.json.encode(Manifest(manifest.files, old))

        stored = (await blobs.put(parts())).sha256
        run = await outside.request("again", version=stored, deadline=1e300)
        waiting = await outside.run(run, "waiting")
        assert waiting.blocked_on == "retry"
        assert waiting.until is not None
        assert waiting.until < rfc3339(utc_now()).replace("2026", "2028")


async def test_a_run_whose_messages_cannot_be_read_crashes_with_the_reason(place: Place, data: Path) -> None:
    async with house(place, data) as (outside, admin, version):
        run = await outside.request("asking")
        await outside.run(run, "waiting")
        written = Written(admin, version)
        await written.raw(f"run.{run}.step_completed", UNREADABLE)
        await written.raw(f"timer.{run}.fired.executor", UNREADABLE)
        neighbour = await outside.request("fine")
        await written.say(TimerSet(key=run, owner="executor", at="garbage"))
        # Somebody looks at it.
        await written.raw(f"timer.{run}.fired.executor", b"{}")
        message = RunResumed(run=run, priority="normal")
        await written.say(message, run=run)
        ended = await poisoned(outside, run)
        assert ended.error is not None
        assert "unknown message type" in ended.error.message
        assert (await outside.run(neighbour, "succeeded")).result == "fine"


async def test_a_run_that_makes_the_followers_raise_ends_and_its_neighbours_go_on(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(place, data) as (outside, _, _version):
        bad, good = await outside.request("asking"), await outside.request("asking")
        for run in (bad, good):
            await outside.run(run, "waiting")
        from services.executor.runs import decide

        resumption = decide.resumption

        def raises(state: Any, *given: Any) -> Any:
            if state.id == bad:
                raise ZeroDivisionError("a bug")
            return resumption(state, *given)

        monkeypatch.setattr(decide, "resumption", raises)
        for run in (bad, good):
            await outside.signal(run, "answer")
        ended = await poisoned(outside, bad)
        assert ended.error is not None
        assert "ZeroDivisionError: a bug" in ended.error.message
        await outside.run(good, "succeeded")


async def test_a_run_that_makes_its_worker_raise_ends_after_three_tries(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_outcome = end_messages.of_outcome
    tries: list[str] = []

    def raises(run: str, attempt: int, outcome: Any) -> Any:
        if outcome.error is not None:
            tries.append(run)
            raise ZeroDivisionError("a bug")
        return of_outcome(run, attempt, outcome)

    monkeypatch.setattr(end_messages, "of_outcome", raises)
    async with house(place, data) as (outside, _, _version):
        run = await outside.request("again")
        neighbour = await outside.request("fine")
        ended = await poisoned(outside, run)
        assert ended.error is not None
        assert "ZeroDivisionError: a bug" in ended.error.message
        assert tries == [run] * 3
        assert (await outside.run(neighbour, "succeeded")).result == "fine"


async def test_failures_with_one_run_in_several_places_at_once_end_it_once(place: Place) -> None:
    async with bus_of(place, "executor") as bus:
        poison = Poison(bus)
        outcomes = await asyncio.gather(*(poison.record("nobodys", ValueError(str(number))) for number in range(6)))
        assert outcomes == [False, False, True, True, True, True]


async def test_the_parent_of_a_poisoned_run_is_told_of_its_end(place: Place, data: Path) -> None:
    async with house(place, data) as (outside, admin, version):
        parent = await outside.request("parent")
        waiting = await outside.run(parent, "waiting")
        (wait,) = waiting.waits
        child = wait.name
        await outside.run(child, "waiting")
        written = Written(admin, version)
        await written.raw(f"run.{child}.step_completed", UNREADABLE)
        # Looking at the parent meanwhile does it no harm.
        await written.say(TimerSet(key=parent, owner="executor", at="garbage"))
        await written.say(RunResumed(run=child, priority="normal"))
        await poisoned(outside, child)
        ended = await outside.run(parent, "succeeded")
        assert "crashed" in ended.result


async def test_a_run_whose_turn_cannot_be_looked_up_ends_alone(place: Place, data: Path) -> None:
    async with nobody_at_home(place, data) as written:
        await written.requested()
        slot = ConcurrencySlot("a\0b", 10**12, "queue")
        await written.say(RunWaiting(run=written.run, attempt=0, blocked_on="concurrency"), slot=msgspec.to_builtins(slot))
    async with house(place, data) as (outside, _, _version):
        assert (await outside.run(written.run, "succeeded")).result == "fine"


async def test_a_wait_of_a_kind_that_nobody_knows_ends_its_run_only(place: Place, data: Path) -> None:
    async with nobody_at_home(place, data) as written:
        await written.requested()
        waits = [msgspec.to_builtins(Wait(kind="run", name="not a key!", ordinal=0, position=0))]
        await written.waiting(blocked_on="event", waits=waits)
    async with house(place, data) as (outside, _, _version):
        await poisoned(outside, written.run)


FORGING = b"""
from millrace import workflow
from millrace._runtime import channel


@workflow(queue_timeout=3600)
def target() -> str:
    return "ran"


@workflow
def forging(fields: dict) -> str:
    asked = {"workflow": "target", "ordinal": 0, "position": 0, "input": {}}
    return channel.current.ask("start_run", **(asked | fields)).result()
"""


FORGED: list[dict[str, Any]] = [
    {"run_at": "garbage"},
    {"run_at": "9999-12-31T23:59:59-14:00"},
    {"ordinal": 2**40},
    {"position": 2**31},
    {"priority": "urgent"},
    {"concurrency_key": "x" * 300},
    {"workflow": "x" * 1000},
]


async def test_a_request_that_is_forged_past_the_sdk_ends_its_own_run(place: Place, data: Path) -> None:
    async with house(place, data) as (outside, _, _version):
        view = await outside.put_file("forging.py", FORGING)
        assert view.problems == []
        for fields in FORGED:
            ended = await outside.run(await outside.request("forging", input={"fields": fields}), "crashed")
            assert ended.reason == "sandbox", fields
            assert ended.error is not None
            assert ended.error.type == "FrameError"


async def test_a_run_that_is_asked_for_more_than_a_year_ahead_is_refused(place: Place, data: Path) -> None:
    async with house(place, data) as (outside, _, _version):
        await outside.put_file("forging.py", FORGING)
        run = await outside.request("forging", input={"fields": {"run_at": "9000-01-01T00:00:00Z"}})
        ended = await outside.run(run, "failed")
        assert ended.error is not None
        assert "more than a year ahead" in ended.error.message


async def test_a_work_message_of_which_three_executors_died_is_given_up_unread(
    place: Place, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "UNSUSPICIOUS", 0)
    async with river(place, data) as outside, bus_of(place, "admin") as admin:
        await outside.put_file("workflows.py", WORKFLOWS)
        stream = admin.client.jetstream()
        marks = await stream.key_value(SUSPECTS)
        mark = f"executor-runs-normal.{(await stream.stream_info('RUNS')).state.last_seq + 1}"
        await marks.put(mark, b"3")
        deadly = await outside.request("fine")
        fine = await outside.request("fine")
        assert (await outside.run(fine, "succeeded")).result == "fine"
        await eventually(lambda: dead_letters(place))
        [letter] = await dead_letters(place)
        assert (letter.reason, letter.subject) == ("ends its service", f"run.{deadly}.requested.normal")
        assert await outside.types(deadly) == ["run.requested"]
        assert await marks.keys() == [mark]
