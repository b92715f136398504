"""What goes wrong between here and a provider, one test each, on real servers: the numbers are those of the list of failures."""

from __future__ import annotations

import asyncio
import base64
import errno
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp import web

from services.oauth import attempts, refresh, scheduling, token_endpoint
from services.oauth.spool import Spool
from services.oauth.store import KeptStore
from services.oauth.token_store import TokenStore
from shared.bus import Bus
from shared.commit import Journal
from shared.db import open_engine
from shared.encryption import Keyring
from shared.envelope import open_message, utc_now
from shared.errors import NotFound, Unavailable
from shared.messages import Audited, ConnectionNeedsReauthorization, ConnectionRefreshed, ConnectionRefreshFailed
from shared.ordered_reader import OrderedReader
from shared.owners.rotation import Rotation, renew
from tests.chaos.installation import children_of
from tests.integration.test_oauth_connections import stored
from tests.support import resources
from tests.support.connections import CALLBACK, Asking, asking, oauth_process
from tests.support.inside import bus_of, eventually, running
from tests.support.oauth_provider import Asked, answers, hangs
from tests.support.resources import listed
from tests.support.servers import Place


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is refreshed in time unless a test says so: each is about one attempt."""
    monkeypatch.setattr(scheduling, "EVERY", 3600.0)


async def refreshes(it: Asking) -> int:
    """Return how many refreshes the provider was asked for."""
    return sum(one.grant == "refresh_token" for one in it.provider.asked)


async def test_02_a_hundred_who_ask_are_one_request(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()

        async def patient() -> str:
            while True:
                try:
                    return (await it.given()).token
                except Unavailable:
                    # More than may wait at a time come back.
                    await asyncio.sleep(0.05)

        found = await asyncio.gather(*(patient() for _ in range(100)))
        assert len(set(found)) == 1
        assert await refreshes(it) == 1


async def test_03_the_loser_of_a_race_returns_what_the_winner_stored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT", 3600.0)  # as of a replica that stands still
    monkeypatch.setattr(attempts, "LEASE", timedelta(seconds=0.3))
    async with asking(place, replicas=2) as it:
        await it.authorize()
        await it.expire()
        came, let = asyncio.Event(), asyncio.Event()

        async def late(_asked: Asked) -> web.StreamResponse:
            # The other one's request comes first, and rotates; this one's token is refused then.
            came.set()
            await let.wait()
            return web.json_response({"error": "invalid_grant"}, status=400)

        it.provider.faults = [late]
        loser = asyncio.create_task(it.given())
        await came.wait()
        await it.row("until = now() - interval '1 second'")
        winners: set[str] = set()
        while len(winners) < 1:
            # Of two that are asked in turns one waits for its own attempt.
            asked = asyncio.create_task(it.given())
            done, _ = await asyncio.wait({asked}, timeout=1)
            if done:
                winners.add(asked.result().token)
        let.set()
        assert {(await loser).token} == winners
        assert (await it.shown()).status == "healthy"
        assert await refreshes(it) == 2


async def test_04_a_claim_goes_on_for_as_long_as_its_holder_waits(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether it goes on is seen of its end: one that is short might end while the machine stands still.
    monkeypatch.setattr(attempts, "BEAT", 0.1)
    async with asking(place, replicas=2) as it:
        await it.authorize()
        await it.expire()
        came, let = it.provider.hold_next()
        asked = [asyncio.create_task(it.given()) for _ in range(8)]  # of both replicas
        await came.wait()
        first = (await it.row())["until"]

        async def goes_on() -> bool:
            return bool((await it.row())["until"] > first + timedelta(seconds=1))

        await eventually(goes_on)
        let.set()
        assert len({(await one).token for one in asked}) == 1
        assert await refreshes(it) == 1


async def test_04_a_result_that_comes_after_its_lease_replaces_nothing(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        came, let = it.provider.hold_next()
        late = asyncio.create_task(it.given())
        await came.wait()
        # Another one claims it meanwhile, and stores what it got.
        before = await it.row("fence = fence + 1, version = version + 1, expires_at = now() + interval '1 hour', until = NULL")
        let.set()
        await late
        after = await it.row()
        assert (after["version"], after["sealed"], after["fence"]) == (before["version"], before["sealed"], before["fence"])


async def test_06_a_token_that_the_database_does_not_take_is_kept_and_stored_later(place: Place, tmp_path: Path) -> None:
    async with asking(place, MILLRACE_DATA=str(tmp_path)) as it:
        shown = await it.authorize()
        await it.expire()
        came, let = it.provider.hold_next()
        late = asyncio.create_task(it.given())
        await came.wait()
        async with place.database_away():
            let.set()
            await eventually(lambda: _files(tmp_path))
            (file,) = (tmp_path / "unstored").iterdir()
            assert file.stat().st_mode & 0o077 == 0
            assert not any(token in file.read_text() for token in it.provider.given)
        await late
        assert (await it.shown()).status == "healthy"
        assert await refreshes(it) == 1
        assert await _files(tmp_path) == []
        assert (await it.published(shown.id))[-1].token_version == 2  # type: ignore[attr-defined]
        assert it.provider.is_alive()


async def test_06_a_token_that_no_file_can_take_either_is_stored_once_the_database_is_back(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unkept = asyncio.Event()

    def full(*_: Any) -> None:
        unkept.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Spool, "keep", full)
    async with asking(place, MILLRACE_DATA=str(tmp_path)) as it:
        await it.authorize()
        await it.expire()
        came, let = it.provider.hold_next()
        late = asyncio.create_task(it.given())
        await came.wait()
        async with place.database_away():
            let.set()
            await unkept.wait()
        await late
        assert (await it.shown()).status == "healthy"
        assert it.provider.is_alive()


async def test_06_a_token_that_was_never_stored_is_stored_by_the_next_process(place: Place, tmp_path: Path) -> None:
    async with asking(place, MILLRACE_DATA=str(tmp_path)) as it:
        await it.authorize()
        await it.expire()
        with pytest.MonkeyPatch.context() as broken:

            async def fails(*_args: Any, **_more: Any) -> Any:
                raise Unavailable("the database cannot be reached")

            broken.setattr(TokenStore, "renew", fails)
            broken.setattr(refresh, "WAIT", 0.5)
            broken.setattr(refresh, "DRAIN", 0.1)
            with pytest.raises(Unavailable):
                await it.given()
            await eventually(lambda: _files(tmp_path))
            provider = it.provider
            await it.row("until = now() - interval '1 second'")
            async with running(place, "oauth", MILLRACE_DATA=str(tmp_path), MILLRACE_EGRESS_ALLOW="127.0.0.1"):
                pass
        async with running(place, "oauth", MILLRACE_DATA=str(tmp_path), MILLRACE_EGRESS_ALLOW="127.0.0.1"):

            async def is_stored() -> bool:
                # The file goes after the row is there.
                return (await it.row())["version"] == 2 and not await _files(tmp_path)

            await eventually(is_stored)
        assert provider.is_alive()


async def _files(folder: Path) -> list[Path]:
    return sorted((folder / "unstored").glob("*.json"))


async def test_07_without_the_bus_a_token_is_refreshed_and_the_message_comes_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asking(place) as it:
        shown = await it.authorize()
        await it.expire()
        real = Journal.append

        async def fails(self: Journal, sealed: Any, expected: int) -> Any:
            if sealed.envelope.type == "connection.refreshed":
                raise Unavailable("the broker did not confirm the message")
            return await real(self, sealed, expected)

        with monkeypatch.context() as broken:
            broken.setattr(Journal, "append", fails)
            assert (await it.given()).token in it.provider.given

        async def is_published() -> bool:
            return isinstance((await it.published(shown.id))[-1], ConnectionRefreshed)

        await eventually(is_published)
        assert [type(one).__name__ for one in await it.published(shown.id)].count("ConnectionRefreshed") == 1


async def test_08_without_the_store_of_claims_nobody_is_asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_args: Any, **_more: Any) -> Any:
        raise Unavailable("the database cannot be reached")

    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        with monkeypatch.context() as broken:
            broken.setattr(TokenStore, "claim", fails)
            with pytest.raises(Unavailable, match="the database cannot be reached"):
                await it.given()
        assert await refreshes(it) == 0
        await it.given()


async def test_09_an_ended_grant_is_dead_with_one_message_and_asked_for_no_more(place: Place) -> None:
    async with asking(place) as it:
        shown = await it.authorize()
        await it.expire()
        it.provider.dead.add("family")
        for _ in range(3):
            with pytest.raises(Unavailable, match="needs to be authorized again"):
                await it.given()
        found = await it.shown()
        assert (found.status, found.reason) == ("needs_reauthorization", "the provider answered 400 (invalid_grant)")
        assert "authorize" in found.advice
        assert await refreshes(it) == 1
        assert sum(isinstance(one, ConnectionNeedsReauthorization) for one in await it.published(shown.id)) == 1
        assert (await it.row())["refresh_at"] is None
        it.provider.dead.clear()
        await it.again()
        assert (await it.shown()).status == "healthy"
        await it.given()


async def test_10_a_refused_client_is_the_providers_alarm_and_no_connections_end(
    place: Place, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.put("connection", "other", grant="client_credentials", provider="local")
        await it.expire()
        it.provider.clients["client"] = "rotated"
        for name in ("halo", "other", "halo"):
            with pytest.raises(Unavailable, match="invalid_client"):
                await it.given(name)
        assert [one.grant for one in it.provider.asked[1:]] == ["refresh_token", "client_credentials"]
        assert capsys.readouterr().out.count("provider.misconfigured") == 1
        assert {one.status for one in (await listed(it.gateway, "connection", org="acme"))[0]} == {"degraded"}
        # 40: the new secret serves at once, whatever pause there was.
        await it.provide(client_secret="rotated")
        for name in ("halo", "other"):
            await it.given(name)
        assert it.provider.is_alive()


async def test_11_an_outage_passes(place: Place) -> None:
    async with asking(place) as it:
        shown = await it.authorize()
        await it.expire()
        it.provider.faults = [answers(500, b"<html>")] * 3
        for _ in range(3):
            with pytest.raises(Unavailable, match="answered 500"):
                await it.given()
            await it.row("not_before = NULL")
        assert (await it.shown()).status == "degraded"
        await it.given()
        assert ((await it.shown()).status, (await it.shown()).reason) == ("healthy", None)
        failed = [one for one in await it.published(shown.id) if isinstance(one, ConnectionRefreshFailed)]
        assert [(one.failure, one.status) for one in failed] == [("transient", "degraded")]


async def test_11_a_pause_is_kept_by_all_who_ask(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        it.provider.always = answers(500)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await it.given()
            await it.row("not_before = now() + interval '1 minute'")
        assert await refreshes(it) == 1


@pytest.mark.parametrize(("status", "after"), [(503, "120"), (429, "120"), (429, None)])
async def test_12_to_14_a_throttling_provider_is_left_alone_by_all_its_connections(
    place: Place, status: int, after: str | None
) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.put("connection", "other", grant="client_credentials", provider="local")
        await it.expire()
        it.provider.faults = [answers(status, **({} if after is None else {"Retry_After": after}))]
        with pytest.raises(Unavailable, match=str(status)) as refused:
            await it.given()
        assert refused.value.retry_after is not None
        assert (100 if after else 25) < refused.value.retry_after <= 121
        with pytest.raises(Unavailable, match="wants no requests"):
            await it.given("other")
        assert len(it.provider.asked) == 2
        connection = await asyncpg.connect(place.database_url("oauth"))
        await connection.execute("UPDATE provider_gate SET closed_until = now()")
        await connection.close()
        await it.given("other")


async def test_15_and_17_who_is_not_reached_has_seen_nothing(place: Place) -> None:
    """A port where nobody listens, and one that speaks no TLS: the refresh token is as good as before."""
    async with asking(place) as it:
        await it.authorize()
        url = it.provider.url
        for wrong in ("http://127.0.0.1:9/token", f"{url.replace('http', 'https')}/token"):
            await it.provide(token_url=wrong)
            await it.expire()
            # Else it would not be sent to another address than its own at all.
            await it.row("origin = NULL")
            with pytest.raises(Unavailable, match="could not be fetched from"):
                await it.given()
            assert not (await it.row())["attempting"]
        await it.provide()
        await it.given()
        assert it.provider.is_alive()


@pytest.mark.parametrize("grace", [True, False])
async def test_16_a_lost_answer_may_have_rotated(place: Place, monkeypatch: pytest.MonkeyPatch, *, grace: bool) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        it.provider.grace = grace

        async def rotates_and_hangs(asked: Asked) -> web.StreamResponse:
            it.provider.usual(asked)
            return await hangs(asked)

        it.provider.faults = [rotates_and_hangs]
        with monkeypatch.context() as impatient:
            impatient.setattr(token_endpoint, "REQUEST", 1.0)
            with pytest.raises(Unavailable, match="did not answer"):
                await it.given()
        assert (await it.row())["attempting"]
        await it.row("not_before = NULL")
        if grace:
            # The old token still works for a while.
            await it.given()
            assert (await it.shown()).status == "healthy"
            return
        with pytest.raises(Unavailable, match="invalid_grant"):
            await it.given()
        assert (await it.shown()).status == "degraded"
        await it.row("not_before = NULL")
        with pytest.raises(Unavailable, match="needs to be authorized again"):
            await it.given()
        assert (await it.shown()).status == "needs_reauthorization"


async def test_18_a_redirect_is_not_followed(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        it.provider.faults = [answers(307, Location=f"{it.provider.url}/token")]
        with pytest.raises(Unavailable, match="never followed"):
            await it.given()
        assert await refreshes(it) == 1
        found = await it.shown()
        assert (found.status, found.advice is not None) == ("degraded", True)


async def test_19_rubbish_is_tried_again_and_then_is_a_mistake(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        it.provider.always = answers(200, b"<html>access-token</html>", Content_Type="text/html")
        for number in range(4):
            with pytest.raises(Unavailable, match="without a token"):
                await it.given()
            row = await it.row("not_before = NULL")
            # Soon, and then as seldom as what a person has to repair.
            assert (row["refresh_at"] > utc_now() + timedelta(minutes=5)) == (number == 3)
            assert ("settings" in (await it.shown()).advice) == (number == 3)


async def test_20_an_error_within_a_200_is_one(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        it.provider.faults = [answers(200, {"error": "bad_refresh_token", "error_description": "access-token-1-secret"})]
        with pytest.raises(Unavailable, match="needs to be authorized again") as refused:
            await it.given()
        assert "secret" not in refused.value.detail


async def test_24_to_27_what_an_answer_leaves_out_stays_and_what_it_changes_is_replaced(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        it.provider.rotates = False
        for refresh_token in (None, ""):
            it.provider.more = {"refresh_token": refresh_token, "scope": "read"}
            await it.expire()
            await it.given()
        sent = [one.parameters["refresh_token"] for one in it.provider.asked if one.grant == "refresh_token"]
        assert len(set(sent)) == 1
        assert (await it.shown()).granted_scope == "read"
        it.provider.rotates, it.provider.more = True, {}
        for _ in range(2):
            await it.expire()
            await it.given()
        sent = [one.parameters["refresh_token"] for one in it.provider.asked if one.grant == "refresh_token"]
        assert len(set(sent)) == 2
        assert it.provider.is_alive()


async def test_29_the_clock_of_a_provider_does_not_matter(place: Place) -> None:
    async with asking(place) as it:
        it.provider.more = {"expires_at": 1, "issued_at": "0", "created_at": 4_000_000_000}
        shown = await it.authorize()
        left = shown.expires_at
        assert left is not None
        await it.given()
        assert await refreshes(it) == 0


async def test_30_and_31_a_refused_token_is_replaced_once_a_minute_and_a_late_report_is_ignored(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        first = await it.given()
        second = await it.given(rejected=first.answer.version)
        assert second.token != first.token
        late = await it.given(rejected=first.answer.version)
        assert (late.token, late.answer.unreplaced) == (second.token, None)
        assert (await it.shown()).status == "healthy"
        # What was got for that and is refused as well may be refused for another reason.
        again = await it.given(rejected=second.answer.version)
        assert (again.token, await refreshes(it)) == (second.token, 1)
        assert "less than 60 s ago" in (again.answer.unreplaced or "")
        shown = await it.shown()
        assert (shown.status, "(401)" in shown.reason, "refresh halo" in shown.advice) == ("degraded", True, True)
        # It may also have been revoked since: later it is replaced again, and so is one that a person has demanded.
        await it.row("refreshed_at = now() - interval '61 seconds'")
        third = await it.given(rejected=second.answer.version)
        assert (third.token != second.token, third.answer.unreplaced) == (True, None)
        assert ((await it.shown()).status, (await it.shown()).reason) == ("healthy", None)
        await it.refresh()
        fourth = await it.given()
        fifth = await it.given(rejected=fourth.answer.version)
        assert len({one.token for one in (first, second, third, fourth, fifth)}) == 5
        assert await refreshes(it) == 4
        # Where the provider gives none, its answer is why.
        await it.row("refreshed_at = now() - interval '61 seconds'")
        it.provider.faults = [answers(500)]
        kept = await it.given(rejected=fifth.answer.version)
        assert (kept.token, "answered 500" in (kept.answer.unreplaced or "")) == (fifth.token, True)
        await it.put("connection", "plain", token="a-token")
        version = (await it.given("plain")).answer.version
        assert "not a provider's" in ((await it.given("plain", rejected=version)).answer.unreplaced or "")


async def test_33_what_nobody_asks_for_is_refreshed_in_time_all_the_same(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "EVERY", 0.05)
    async with asking(place) as it:
        await it.authorize()
        await it.row("refresh_at = now()")

        async def is_refreshed() -> bool:
            return (await it.row())["version"] == 2

        await eventually(is_refreshed)
        row = await it.row()
        assert row["refresh_at"] > row["refreshed_at"]
        assert await refreshes(it) == 1


async def test_34_a_provider_is_asked_some_at_a_time_and_another_one_is_not_held_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "EVERY", 0.05)
    # Nothing that waits is given up before the end.
    monkeypatch.setattr(token_endpoint, "REQUEST", 600.0)
    async with asking(place) as it:
        await it.provide(concurrency=3)
        slow = it.provider
        for number in range(20):
            await it.put("connection", f"c{number}", grant="client_credentials", provider="local")
            await it.given(f"c{number}")
        let = asyncio.Event()

        async def waits(_asked: Asked) -> None:
            await let.wait()

        slow.always = waits
        await it.row("refresh_at = now()")

        async def are_under_way() -> bool:
            return slow.at_once == 3

        await eventually(are_under_way)
        url = it.provider.url
        # The other one shares the server, and is told apart by its client.
        slow.clients["quick"] = "quick-secret"

        async def only_quick(asked: Asked) -> None:
            if asked.client[0] != "quick":
                await let.wait()

        slow.always = only_quick
        await it.put("provider", "quick", token_url=f"{url}/token", client_id="quick", client_secret="quick-secret")
        await it.put("connection", "quick", grant="client_credentials", provider="quick")
        await it.given("quick")
        await it.put("connection", "plain", token="tok")
        await it.given("plain")
        let.set()

        async def are_done() -> bool:
            connection = await asyncpg.connect(place.database_url("oauth"))
            try:
                return await connection.fetchval("SELECT count(*) FROM token WHERE version >= 2") == 20
            finally:
                await connection.close()

        await eventually(are_done)
        assert slow.most_at_once <= 4


async def test_35_a_connection_that_is_removed_while_it_is_refreshed_stays_away_and_its_tokens_are_revoked(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        came, let = it.provider.hold_next()
        late = asyncio.create_task(it.given())
        await came.wait()
        await it.gateway.ask(resources.removing("connection", "halo", org="acme"))
        let.set()
        with pytest.raises(NotFound):
            await late

        async def are_revoked() -> bool:
            return {one["token"] for one in it.provider.revoked} >= set(it.provider.given)

        await eventually(are_revoked)
        assert await it.row() is None


@pytest.mark.parametrize("client", ["client", "another"])
async def test_36_a_new_grant_wins_over_a_refresh_of_the_old_one_and_is_ended_by_nothing_of_it(place: Place, client: str) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        came, let = asyncio.Event(), asyncio.Event()

        async def slow(_asked: Asked) -> web.StreamResponse:
            came.set()
            await let.wait()
            return web.json_response({"access_token": "old-grant-secret", "refresh_token": "old-refresh-secret"})

        it.provider.faults = [slow]
        late = asyncio.create_task(it.patient())
        await came.wait()
        it.provider.clients["another"] = "client-secret"
        await it.provide(client_id=client)
        await it.again()
        expected = (await it.given()).token
        let.set()
        assert await late == expected
        assert (await it.given()).token == expected
        # All that one client has of a person is one grant to some providers; with another client it is another one.
        old = ["old-refresh-secret", "old-grant-secret"] if client == "another" else []
        await it.gateway.ask(resources.removing("connection", "halo", org="acme"))

        async def are_revoked() -> bool:
            return [one["token"] for one in it.provider.revoked][: len(old)] == old and len(it.provider.revoked) == len(old) + 2

        await eventually(are_revoked)


async def test_37_tokens_are_sealed_anew_also_while_one_is_refreshed(place: Place) -> None:
    newer = os.urandom(32)
    kept = base64.b64decode(place.credentials.keys[0])
    engine = open_engine(place.database_url("oauth"), service="oauth")
    rotating = Rotation("oauth", Keyring((newer, kept)), {"vault": KeptStore(engine), "token": TokenStore(engine)})
    both = ",".join(base64.b64encode(key).decode() for key in (kept, newer))
    async with asking(place, MILLRACE_KEYS=both) as it:
        await it.authorize()
        await it.expire()
        came, let = it.provider.hold_next()
        late = asyncio.create_task(it.given())
        await came.wait()
        before = (await it.row())["sealed"]
        assert await renew(rotating, set()) == 2
        assert (await it.row())["sealed"].split(".")[1] != before.split(".")[1]
        let.set()
        expected = (await late).token
        # What was got meanwhile is sealed with the key that its process has, and is next.
        assert await renew(rotating, set()) == 1
    await engine.dispose()
    place.credentials.keys.insert(0, base64.b64encode(newer).decode())
    try:
        async with asking(place) as it:
            assert (await it.given()).token == expected
    finally:
        place.credentials.keys.pop(0)


async def test_38_and_39_what_does_not_open_is_quarantined_and_nothing_else(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.put("connection", "other", grant="client_credentials", provider="local")
        await it.given("other")
        connection = await asyncpg.connect(place.database_url("oauth"))
        rows = {row["connection"]: row["sealed"] for row in await connection.fetch("SELECT connection, sealed FROM token")}
        one, other = rows
        await connection.execute("UPDATE token SET sealed = $2 WHERE connection = $1", one, rows[other])
        broken, well = ("halo", "other") if one == (await it.shown()).id else ("other", "halo")
        with pytest.raises(Unavailable, match="altered, or belongs elsewhere"):
            await it.given(broken)
        await it.given(well)
        parts = rows[one].split(".")
        missing = ".".join((parts[0], "0" * 16, *parts[2:]))
        await connection.execute("UPDATE token SET sealed = $2 WHERE connection = $1", one, missing)
        await connection.close()
        assert ((await it.shown(broken)).status, (await it.shown(well)).status) == ("quarantined", "healthy")
        with pytest.raises(Unavailable, match=r"the key 0{16}"):
            await it.given(broken)


@asynccontextmanager
async def asked_by(place: Place, issuer: str = "https://issuer.example") -> AsyncIterator[Asking]:
    """Have a connection that a person is to authorize, at a provider with an issuer."""
    async with asking(place) as it:
        await it.provide(issuer=issuer)
        await it.put("connection", "halo", grant="authorization_code", provider="local")
        yield it


async def test_46_what_is_not_the_provider_s_answer_is_refused(place: Place) -> None:
    """A wrong `iss`, another address, a refusal (`access_denied`), no code: none is exchanged, and each uses the state up."""
    async with asked_by(place) as it:
        ways: list[tuple[dict[str, Any], str]] = [
            ({"iss": "https://evil.example"}, "another issuer"),
            ({"redirect": "https://evil.example/oauth/callback"}, "another address"),
            ({"error": "access_denied"}, "not allowed"),
            ({"error": "<b>x</b>"}, "refused"),
            ({"code": None}, "no code"),
        ]
        for more, words in ways:
            _, state = await it.begin()
            code = more.pop("code", "a-code-secret")
            ended = await it.finish(state, code, **more)
            assert words in (ended.reason or "")
            # Whatever came of it, it is used up.
            assert "used already" in ((await it.finish(state)).reason or "")
        assert it.provider.asked == []


async def test_46_a_state_that_is_reused_expired_guessed_or_another_browser_s_is_refused(place: Place) -> None:
    async with asked_by(place) as it:
        asked, state = await it.begin()
        assert asked["code_challenge_method"] == "S256"
        assert len(state) >= 43
        assert "used already" in ((await it.finish("guessed")).reason or "")
        assert "another browser" in ((await it.finish(state, browser="another one's")).reason or "")
        connection = await asyncpg.connect(place.database_url("oauth"))
        stored = await connection.fetchrow("SELECT * FROM authorization_request")
        assert stored is not None
        assert state not in repr(dict(stored))
        await connection.execute("UPDATE authorization_request SET expires_at = now() - interval '1 second'")
        await connection.close()
        assert "older than ten minutes" in ((await it.finish(state)).reason or "")
        with pytest.raises(NotFound, match="older than ten minutes"):
            await it.open(state)
        assert it.provider.asked == []
        _, state = await it.begin()
        it.provider.codes["a-code-secret"] = {"redirect_uri": CALLBACK}
        assert (await it.finish(state, iss="https://issuer.example")).reason is None
        assert (await it.shown()).status == "healthy"
        (exchange,) = it.provider.asked
        assert {"code_verifier", "redirect_uri"} <= exchange.parameters.keys()
        assert "used already" in ((await it.finish(state)).reason or "")


async def test_47_a_code_is_refused_the_second_time(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        _, state = await it.begin()
        ended = await it.finish(state)
        assert "invalid_grant" in (ended.reason or "")
        assert (await it.shown()).status == "healthy"


async def test_48_a_connection_goes_also_where_its_provider_revokes_nothing(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize(revoke_url="http://127.0.0.1:9/revoke")
        await it.gateway.ask(resources.removing("connection", "halo", org="acme"))
        with pytest.raises(NotFound):
            await it.given()
        assert await it.row() is None


async def test_49_an_endless_answer_is_not_read(place: Place) -> None:
    async with asking(place) as it:
        await it.authorize()
        await it.expire()
        it.provider.faults = [answers(200, b"x" * 10_000_000)]
        with pytest.raises(Unavailable, match="answered more than"):
            await it.given()


async def test_50_no_token_is_in_any_log_message_table_archive_answer_or_process_list(
    place: Place, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    async with (
        asking(place) as it,
        oauth_process(place) as process,
        running(place, "logs"),
        bus_of(place, "admin") as admin,
        connected_to(place) as connection,
    ):
        shown = await it.authorize()
        it.provider.faults = [
            None,
            answers(400, {"error": "access-token-1-secret"}),
            answers(500, b"refresh-token-family-1-secret"),
        ]
        said = [repr(shown)]
        for _ in range(3):
            await it.expire()
            try:
                await it.given()
            except Unavailable as error:
                said.append(error.detail)
        for pid in (process.pid, *children_of(process.pid), os.getpid(), *children_of(os.getpid())):
            said += [Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace") for name in ("cmdline", "environ")]
        await it.gateway.ask(resources.removing("connection", "halo", org="acme"))
        streams = {one.config.name or "": one.state.messages for one in await admin.client.jetstream().streams_info()}

        async def is_archived() -> bool:
            return await connection.fetchval("SELECT count(*) FROM logs.message WHERE stream = 'CONNECTIONS'") >= 4

        await eventually(is_archived)
        for name, count in streams.items():
            said += [repr(bytes(one.data)) for one in await messages_of(admin, name, count)]
        tables = await connection.fetch(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        assert {"oauth", "logs", "events", "executor"} <= {schema for schema, _ in tables}
        for schema, table in tables:
            said += [repr(row) for row in await connection.fetch(f'SELECT * FROM "{schema}"."{table}"')]
        output = capsys.readouterr()
        said += [output.out, output.err, caplog.text]
        secrets = [*it.provider.given, "a-code-secret", "client-secret"]
        assert len(secrets) > 5
        assert len(said) > 50
        found = [secret for secret in secrets for one in said if secret in one]
        assert found == []


@asynccontextmanager
async def connected_to(place: Place) -> AsyncIterator[Any]:
    """Be connected with the database as its administrator for the block."""
    connection = await asyncpg.connect(place.database_url("admin"))
    try:
        yield connection
    finally:
        await connection.close()


async def messages_of(bus: Bus, stream: str, count: int) -> list[Any]:
    """Return so many messages of a stream."""
    found: list[Any] = []
    batches = OrderedReader(bus.client, stream).batches()
    while len(found) < count:
        found += await asyncio.wait_for(anext(batches), 60)
    await batches.aclose()
    return found


async def test_every_token_that_a_provider_gave_is_given_on_record(place: Place) -> None:
    async with asking(place) as it, bus_of(place, "admin") as admin:
        await it.authorize()
        await it.given()
        it.provider.always = answers(500)
        await it.expire()
        with pytest.raises(Unavailable):
            await it.given()
        records = [open_message(one, Audited) for one in await stored(admin, "AUDIT", 2)]
        assert [one.outcome for one in records] == ["ok", "unavailable"]
