"""Servers of the operator's own that cannot be used: each is refused in a sentence that names what is wrong and what to do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from deploy import given
from deploy.broker import binary
from deploy.errors import StartError
from deploy.nats_cluster import held_ports
from deploy.prepare import prepare_broker, prepare_database
from shared.addresses import servers_of, with_user
from tests.support.servers import Place, Servers
from tests.support.servers import test_credentials as made_credentials


@asynccontextmanager
async def server(folder: Path, config: str) -> AsyncIterator[str]:
    """Run a broker of this configuration for the block; yields its address without a user."""
    with held_ports(1) as (port,):
        file = folder / "nats.conf"
        await asyncio.to_thread(file.write_text, f"listen: 127.0.0.1:{port}\n{config}")
        process = await asyncio.create_subprocess_exec(str(binary()), "-c", str(file), "-l", str(folder / "nats.log"))
        try:
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)  # no event tells of it
                else:
                    writer.close()
                    break
            yield f"nats://127.0.0.1:{port}"
        finally:
            process.kill()
            await process.wait()


async def test_a_broker_without_jetstream_is_refused(tmp_path: Path) -> None:
    async with server(tmp_path, "") as url:
        with pytest.raises(StartError, match=r"runs without JetStream: .*--print-nats-config"):
            await prepare_broker(url)


async def test_an_account_without_jetstream_is_refused(tmp_path: Path) -> None:
    config = f"jetstream {{ store_dir: {json.dumps(str(tmp_path))} }}\naccounts {{ A: {{ users: [{{user: a, password: b}}] }} }}"
    async with server(tmp_path, config) as url:
        with pytest.raises(StartError, match=r"has no JetStream for this account"):
            await prepare_broker(with_user(url, "a", "b"))


async def test_a_user_that_may_make_no_streams_is_refused(place: Place) -> None:
    with pytest.raises(StartError, match=r"may not make streams .*administrator"):
        await prepare_broker(place.nats_url("gateway"))


async def test_more_copies_than_servers_are_refused(place: Place) -> None:
    with pytest.raises(StartError, match=r"no place for 3 copies .*MILLRACE_NATS_REPLICAS"):
        await prepare_broker(place.nats_url("admin"), replicas=3)


async def test_an_unknown_user_is_named_and_its_password_is_not(place: Place) -> None:
    with pytest.raises(StartError, match=r"does not take the user 'nobody'") as refused:
        await prepare_broker(with_user(place.nats_url("admin"), "nobody", "secret-word"))
    assert "secret-word" not in str(refused.value)


async def test_services_that_the_broker_does_not_know_are_named(servers: Servers) -> None:
    async with servers.place(admitting=True) as place:
        await given.check_users(place.nats_url("admin"), servers.credentials)
        with pytest.raises(StartError, match=r"does not take the users gateway, events, executor, oauth, logs"):
            await given.check_users(place.nats_url("admin"), made_credentials())


async def test_a_broker_that_does_not_sync_is_named(servers: Servers) -> None:
    async with servers.place(admitting=True) as place:
        (told,) = await given.doubts_of_broker(place.nats_url("admin"), servers.credentials)
        assert "sync_interval: always" in told
        assert "millrace" in told


async def test_a_database_user_that_may_make_no_roles_is_refused(place: Place) -> None:
    with pytest.raises(StartError, match=r"user millrace_gateway may not do what is needed"):
        await prepare_database(place.database_url("gateway"), place.credentials)


async def test_a_database_that_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(StartError, match=r"cannot be reached: .*nowhere.* does not exist"):
        await prepare_database(place.database_url("admin").replace("/test_", "/nowhere_"), place.credentials)


async def test_a_database_of_another_encoding_is_refused(place: Place) -> None:
    url = place.database_url("admin")
    admin = await asyncpg.connect(url)
    try:
        await admin.execute("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
        other = url.replace("/test_", "/latin?x=", 1).replace("?x=" + url.split("/test_")[1].split("?")[0] + "?", "?")
        with pytest.raises(StartError, match=r"has the encoding LATIN1; Millrace needs UTF8"):
            await prepare_database(other, place.credentials)
    finally:
        await admin.execute("DROP DATABASE IF EXISTS latin")
        await admin.close()


async def test_the_first_server_may_be_away(place: Place) -> None:
    url = place.nats_url("admin")
    with held_ports(1) as (nobody,):
        several = url.replace("127.0.0.1:", f"127.0.0.1:{nobody},127.0.0.1:")
        assert len(servers_of(several)) == 2
        assert await prepare_broker(several) == 1
