"""Changes of aggregates are decided from the present state, recorded once, and lose no other change."""

from __future__ import annotations

import asyncio

import pytest

from shared import aggregate
from shared.bus import Bus
from shared.envelope import Sealed, new_id
from shared.errors import Conflict, NotFound, PreconditionFailed
from shared.messages import RunCancelRequested, RunRequested
from shared.resources import KINDS, ResourceChanged, ResourceRemoved
from tests.support.inside import bus_of
from tests.support.servers import Place

CHANGED: type[ResourceChanged] = KINDS["variable"].changed or ResourceChanged
REMOVED: type[ResourceRemoved] = KINDS["variable"].removed or ResourceRemoved


async def added(bus: Bus, key: str, word: str, *, command: str | None = None, demanded: int | None = None) -> int:
    """Add a word to the list that the variable is; returns the version."""

    async def decide(before: aggregate.Stored | None) -> ResourceChanged:
        known = before and before.message()
        words = known.spec["value"] if isinstance(known, ResourceChanged) else []
        return CHANGED(key=key, id=key, name="words", spec={"value": [*words, word]}, actor=word, created_at="")

    changed = await aggregate.change(bus, "variable", key, decide, org="o", command=command or new_id(), demanded=demanded)
    return changed.sequence


async def removed(bus: Bus, key: str, command: str) -> None:
    async def decide(before: aggregate.Stored | None) -> ResourceRemoved:
        if not aggregate.version_of(before):
            raise NotFound("there is none")
        return REMOVED(key=key, id=key, name="words", actor="x")

    await aggregate.change(bus, "variable", key, decide, org="o", command=command)


async def words(bus: Bus, key: str) -> list[str]:
    stored = await aggregate.last(bus.client, "variable", key)
    message = stored and stored.message()
    assert isinstance(message, ResourceChanged)
    return list(message.spec["value"])


async def test_changes_at_once_are_decided_one_after_the_other_and_none_is_lost(place: Place) -> None:
    async with bus_of(place, "oauth") as one, bus_of(place, "oauth") as two:
        names = [f"w{number}" for number in range(8)]
        versions = await asyncio.gather(*(added((one, two)[number % 2], "k", name) for number, name in enumerate(names)))
        assert len(set(versions)) == len(names)
        assert sorted(await words(one, "k")) == names


async def test_of_two_that_demand_the_same_version_one_is_refused(place: Place) -> None:
    async with bus_of(place, "oauth") as one, bus_of(place, "oauth") as two:
        for demanded in (0, await added(one, "k", "first")):
            key = f"k{demanded}" if not demanded else "k"
            outcomes = await asyncio.gather(
                added(one, key, "a", demanded=demanded), added(two, key, "b", demanded=demanded), return_exceptions=True
            )
            assert sorted(isinstance(outcome, PreconditionFailed) for outcome in outcomes) == [False, True]


async def test_a_command_that_is_sent_again_is_done_once_whatever_others_did_since(place: Place) -> None:
    command = new_id()
    async with bus_of(place, "oauth") as one, bus_of(place, "oauth") as two:
        first = await added(one, "k", "a", command=command, demanded=0)
        assert await added(two, "k", "a", command=command, demanded=0) == first
        await added(one, "k", "b")
        assert await added(two, "k", "a", command=command) == first
        assert await words(one, "k") == ["a", "b"]


async def test_what_is_removed_is_at_version_0_and_may_come_back(place: Place) -> None:
    command = new_id()
    async with bus_of(place, "oauth") as bus:
        await added(bus, "k", "a")
        await removed(bus, "k", command)
        await removed(bus, "k", command)
        with pytest.raises(NotFound):
            await removed(bus, "k", new_id())
        await added(bus, "k", "b", demanded=0)
        assert await words(bus, "k") == ["b"]


async def test_nothing_is_recorded_where_there_is_nothing_to_do(place: Place) -> None:
    async def decide(_before: aggregate.Stored | None) -> ResourceChanged | None:
        return None

    async with bus_of(place, "oauth") as bus:
        assert await aggregate.change(bus, "variable", "k", decide, org="o", command=new_id()) is None
        assert await aggregate.last(bus.client, "variable", "k") is None


async def test_a_change_that_others_always_precede_is_given_up(place: Place) -> None:
    run = new_id()
    async with bus_of(place, "gateway") as bus:
        message = RunRequested(run=run, workflow="w", version="v", input={}, requested_by="test", timeout=60.0)
        await bus.publish(bus.seal(message, org="o"))
        asked = 0

        async def stale() -> tuple[None, int]:
            return None, 0

        async def decide(_state: None) -> Sealed[RunCancelRequested]:
            nonlocal asked
            asked += 1
            return bus.seal(RunCancelRequested(run=run, requested_by="x"), org="o")

        with pytest.raises(Conflict):
            await aggregate.advance(bus, stale, decide, tries=3)
        assert asked == 3
