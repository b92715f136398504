"""The broker and the database of one installation, embedded or given by address."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from deploy.broker import ADMIN, EmbeddedNats
from deploy.concurrency import together
from deploy.credentials import Credentials
from deploy.folder import DataFolder
from deploy.nats_cluster import NatsCluster
from deploy.permissions import nats_config
from deploy.postgres import SETTINGS, SUPERUSER, EmbeddedPostgres
from deploy.standby import PostgresPair
from deploy.supervise import State
from shared.addresses import with_user

DATABASE = "millrace"
# Seconds after the beginning of a stop at which each one must be gone.
GONE_AFTER = {"nats": 12.5, "postgres": 14.0}
# For stores that are filled from elsewhere, and synced when they have ended: the broker syncs every few KiB of a stream that it
# restores, and indexes are built in memory.
POSTGRES_UNSYNCED = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "4GB", "maintenance_work_mem": "128MB"}


class Stores:
    """Both stores. Those given by an administrator's URL are used as they are; `changed` reports the embedded ones' deaths.

    A `cluster` of them is three brokers and two databases, one of which is a standby; None: as the folder has it.
    `unsynced`: what the embedded ones acknowledge is not on the disk before they have ended and the caller has synced the folder.
    """

    def __init__(
        self,
        *,
        folder: DataFolder,
        sockets: Path,
        credentials: Credentials,
        nats: str | None,
        postgres: str | None,
        changed: Callable[[], None] = lambda: None,
        unsynced: bool = False,
        cluster: bool | None = None,
    ) -> None:
        """Start nothing yet; `sockets` is an existing folder with a short path."""
        self._unsynced = unsynced
        self._folder = folder
        self._sockets = sockets
        self._credentials = credentials
        self._given_nats = nats
        self._given_postgres = postgres
        self._changed = changed
        # A folder goes on as what it was made.
        self._cluster = (folder.path / "nats-1").exists() if cluster is None else cluster
        self._nats: EmbeddedNats | NatsCluster | None = None
        self._postgres: EmbeddedPostgres | PostgresPair | None = None

    @property
    def nats_url(self) -> str:
        """The broker's address with administrator credentials."""
        return self._given_nats or self._nats_url(ADMIN, self._credentials.nats_admin)

    @property
    def database_url(self) -> str:
        """The database's address with administrator credentials."""
        return self._given_postgres or self._database_url(SUPERUSER, self._credentials.postgres_admin)

    def nats_url_of(self, service: str) -> str:
        """Return the broker's address with a service's own credentials."""
        return self._nats_url(service, self._credentials.nats[service])

    def database_url_of(self, service: str) -> str:
        """Return the database's address with a service's own credentials."""
        return self._database_url(f"millrace_{service}", self._credentials.postgres[service])

    @property
    def nats_pid(self) -> int | None:
        """The embedded broker's process; None while it is down or when there is none."""
        return _first_pid(self._nats)

    @property
    def postgres_pid(self) -> int | None:
        """The embedded database's process; None while it is down or when there is none."""
        return _first_pid(self._postgres)

    @property
    def states(self) -> dict[str, State]:
        """The embedded ones as they are now, by name."""
        stores = [store for store in (self._nats, self._postgres) if store is not None]
        return {name: one.state for store in stores for name, one in sorted(store.programs.items())}

    async def start(self) -> None:
        """Start the embedded ones and wait until they answer. StartError when one does not in time."""
        await together(self._start_nats(), self._start_postgres())

    async def prepared(self) -> None:
        """Record that the streams have been made."""
        if self._nats is not None:
            await self._nats.stage()

    async def stop(self, began: float | None = None) -> None:
        """End the started ones, as part of a stop that `began` then (monotonic), or now."""
        since = time.monotonic() if began is None else began
        if self._nats is not None:
            await self._nats.stop(max(0.1, since + GONE_AFTER["nats"] - time.monotonic()))
        if self._postgres is not None:
            await self._postgres.stop(max(0.1, since + GONE_AFTER["postgres"] - time.monotonic()))

    async def _start_nats(self) -> None:
        if self._given_nats is not None:
            return
        synced = "2m" if self._unsynced else "always"
        if self._cluster:
            self._nats = NatsCluster(
                folder=self._folder, credentials=self._credentials, sync_interval=synced, changed=self._changed
            )
        else:
            self._nats = EmbeddedNats(
                folder=self._folder.own("nats"),
                pidfile=self._folder.pidfiles / "nats.pid",
                log=self._folder.logs / "nats.log",
                config=partial(nats_config, self._credentials, sync_interval=synced),
                password=self._credentials.nats_admin,
                changed=self._changed,
            )
        await self._nats.start()

    async def _start_postgres(self) -> None:
        if self._given_postgres is not None:
            return
        settings = SETTINGS | (POSTGRES_UNSYNCED if self._unsynced else {})
        password = self._credentials.postgres_admin
        if self._cluster:
            self._postgres = PostgresPair(
                folder=self._folder, sockets=self._sockets, password=password, settings=settings, changed=self._changed
            )
        else:
            sockets = self._sockets / "pg"
            sockets.mkdir(mode=0o700)
            self._postgres = EmbeddedPostgres(
                folder=self._folder.path / "postgres",
                sockets=sockets,
                pidfile=self._folder.pidfiles / "postgres.pid",
                log=self._folder.logs / "postgres.log",
                password=password,
                changed=self._changed,
                settings=settings,
            )
        await self._postgres.start()
        await self._postgres.create_database(DATABASE)

    def _nats_url(self, user: str, password: str) -> str:
        if self._nats is not None:
            return self._nats.url(user, password)
        return with_user(self._given_nats or "", user, password)

    def _database_url(self, user: str, password: str) -> str:
        if self._postgres is not None:
            return self._postgres.url(user, password, DATABASE)
        return with_user(self._given_postgres or "", user, password)


def _first_pid(store: EmbeddedNats | NatsCluster | EmbeddedPostgres | PostgresPair | None) -> int | None:
    return None if store is None else next(iter(store.programs.values())).state.pid
