"""Tokens in memory: given out only while nothing of them has changed anywhere, on record before, few, and not for long."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from services.oauth import credential_cache
from services.oauth.credential_cache import CredentialCache, ReadyCredential
from services.oauth.outbox import Outbox
from services.oauth.store import Stamp
from shared.commit import Journal
from shared.envelope import open_envelope, open_message
from shared.errors import MillraceError, NotFound, Unavailable
from shared.messages import Audited
from shared.ordered_reader import OrderedReader
from shared.questions.oauth import GetToken
from tests.support import resources
from tests.support.connections import Asking, asking, asking_processes
from tests.support.inside import bus_of, eventually
from tests.support.oauth_provider import answers
from tests.support.servers import Place

# Of so many at once each of two replicas gets some.
MANY = 16


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[CredentialCache, int]:
    """Return how many questions each replica has answered from its memory."""
    counts: dict[CredentialCache, int] = {}
    real = CredentialCache.of

    async def of(self: CredentialCache, asked: GetToken) -> tuple[Stamp | None, ReadyCredential | None]:
        found = await real(self, asked)
        counts[self] = counts.get(self, 0) + (found[1] is not None)
        return found

    monkeypatch.setattr(CredentialCache, "of", of)
    return counts


async def everywhere(it: Asking, name: str = "halo", **how: Any) -> set[str]:
    """Return what is given to many who ask at once."""
    return {one.token for one in await asyncio.gather(*(it.given(name, **how) for _ in range(MANY)))}


async def warm(it: Asking, served: dict[CredentialCache, int], name: str = "halo", **how: Any) -> str:
    """Return the token once both replicas give it out from their memory."""
    served.clear()

    async def both() -> set[str] | None:
        found = await everywhere(it, name, **how)
        return found if len([one for one in served.values() if one]) == 2 else None

    (token,) = await eventually(both)  # type: ignore[misc]
    return str(token)


async def refused(it: Asking, error: type[MillraceError], match: str, name: str = "halo", **how: Any) -> None:
    """Have nobody of many be given anything."""
    found = await asyncio.gather(*(it.given(name, **how) for _ in range(MANY)), return_exceptions=True)
    assert {(type(one), match in str(one)) for one in found} == {(error, True)}, found


async def test_what_is_changed_at_one_replica_is_given_out_by_none_after_that(
    place: Place, served: dict[CredentialCache, int]
) -> None:
    async with asking(place, replicas=2) as it:
        await it.authorize()
        first = await warm(it, served)
        await it.refresh()
        second = await everywhere(it)
        assert len(second) == 1
        assert first not in second
        await warm(it, served)
        await it.again()
        assert not await everywhere(it) & {first, *second}
        await warm(it, served)
        await it.gateway.ask(resources.removing("connection", "halo", org="acme"))
        await refused(it, NotFound, "there is no connection")
        await it.put("connection", "halo", token="a-static-token")
        assert await warm(it, served) == "a-static-token"
        await it.put("connection", "halo", token="another-token")
        assert await everywhere(it) == {"another-token"}


async def test_a_grant_that_ended_gives_its_token_to_nobody_though_that_lives(
    place: Place, served: dict[CredentialCache, int]
) -> None:
    async with asking(place, replicas=2) as it:
        await it.authorize()
        token = await warm(it, served)
        it.provider.always = answers(400, {"error": "invalid_grant"})
        with pytest.raises(MillraceError):
            await it.refresh()
        assert (await it.shown()).status == "needs_reauthorization"
        await refused(it, Unavailable, "needs to be authorized again")
        it.provider.always = None
        await it.again()
        assert token not in await everywhere(it)


async def test_a_name_of_its_own_comes_before_the_platforms_and_a_changed_provider_counts_at_once(
    place: Place, served: dict[CredentialCache, int]
) -> None:
    async with asking(place, replicas=2) as it:
        await it.put("provider", "desk", org="global", token_url=f"{it.provider.url}/token", header="X-Key")
        await it.put("connection", "halo", org="global", grant="api_key", provider="desk", token="the-platforms")
        assert await warm(it, served) == "the-platforms"
        assert (await it.given()).headers == {"X-Key": "the-platforms"}
        await it.put("provider", "desk", org="global", token_url=f"{it.provider.url}/token", header="X-Other")
        found = await asyncio.gather(*(it.given() for _ in range(MANY)))
        assert {tuple(one.headers) for one in found} == {("X-Other",)}
        await warm(it, served)
        await it.put("connection", "halo", token="its-own")
        assert await everywhere(it) == {"its-own"}
        assert await everywhere(it, org="other") == {"the-platforms"}


async def test_two_processes_give_no_token_after_another_one_was_acknowledged(place: Place) -> None:
    async with asking_processes(place, 2) as (it, _):
        await it.authorize()
        acknowledged, ended = 1, False

        async def asks() -> int:
            count = 0
            while not ended:
                least = acknowledged
                assert (await it.given()).answer.version >= least
                count += 1
            return count

        asking = [asyncio.create_task(asks()) for _ in range(8)]
        for _ in range(15):
            await it.refresh()
            acknowledged += 1
        ended = True
        assert sum(await asyncio.gather(*asking)) > 0
        assert (await it.given()).answer.version == acknowledged


async def test_who_waited_for_an_attempt_gets_what_was_stored_after_that(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, let = asyncio.Event(), asyncio.Event()
    real = Outbox.flush

    async def flush(self: Outbox, id_: str) -> None:
        if not stored.is_set():
            stored.set()
            await let.wait()
        await real(self, id_)

    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        monkeypatch.setattr(Outbox, "flush", flush)
        waiting = asyncio.create_task(it.given())
        await stored.wait()
        await it.again()
        let.set()
        assert [(await waiting).answer.version, (await it.given()).answer.version] == [(await it.row())["version"]] * 2


async def test_every_giving_out_is_on_record_before_also_of_what_is_in_memory(
    place: Place, served: dict[CredentialCache, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(place) as it, bus_of(place, "admin") as admin:
        shown = await it.put("connection", "halo", token="a-static-token")
        for _ in range(3):
            await it.given()
        assert sum(served.values()) == 2
        batches = OrderedReader(admin.client, "AUDIT").batches()
        records: list[Audited] = []
        while len(records) < 3:
            found = [open_message(open_envelope(one.data), Audited) for one in await asyncio.wait_for(anext(batches), 60)]
            records += [one for one in found if one.verb == "given"]
        await batches.aclose()
        assert [one.detail for one in records] == [{"run": "r1", "connection": shown.id, "owner": "acme", "version": 1}] * 3

        async def fails(*_args: Any, **_more: Any) -> Any:
            raise Unavailable("the broker did not confirm the message")

        monkeypatch.setattr(Journal, "publish", fails)
        with pytest.raises(Unavailable, match="did not confirm"):
            await it.given()
        assert sum(served.values()) == 3


async def test_without_an_answer_of_the_database_nothing_in_memory_is_given_out(
    place: Place, served: dict[CredentialCache, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(place) as it:
        await it.put("connection", "halo", token="a-static-token")
        await it.given()
        await it.given()
        assert sum(served.values()) == 1
        async with place.database_away():
            with pytest.raises(Unavailable):
                await it.given()
        await eventually(lambda: _is_given(it.given))
        # One that is there and does not answer: each table is locked.
        locking = await asyncpg.connect(place.database_url("oauth"))
        try:
            for cache in served:
                monkeypatch.setattr(cache._stamps, "_within", 0.1)
            async with locking.transaction():
                await locking.execute("LOCK TABLE vault IN ACCESS EXCLUSIVE MODE")
                found = await asyncio.gather(*(it.given() for _ in range(MANY)), return_exceptions=True)
                assert {type(one) for one in found} == {Unavailable}
        finally:
            await locking.close()
        await eventually(lambda: _is_given(it.given))


async def _is_given(given: Callable[[], Awaitable[Any]]) -> bool:
    try:
        await given()
    except Unavailable:
        return False
    return True


async def test_a_flood_of_one_organization_is_not_answered_before_another_ones_question(place: Place) -> None:
    async with asking(place) as it:
        for org in ("acme", "other"):
            await it.put("connection", "halo", org=org, token=f"of-{org}")
            await it.given(org=org)
        flood = [asyncio.create_task(it.given(org="acme")) for _ in range(800)]
        await asyncio.sleep(0)
        assert (await it.given(org="other")).token == "of-other"
        assert sum(one.done() for one in flood) < 600
        assert {one.token for one in await asyncio.gather(*flood)} == {"of-acme"}


async def test_few_are_in_memory_and_none_for_long(
    place: Place, served: dict[CredentialCache, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential_cache, "MOST", 2)
    async with asking(place) as it:
        for number in range(4):
            await it.put("connection", f"halo-{number}", token=f"token-{number}")
            assert (await it.given(f"halo-{number}")).token == f"token-{number}"
        (cache,) = served
        assert len(cache) == 2
        await it.given("halo-3")
        assert served[cache] == 1
        await it.put("connection", "large", token="x" * 9000)
        await it.given("large")
        assert len(cache) == 2
        await cache.close()
        monkeypatch.setattr(credential_cache, "KEPT_FOR", 0.05)
        await it.given("halo-0")
        assert len(cache) <= 1

        async def is_forgotten() -> bool:
            return len(cache) == 0

        await eventually(is_forgotten)
