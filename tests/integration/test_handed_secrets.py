"""Senders that make up the secret themselves: it is kept before anything can be verified, and found again by nobody."""

from __future__ import annotations

import asyncio
import hmac
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from services.events.registrations import plan, turn
from shared.envelope import open_message
from shared.messages import EventAccepted
from tests.integration.test_gateway import stream
from tests.integration.test_registrations import ADAPTER, registered, soon, stored, until
from tests.support.inside import bus_of, eventually, running
from tests.support.registering import Stripe, acme, stripe
from tests.support.resources import got, putting, removing, ring, told
from tests.support.river import Outside, sandbox_settings
from tests.support.servers import Place

__all__ = ["soon"]


async def taken(server: Stripe, id_: str, event: str) -> None:
    """Send an event until the gateway knows the secret that signs it; before that it is to come again, or refused."""

    async def accepted() -> bool:
        return await server.notify(id_, event) == 202

    await eventually(accepted)


async def test_the_secret_that_a_sender_makes_up_is_kept_before_its_first_webhook(place: Place) -> None:
    async with stripe() as server, registered(place, server) as made:
        await made.connect()
        source = await made.put(events=["invoice.paid", "charge.succeeded"], api_version="2025-03-31.basil", connect=True)
        assert source.secrets == []
        shown = await made.until("active")
        ((id_, one),) = server.made.items()
        assert shown["remote"] == id_
        assert one["url"] == f"{made.url}/hooks/{source.id}"
        assert (one["enabled_events"], one["api_version"], one["connect"]) == (
            ["invoice.paid", "charge.succeeded"],
            "2025-03-31.basil",
            "true",
        )
        # The first event came before the answer: it was asked to come again, never refused, and is there once.
        await until(lambda: bool(server.first) and server.first[-1] == 202)
        assert set(server.first) <= {503, 202}
        assert (await got(made.bus, "source", "mail")).secrets == ["secret"]
        assert await server.notify(id_, "evt_2") == 202
        assert await server.notify(id_, "evt_3", secret="another") == 401

        async def events() -> bool:
            found = [open_message(one, EventAccepted) for one in await stream(place, "EVENTS") if one.type == "event.accepted"]
            return [one.data["id"] for one in found] == [f"evt_{id_}", "evt_2"]

        await eventually(events)
        secret = one["secret"].encode()
        async with bus_of(place, "admin") as admin:
            for name in ("CATALOG", "WEBHOOKS", "EVENTS", "AUDIT"):
                assert not [document for document in await stored(admin, name) if secret in document], name
        assert set(await made.history(source.id)) == {"registration.begun", "registration.confirmed"}


async def test_another_wish_changes_what_is_there_and_keeps_its_secret(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "RENEWED_AT_LEAST", timedelta(seconds=0.5))
    async with stripe() as server, registered(place, server) as made:
        await made.connect()
        await made.put()
        id_ = (await made.until("active"))["remote"]
        await made.put(events=["charge.refunded"])
        await until(lambda: server.made[id_]["enabled_events"] == ["charge.refunded"])
        await made.until("active", remote=id_)
        await taken(server, id_, "evt_2")
        # Switched off there, it is switched on again; deleted there, it is made anew, and has another secret.
        server.made[id_]["status"] = "disabled"
        await until(lambda: server.made[id_]["status"] == "enabled")
        old = server.made.pop(id_)["secret"]
        await until(lambda: len(server.made) == 1)
        (second,) = server.made
        await made.until("active", remote=second)
        await taken(server, second, "evt_3")
        # What the old one had signed is on its way.
        assert await server.notify(second, "evt_4", secret=old) == 202
        await told(made.bus, putting("source", "mail", ring(place), patch=True, enabled=False))
        await until(lambda: server.made == {})
        assert sum(server.told.values()) == 2


async def test_a_secret_that_was_lost_on_the_way_has_the_endpoint_made_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stripe() as server, registered(place, server) as made:
        await made.connect()
        keeping = asyncio.Event()

        async def never(*_args: Any) -> None:
            keeping.set()
            await asyncio.Event().wait()

        with monkeypatch.context() as dying:
            dying.setattr(turn.Turn, "_keep_secret", never)
            await made.put()
            await asyncio.wait_for(keeping.wait(), 20)
            (first,) = server.made
        connection = await asyncpg.connect(place.database_url("admin"))
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'millrace-events-lock' AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
        )
        await connection.close()
        shown = await made.until("active")
        assert list(server.made) == [shown["remote"]] != [first]
        await taken(server, shown["remote"], "evt_2")
        # Taken out of the source, it is made up anew as well.
        await told(made.bus, putting("source", "mail", ring(place), patch=True, settings={"secret": None}))
        await until(lambda: shown["remote"] not in server.made and len(server.made) == 1)
        (third,) = server.made
        await made.until("active", remote=third)
        await taken(server, third, "evt_3")


async def test_an_answer_without_the_secret_leaves_nothing_there_and_says_so(place: Place) -> None:
    async with stripe() as server, registered(place, server) as made:
        server.tells = False
        await made.connect()
        source = await made.put()
        shown = await made.until("failing")
        assert "the sender's answer has no secret" in shown["error"]
        server.tells = True
        await made.until("active")
        assert len(server.made) == 1
        assert "registration.failed" in await made.history(source.id)
        await made.bus.ask(removing("source", "mail"))
        await until(lambda: server.made == {})


async def test_a_change_meanwhile_has_it_made_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with stripe() as server, registered(place, server) as made:
        await made.connect()
        keep, changed = turn.Turn._keep_secret, []

        async def after_a_change(self: Any, *args: Any) -> None:
            if not changed:
                changed.append(await told(made.bus, putting("source", "mail", ring(place), patch=True, settings={"weight": 2})))
            await keep(self, *args)

        monkeypatch.setattr(turn.Turn, "_keep_secret", after_a_change)
        await made.put()
        shown = await made.until("active")
        assert list(server.made) == [shown["remote"]]
        assert sum(server.told.values()) == 2
        await taken(server, shown["remote"], "evt_2")


async def test_an_adapter_of_a_workspace_declares_where_its_sender_tells_the_secret(place: Place, data: Path) -> None:
    executor = {"MILLRACE_DATA": str(data / "executor"), **sandbox_settings()}
    text = ADAPTER.replace(b'"key": Given.SECRET, ', b"").replace(b'answer="hook"', b'secret="key", answer="hook"')
    async with acme() as server, registered(place, server) as made, running(place, "executor", **executor):
        assert (await Outside(place, made.bus).put_file("adapters/acme.py", text)).problems == []
        await made.connect()
        source = await made.put()
        assert source.secrets == []
        shown = await made.until("active")
        key = server.made[shown["remote"]]["key"]
        signature = hmac.new(key.encode(), b"{}", "sha256").hexdigest()
        address = f"{made.url}/hooks/{source.id}"
        async with aiohttp.ClientSession() as session:

            async def answered(signature: str) -> int:
                async with session.post(address, data=b"{}", headers={"X-Acme-Signature": signature}) as answer:
                    return answer.status

            async def accepted() -> bool:
                return await answered(signature) == 202

            await eventually(accepted)
            assert await answered("0" * 64) == 401
