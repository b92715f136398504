"""The real servers that tests share: one NATS with many accounts, one Postgres with a database per test."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import nats
import nats.js.errors

from deploy.broker import EmbeddedNats
from deploy.credentials import Credentials
from deploy.permissions import nats_config, users
from deploy.postgres import SETTINGS, SUPERUSER, EmbeddedPostgres
from deploy.prepare import prepare_broker, prepare_database
from shared.messages.log import SERVICES
from tests.support.places import in_memory

# Tests of one worker run one after the other; a few accounts let one be cleaned while the next is in use.
ACCOUNTS = 6
TEMPLATE = "millrace_template"
# Tests kill processes, after which the system still has what they wrote, and never the machine: nothing waits for a disk.
UNSYNCED = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "256MB"}


def test_credentials() -> Credentials:
    """Return secrets for one test session."""
    return Credentials(
        nats_admin=secrets.token_urlsafe(16),
        nats={service: secrets.token_urlsafe(16) for service in SERVICES},
        nats_issuer=base64.b64encode(secrets.token_bytes(32)).decode(),
        postgres_admin=secrets.token_urlsafe(16),
        postgres={service: secrets.token_urlsafe(16) for service in SERVICES},
        keys=[base64.b64encode(secrets.token_bytes(32)).decode()],
        admin_key="mr_" + secrets.token_urlsafe(24),
    )


class Servers:
    """Both servers, running, with a template database that is prepared once."""

    def __init__(self, broker: EmbeddedNats, postgres: EmbeddedPostgres, credentials: Credentials) -> None:
        self.broker = broker
        self.postgres = postgres
        self.credentials = credentials
        self._free = list(range(ACCOUNTS))
        self._databases = 0

    @asynccontextmanager
    async def place(self, *, admitting: bool = False) -> AsyncIterator[Place]:
        """Give out an account and a fresh database, both prepared, for the block. Subscribers read of one that is `admitting`."""
        number = -1 if admitting else self._free.pop(0)
        suffix = "" if admitting else f"-{number}"
        self._databases += 1
        database = f"test_{self._databases}"
        admin = await asyncpg.connect(self.postgres.url(SUPERUSER, self.credentials.postgres_admin, "postgres"))
        try:
            await admin.execute(f'CREATE DATABASE "{database}" TEMPLATE "{TEMPLATE}" STRATEGY FILE_COPY')
            for service in SERVICES:
                # Settings of a role in a database are not copied with the template.
                await admin.execute(f'ALTER ROLE millrace_{service} IN DATABASE "{database}" SET search_path = {service}')
            place = Place(self, suffix, database)
            await prepare_broker(place.nats_url("admin"))
            try:
                yield place
            finally:
                await self._clean(place)
                self._free += [] if admitting else [number]
                await admin.execute(f'DROP DATABASE "{database}" WITH (FORCE)')
        finally:
            await admin.close()

    async def _clean(self, place: Place) -> None:
        client = await nats.connect(place.nats_url("admin"))
        try:
            js = client.jetstream(timeout=10)
            await asyncio.gather(*(js.delete_stream(str(info.config.name)) for info in await js.streams_info()))
        finally:
            await client.close()


class Place:
    """Where one test works: addresses of its account and of its database."""

    def __init__(self, servers: Servers, suffix: str, database: str) -> None:
        self.servers = servers
        self.credentials = servers.credentials
        self._suffix = suffix
        self._database = database

    def nats_url(self, service: str) -> str:
        """Return the broker's address for a service, or for `admin`."""
        password = self.credentials.nats_admin if service == "admin" else self.credentials.nats[service]
        parts = urlsplit(self.servers.broker.url(f"{service}{self._suffix}", password))
        return urlunsplit(parts)

    def database_url(self, service: str) -> str:
        """Return the database's address for a service, or for `admin`."""
        if service == "admin":
            return self.servers.postgres.url(SUPERUSER, self.credentials.postgres_admin, self._database)
        return self.servers.postgres.url(f"millrace_{service}", self.credentials.postgres[service], self._database)

    @property
    def broker_pid(self) -> int:
        """The process that the broker of all places is."""
        pid = self.servers.broker.supervised.state.pid
        assert pid is not None
        return pid

    @asynccontextmanager
    async def database_away(self) -> AsyncIterator[None]:
        """Cut the services' connections for the block and let none of them in: to them the database is away."""
        admin = await asyncpg.connect(self.servers.postgres.url(SUPERUSER, self.credentials.postgres_admin, "postgres"))
        try:
            await admin.execute(f'ALTER DATABASE "{self._database}" CONNECTION LIMIT 0')
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND usename LIKE 'millrace_%'",
                self._database,
            )
            yield
        finally:
            await admin.execute(f'ALTER DATABASE "{self._database}" CONNECTION LIMIT -1')
            await admin.close()

    def environment(self, service: str, **more: str) -> dict[str, str]:
        """Return the environment of a service in this place."""
        return {
            "MILLRACE_NATS_URL": self.nats_url(service),
            "MILLRACE_DATABASE_URL": self.database_url(service),
            "MILLRACE_KEYS": ",".join(self.credentials.keys),
            "MILLRACE_ADMIN_KEY": self.credentials.admin_key,
            **more,
        }


@asynccontextmanager
async def running_servers() -> AsyncIterator[Servers]:
    """Start both servers in a temporary folder for the block."""
    credentials = test_credentials()
    with (
        tempfile.TemporaryDirectory(prefix="mr-test-", dir=in_memory()) as name,
        tempfile.TemporaryDirectory(prefix="mr-pg-") as sockets,
    ):
        folder = Path(name)
        folder.chmod(0o755)
        Path(sockets).chmod(0o755)
        (folder / "postgres").mkdir()

        def config(*, listen: str, store_dir: str, ports_dir: str, server_name: str) -> str:
            whole = nats_config(credentials, listen=listen, store_dir=store_dir, ports_dir=ports_dir, server_name=server_name)
            accounts = "\n".join(
                f"  TEST{n}: {{ jetstream: enabled, users: {json.dumps(users(credentials, suffix=f'-{n}'))} }}"
                for n in range(ACCOUNTS)
            )
            whole = whole.replace("sync_interval: always", "sync_interval: 2m")
            return whole.replace("accounts {\n", f"accounts {{\n{accounts}\n", 1)

        broker = EmbeddedNats(
            folder=folder / "nats",
            pidfile=folder / "nats.pid",
            log=folder / "nats.log",
            config=config,
            password=credentials.nats_admin,
        )
        postgres = EmbeddedPostgres(
            folder=folder / "postgres",
            sockets=Path(sockets),
            pidfile=folder / "postgres.pid",
            log=folder / "postgres.log",
            password=credentials.postgres_admin,
            settings=SETTINGS | UNSYNCED,
        )
        await broker.start()
        try:
            await postgres.start()
            try:
                await postgres.create_database(TEMPLATE)
                await prepare_database(postgres.url(SUPERUSER, credentials.postgres_admin, TEMPLATE), credentials)
                yield Servers(broker, postgres, credentials)
            finally:
                await postgres.stop(10)
        finally:
            await broker.stop(10)
