"""Two Postgres servers of one installation: a primary, and a standby that has each commit and takes over when the primary dies.

The supervisor decides which one is the primary, alone, and keeps it in a file. A server that died is started as the standby of the
other one if that had every commit, and else as what it was. While the standby is away the primary works without it. What is
written with `synchronous_commit = off`, as projections write, is not waited for: after a failover it is made again from the bus.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import asyncpg

from deploy.errors import StartError
from deploy.files import write_private
from deploy.folder import DataFolder
from deploy.postgres import SUPERUSER, EmbeddedPostgres
from deploy.supervise import Supervised

NODES = (1, 2)
LOOKED_AT_EVERY = 0.5
ASKING_TAKES = 5.0
# Seconds after which a standby that runs and does not follow is copied anew: it may be behind what the primary has kept.
COPIED_AFTER = 30.0
# For rewinding a primary that has died, for a standby that was away for a while, and for one that has become silent: commits wait
# for it as long.
SETTINGS = {"wal_log_hints": "on", "wal_keep_size": "512MB", "wal_sender_timeout": "4s", "wal_receiver_timeout": "10s"}


class PostgresPair:
    """Both servers, kept running from `start` to `stop` on sockets that stay the same."""

    def __init__(
        self,
        *,
        folder: DataFolder,
        sockets: Path,
        password: str,
        settings: Mapping[str, str],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Start nothing yet; `sockets` is an existing folder with a short path."""
        self._file = folder.path / "postgres-primary"
        self._password = password
        self._sockets = {node: sockets / f"pg-{node}" for node in NODES}
        self._in_step = False
        self._unfollowed_since: float | None = None
        self._copying = False
        self._watching: asyncio.Task[None] | None = None
        self._nodes: dict[int, EmbeddedPostgres] = {}
        for node in NODES:
            self._sockets[node].mkdir(mode=0o700)
            self._nodes[node] = EmbeddedPostgres(
                folder=folder.path / f"postgres-{node}",
                sockets=self._sockets[node],
                pidfile=folder.pidfiles / f"postgres-{node}.pid",
                log=folder.logs / f"postgres-{node}.log",
                password=password,
                changed=changed,
                settings={**settings, **SETTINGS},
                role=partial(self._before, node),
            )

    @property
    def programs(self) -> dict[str, Supervised]:
        """Each server, the primary first, by name."""
        return {f"postgres-{node}": self._nodes[node].supervised for node in (self.primary, self._other(self.primary))}

    @property
    def primary(self) -> int:
        """The number of the server that is the primary, or is about to be."""
        try:
            return int(self._file.read_text("ascii"))
        except FileNotFoundError:
            return NODES[0]

    def url(self, user: str, password: str, database: str) -> str:
        """Return the address of a database, on the server that is the primary then; valid until `stop`."""
        host = quote(",".join(map(str, self._sockets.values())), safe="")
        ports = quote(",".join("5432" for _ in NODES), safe="")
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{login}@/{quote(database, safe='')}?host={host}&port={ports}&target_session_attrs=read-write"

    async def start(self) -> None:
        """Start both and wait until they answer and the standby has all; StartError gives the reason where one does not."""
        if not self._file.exists():
            write_private(self._file, b"1")
        await self._nodes[self.primary].start()
        await self._promote(self.primary)
        standby = self._nodes[self._other(self.primary)]
        if not standby.is_made():
            await standby.copy(self._sockets[self.primary])
        await standby.start()
        self._watching = asyncio.create_task(self._watch(), name="standby")

    async def stop(self, grace: float) -> None:
        """End all sessions and shut both down within `grace` seconds."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        # A shutdown of the primary waits for its standby, which goes on as long.
        await self._nodes[self.primary].stop(grace * 0.7)
        await self._nodes[self._other(self.primary)].stop(grace * 0.3)

    async def create_database(self, name: str) -> None:
        """Make an empty database unless it exists."""
        await self._nodes[self.primary].create_database(name)

    # -- which one is the primary ----------------------------------------------------------------------------------

    async def _before(self, node: int) -> None:
        """Have a server take its role; StartError where the other one fails meanwhile: its supervisor tries again then."""
        try:
            await self._take_role(node)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            message = f"Postgres {node} cannot be what it is to be: {error}"
            raise StartError(message) from error

    async def _take_role(self, node: int) -> None:
        """Make a server that is about to start what it is to be, and the other one the primary when this one has died as it."""
        server = self._nodes[node]
        if node == self.primary and self._in_step and await self._is_there(self._other(node)):
            self._in_step = False
            write_private(self._file, str(self._other(node)).encode())
            await self._promote(self.primary)
        if node == self.primary:
            # Nothing of an earlier time: whether there is a standby is seen anew.
            server.configure("")
            return
        source = self._sockets[self.primary]
        if self._copying:
            await server.copy(source)
            self._copying = False
        elif not server.is_standby():
            try:
                await server.rewind(source)
            except StartError:
                await server.copy(source)
        self._unfollowed_since = None
        server.follow(self._followed())

    def _followed(self) -> str:
        node = self._other(self.primary)
        quoted = self._password.replace("\\", "\\\\").replace("'", "\\'")
        socket = str(self._sockets[self.primary]).replace("\\", "\\\\").replace("'", "\\'")
        told = f"host='{socket}' user={SUPERUSER} password='{quoted}' application_name=node_{node}"
        return "primary_conninfo = '{}'\n".format(told.replace("'", "''"))

    async def _promote(self, node: int) -> None:
        """Make a server the primary if it is a standby."""
        connection = await self._connect(node)
        try:
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                await connection.fetchval("SELECT pg_promote(true, 60)")
        finally:
            await connection.close()

    async def _is_there(self, node: int) -> bool:
        try:
            connection = await self._connect(node)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            return False
        await connection.close()
        return True

    # -- whether the standby follows --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                connection = await self._connect(self.primary)
                try:
                    while True:
                        await self._look(connection)
                        await asyncio.sleep(LOOKED_AT_EVERY)  # the server announces nothing
                finally:
                    connection.terminate()
            await asyncio.sleep(LOOKED_AT_EVERY)

    async def _look(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Have commits wait for the standby while it follows, and only then; note whether it has all of them."""
        if await connection.fetchval("SELECT pg_is_in_recovery()"):
            await connection.fetchval("SELECT pg_promote(true, 60)")
        name = f"node_{self._other(self.primary)}"
        states = "SELECT sync_state FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'"
        state = await connection.fetchval(states, name)
        waits = await connection.fetchval("SHOW synchronous_standby_names")
        if state is None:
            # First what is known here, then what commits do: no commit that this standby has not is to be counted as its own.
            self._in_step = False
        if (state is not None) != bool(waits):
            await connection.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name if state else ''}'")
            await connection.execute("SELECT pg_reload_conf()")
        elif state == "sync":
            self._in_step = True
        await self._copy_when_lost(follows=state is not None)

    async def _copy_when_lost(self, *, follows: bool) -> None:
        now = asyncio.get_running_loop().time()
        standby = self._nodes[self._other(self.primary)]
        if follows or standby.supervised.state.pid is None:
            self._unfollowed_since = None
            return
        self._unfollowed_since = self._unfollowed_since or now
        if now - self._unfollowed_since > COPIED_AFTER:
            self._copying, self._unfollowed_since = True, None
            os.kill(standby.supervised.state.pid, signal.SIGINT)

    async def _connect(self, node: int) -> asyncpg.Connection[asyncpg.Record]:
        url = self._nodes[node].url(SUPERUSER, self._password, "postgres")
        return await asyncpg.connect(url, ssl=False, timeout=ASKING_TAKES, command_timeout=60)

    def _other(self, node: int) -> int:
        return NODES[1] if node == NODES[0] else NODES[0]
