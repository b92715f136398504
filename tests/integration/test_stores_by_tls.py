"""Servers of the operator's own that are reached by TLS, with certificates of a private authority."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import nats.errors
import pytest
from sqlalchemy import text

from deploy import given
from deploy.broker import binary
from deploy.errors import StartError
from deploy.nats_cluster import held_ports
from deploy.prepare import prepare_broker, prepare_database
from deploy.service_env import nats_config_of
from shared.addresses import with_user
from shared.bus import connected
from shared.client import connect
from shared.config import ConfigError, Environment, read
from shared.db import open_engine, transaction
from shared.errors import Unavailable
from shared.health import Health
from tests.support.inside import eventually
from tests.support.servers import Place
from tests.support.servers import test_credentials as made_credentials
from tests.support.tls import Certificates, certificates_in, database_by_tls

CREDENTIALS = made_credentials()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates_in(tmp_path_factory.mktemp("tls"), "localhost")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates_in(tmp_path_factory.mktemp("others"), "localhost")


@asynccontextmanager
async def broker(folder: Path, certificates: Certificates) -> AsyncIterator[str]:
    """Run a broker of the printed configuration, which asks clients for a certificate; yields the administrator's address."""
    files = {"cert_file": certificates.server, "key_file": certificates.server, "ca_file": certificates.authority}
    named = "\n".join(f"  {name}: {json.dumps(str(path))}" for name, path in files.items())
    (folder / "tls.conf").write_text(f"tls {{\n{named}\n  verify: true\n}}\n")
    with held_ports(1) as (port,):
        url = with_user(f"tls://localhost:{port}", "admin", CREDENTIALS.nats_admin)
        config = folder / "nats.conf"
        config.write_text(nats_config_of(CREDENTIALS, url).replace("/data/jetstream", str(folder)).replace("0.0.0.0", "127.0.0.1"))
        process = await asyncio.create_subprocess_exec(str(binary()), "-c", str(config), stderr=asyncio.subprocess.PIPE)
        assert process.stderr is not None
        try:
            while b"Server is ready" not in (line := await process.stderr.readline()):
                assert line, "it has ended"
            beside = asyncio.create_task(process.stderr.read())
            yield url
        finally:
            process.kill()
            await process.wait()
        await beside


async def test_a_broker_is_reached_by_files_that_its_address_names_and_by_no_others(
    tmp_path: Path, certificates: Certificates, strangers: Certificates
) -> None:
    async with broker(tmp_path, certificates) as url:
        whole = f"{url}?sslrootcert={certificates.authority}&sslcert={certificates.server}"
        assert await prepare_broker(whole) == 1
        await given.check_users(whole, CREDENTIALS)
        service = with_user(whole, "events", CREDENTIALS.nats["events"])
        async with connected(service, service="events", health=Health("events")) as bus:
            client = bus.client
            await client.force_reconnect()

            async def again() -> bool:
                return client.is_connected and client.stats["reconnects"] == 1

            await eventually(again)
            await client.flush(30)
        for wrong in ("", f"?sslrootcert={strangers.authority}&sslcert={certificates.server}"):
            with pytest.raises(StartError, match="certificate verify failed") as refused:
                await prepare_broker(url + wrong)
            assert CREDENTIALS.nats_admin not in str(refused.value)
        for wrong in (
            f"?sslrootcert={certificates.authority}",
            f"?sslrootcert={certificates.authority}&sslcert={strangers.server}",
        ):
            with pytest.raises(StartError, match=r"cannot be reached: .*ended the connection within the handshake"):
                await prepare_broker(url + wrong)
        with pytest.raises(StartError, match=r"names '/nowhere/ca.pem' as sslrootcert, which cannot be read: No such file"):
            await prepare_broker(f"{url}?sslrootcert=/nowhere/ca.pem")


async def test_a_broker_that_says_it_has_no_tls_gets_no_password(certificates: Certificates) -> None:
    got: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"X","version":"2.12.0","max_payload":1048576,"auth_required":true}\r\n')
        got.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        for files in ("", f"?sslrootcert={certificates.authority}"):
            with pytest.raises((nats.errors.SecureConnWantedError, nats.errors.NoServersError)):
                await connect(f"tls://u:secret@127.0.0.1:{port}{files}", allow_reconnect=False, max_reconnect_attempts=1)
    assert not any(got)


async def test_a_database_is_reached_by_files_that_its_address_names_and_by_no_others(
    place: Place, certificates: Certificates, strangers: Certificates
) -> None:
    def by_tls(url: str, authority: Path) -> str:
        parts = urlsplit(url)
        at = f"{parts.netloc.rpartition('@')[0]}@localhost:{port}"
        return f"postgresql://{at}{parts.path}?sslmode=verify-full&sslrootcert={authority}"

    (folder,) = parse_qs(urlsplit(place.database_url("admin")).query)["host"]
    async with database_by_tls(Path(folder) / ".s.PGSQL.5432", certificates) as port:
        await prepare_database(by_tls(place.database_url("admin"), certificates.authority), place.credentials)
        with pytest.raises(StartError, match="certificate verify failed"):
            await prepare_database(by_tls(place.database_url("admin"), strangers.authority), place.credentials)
        with pytest.raises(StartError, match=r"names '/nowhere/ca.pem' as sslrootcert, which cannot be read: No such file"):
            await prepare_database(by_tls(place.database_url("admin"), Path("/nowhere/ca.pem")), place.credentials)
        engine = open_engine(by_tls(place.database_url("events"), certificates.authority), service="events")
        async with transaction(engine) as connection:
            assert (await connection.execute(text("SELECT current_user"))).scalar() == "millrace_events"
        await engine.dispose()
        # As when a certificate has expired: the database is away, which passes.
        engine = open_engine(by_tls(place.database_url("events"), strangers.authority), service="events")
        with pytest.raises(Unavailable, match="the database cannot be reached"):
            async with transaction(engine):
                pass
        await engine.dispose()


def test_a_service_names_the_variable_and_the_file_that_is_not_there(place: Place, certificates: Certificates) -> None:
    told = place.environment("events", MILLRACE_NATS_URL=f"tls://u:secret@a?sslrootcert={certificates.authority}.old")
    environment = Environment(told | {"MILLRACE_POOLED_DATABASE_URL": "postgresql://u:secret@a/b?sslkey=/x"})
    read(environment)
    with pytest.raises(ConfigError) as refused:
        environment.check()
    assert "secret" not in str(refused.value)
    assert [problem.path for problem in refused.value.problems] == ["MILLRACE_NATS_URL", "MILLRACE_POOLED_DATABASE_URL"]
    assert f"names '{certificates.authority}.old' as sslrootcert, which cannot be read" in refused.value.problems[0].message
