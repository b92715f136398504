"""The state of workflows in a real database: each change whole, seen by all, made once, and bounded for each organization."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.executor import state, tables
from services.executor.removing import BESIDES, COUNTED
from services.executor.state import StateChange, States, VersionConflict
from shared.db import open_engine
from shared.envelope import new_id
from shared.errors import Invalid, NotFound, TooLarge, TooMany
from shared.owners.removing import Deadline, Rows
from tests.support.servers import Place


@pytest_asyncio.fixture
async def replicas(place: Place) -> AsyncIterator[list[States]]:
    engines = [open_engine(place.database_url("executor"), service="executor") for _ in range(2)]
    yield [States(engine) for engine in engines]
    for engine in engines:
        await engine.dispose()


def change(key: str, org: str = "default", *, id_: str | None = None) -> StateChange:
    return StateChange(org=org, key=key, by="run:1", id=id_ or new_id())


async def test_increments_of_many_at_once_are_all_counted(replicas: list[States]) -> None:
    told = await asyncio.gather(*(one.increment(change("n"), 1, None) for _ in range(100) for one in replicas))
    assert sorted(found.value for found in told) == list(range(1, 201))
    assert len({found.version for found in told}) == 200


async def test_of_many_who_expect_one_version_one_is_first(replicas: list[States]) -> None:
    async def put(one: States, expected: int) -> int | None:
        try:
            return (await one.put(change("a"), expected, expected, None)).version
        except VersionConflict:
            return None

    (made,) = [found for found in await asyncio.gather(*(put(one, 0) for _ in range(20) for one in replicas)) if found]
    (again,) = [found for found in await asyncio.gather(*(put(one, made) for _ in range(20) for one in replicas)) if found]
    assert again > made
    with pytest.raises(VersionConflict, match=f"expected at version {made}: version {again} is there"):
        await replicas[0].delete(change("a"), made)
    assert await replicas[0].delete(change("a"), again)
    assert not await replicas[0].delete(change("a"), None)
    # Made again it is another one.
    assert (await replicas[1].put(change("a"), 1, 0, None)).version > again


async def test_a_change_that_is_made_again_is_made_once(replicas: list[States]) -> None:
    again = change("n", id_=new_id())
    told = [await one.increment(again, 5, None) for one in (*replicas, *replicas)]
    assert [found.value for found in told] == [5, 5, 5, 5]


async def test_what_has_expired_is_there_for_nobody_and_is_made_anew(replicas: list[States]) -> None:
    one, other = replicas
    await one.put(change("short"), "a", None, 0.001)
    await one.increment(change("window"), 7, 0.001)
    await one.put(change("long"), "a", None, 1000)
    with pytest.raises(NotFound):
        await other.get("default", "short")
    assert [found.key for found in await other.page("default", "", "", 10)] == ["long"]
    assert (await other.increment(change("window"), 1, 1000)).value == 1
    kept = (await other.increment(change("window"), 1, None)).expires_at
    assert kept == (await one.get("default", "window")).expires_at is not None
    assert (await one.put(change("short"), "b", 0, None)).value == "b"
    await one.put(change("gone"), 1, None, 0.001)
    assert await one._expire() == 1


async def test_lists_are_by_key_and_of_one_organization(replicas: list[States]) -> None:
    for key in ("b/2", "b/10", "a", "c%", "b_"):
        await replicas[0].put(change(key), key, None, None)
    await replicas[0].put(change("b/3", "other"), 1, None, None)
    assert [found.key for found in await replicas[1].page("default", "b/", "", 10)] == ["b/10", "b/2"]
    assert [found.key for found in await replicas[1].page("default", "", "b/10", 2)] == ["b/2", "b_"]
    assert [found.key for found in await replicas[1].page("default", "c%", "", 10)] == ["c%"]


async def test_an_organization_has_so_many_keys_of_so_many_bytes_and_others_are_not_touched(
    replicas: list[States], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "KEYS", 5)
    await replicas[0].put(change("x", "quiet"), 1, None, None)
    await replicas[0].put(change("short"), 1, None, 0.001)

    async def put(number: int) -> bool:
        try:
            await replicas[number % 2].put(change(f"k{number}"), number, None, None)
        except TooMany:
            return False
        return True

    assert sum(await asyncio.gather(*map(put, range(30)))) == 5
    await replicas[0].put(change("y", "quiet"), 1, None, None)
    with pytest.raises(TooMany):
        await replicas[0].increment(change("another"), 1, None)
    with pytest.raises(TooLarge, match="at most 16384"):
        await replicas[0].put(change("k1"), "x" * 20_000, None, None)
    with pytest.raises(Invalid, match="NUL"):
        await replicas[0].put(change("k1"), "a\0", None, None)


async def test_state_goes_with_its_organization(place: Place, replicas: list[States]) -> None:
    for org in ("gone", "here"):
        await replicas[0].put(change("a", org), 1, None, None)
    engine = open_engine(place.database_url("executor"), service="executor")
    rows = Rows(engine, tables.metadata, BESIDES)
    assert await rows.count("gone", COUNTED) == {"state": 1}
    assert await rows.delete("gone", Deadline()) == {"state": 1}
    await engine.dispose()
    with pytest.raises(NotFound):
        await replicas[0].get("gone", "a")
    assert (await replicas[0].get("here", "a")).value == 1


async def test_what_is_no_number_or_would_be_too_large_is_not_incremented(replicas: list[States]) -> None:
    for value, by in (("a", 1), (1.5, 1), (True, 1), (None, 1), (2**53, 1), (-(2**53), -1)):
        await replicas[0].put(change("n"), value, None, None)
        with pytest.raises(Invalid):
            await replicas[0].increment(change("n"), by, None)
        assert (await replicas[0].get("default", "n")).value == value
