"""The embedded Postgres starts on other people's machines, keeps what it was given, and lets nobody in without a password."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from deploy import postgres, reach
from deploy.accounts import POSTGRES_UID
from deploy.errors import StartError
from deploy.postgres import SUPERUSER, EmbeddedPostgres
from tests.support.places import open_folder

BOUND = 60.0
PASSWORD = "a pass/word@of:this%test"
ROOT = os.geteuid() == 0


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def made(place: Path) -> EmbeddedPostgres:
    sockets = place / "s"
    sockets.mkdir(exist_ok=True)
    return EmbeddedPostgres(
        folder=place / "postgres",
        sockets=sockets,
        pidfile=place / "postgres.pid",
        log=place / "postgres.log",
        password=PASSWORD,
    )


@asynccontextmanager
async def running(place: Path) -> AsyncIterator[EmbeddedPostgres]:
    server = made(place)
    try:
        async with asyncio.timeout(BOUND):
            await server.start()
        yield server
    finally:
        await server.stop(grace=10)


async def answer(server: EmbeddedPostgres, query: str, *, password: str = PASSWORD) -> object:
    connection = await asyncpg.connect(server.url(SUPERUSER, password, "postgres"), ssl=False)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def test_a_wrong_password_is_refused_and_there_is_no_tcp(place: Path) -> None:
    async with running(place) as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await answer(server, "SELECT 1", password="wrong")
        assert await answer(server, "SHOW listen_addresses") == ""
        assert await answer(server, "SHOW fsync") == "on"
        assert stat.S_IMODE((place / "s").stat().st_mode) == 0o700
        assert not (place / "postgres" / ".password").exists()


async def test_rows_survive_a_restart_in_a_long_path_with_spaces(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "xx_YY.UTF-8")
    monkeypatch.setenv("LANG", "xx_YY.UTF-8")
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    monkeypatch.delenv("HOME", raising=False)
    deep = place / ("a folder with a long name " * 5) / "and another"
    deep.mkdir(parents=True)
    sockets = place / "s"
    sockets.mkdir()

    def there() -> EmbeddedPostgres:
        return EmbeddedPostgres(
            folder=deep / "postgres", sockets=sockets, pidfile=deep / "pid", log=deep / "log", password=PASSWORD
        )

    for attempt in range(2):
        server = there()
        try:
            await server.start()
            await answer(server, "CREATE TABLE IF NOT EXISTS kept (n int)")
            await answer(server, f"INSERT INTO kept VALUES ({attempt})")
            assert await answer(server, "SELECT count(*) FROM kept") == attempt + 1
            assert await answer(server, "SELECT 'É' ~ '\\w' AND upper('é') = 'É'") is True
        finally:
            await server.stop(grace=10)


async def test_a_database_is_made_once(place: Path) -> None:
    async with running(place) as server:
        await server.create_database("millrace")
        await server.create_database("millrace")
        connection = await asyncpg.connect(server.url(SUPERUSER, PASSWORD, "millrace"), ssl=False)
        assert await connection.fetchval("SELECT current_database()") == "millrace"
        await connection.close()


async def test_a_killed_server_comes_back_with_its_rows_at_the_same_address(place: Path) -> None:
    async with running(place) as server:
        await answer(server, "CREATE TABLE kept AS SELECT 1 AS n")
        killed = server.supervised.state.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(BOUND):
            while server.supervised.state.pid in {None, killed}:
                await asyncio.sleep(0.02)
            while True:
                try:
                    assert await answer(server, "SELECT n FROM kept") == 1
                    break
                except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    await asyncio.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no death signal; the next start ends the orphan")
async def test_a_server_whose_supervisor_was_killed_does_not_stop_the_next_start(place: Path) -> None:
    async with running(place):
        pass
    code = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom deploy.postgres import EmbeddedPostgres\n"
        "async def main():\n"
        "    place = Path(sys.argv[1])\n"
        "    server = EmbeddedPostgres(folder=place / 'postgres', sockets=place / 's', pidfile=place / 'postgres.pid',\n"
        "                              log=place / 'postgres.log', password=sys.argv[2])\n"
        "    await server.start()\n    print('up', flush=True)\n    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    supervisor = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", code, str(place), PASSWORD],
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert supervisor.stdout is not None
    async with asyncio.timeout(BOUND):
        assert await supervisor.stdout.readline() == b"up\n"
    supervisor.kill()
    await supervisor.wait()
    async with running(place) as server:
        assert await answer(server, "SELECT 1") == 1


async def test_an_orphaned_server_of_this_folder_is_ended_first(place: Path) -> None:
    async with running(place) as server:
        program = server.supervised.program
    who = POSTGRES_UID if ROOT else None
    orphan = subprocess.Popen(program.command, user=who, group=who, cwd=program.directory)
    reaped = asyncio.create_task(asyncio.to_thread(orphan.wait, BOUND))
    async with asyncio.timeout(BOUND):
        while not (place / "s" / ".s.PGSQL.5432").exists():
            await asyncio.sleep(0.02)
    async with running(place) as server:
        assert await reaped == 0
        assert await answer(server, "SELECT 1") == 1


async def test_a_stale_pid_in_use_by_another_program_does_not_stop_the_start(place: Path) -> None:
    async with running(place):
        pass
    bystander = subprocess.Popen(
        ["/bin/sleep", "120"], user=POSTGRES_UID if ROOT else None, group=POSTGRES_UID if ROOT else None, cwd="/"
    )
    try:
        data = place / "postgres" / "data"
        (data / "postmaster.pid").write_text(f"{bystander.pid}\n{data}\n1700000000\n5432\n{place / 's'}\n\n  1 1\nready   \n")
        async with running(place) as server:
            assert await answer(server, "SELECT 1") == 1
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(BOUND)


async def test_a_cluster_that_was_cut_short_is_made_anew(place: Path) -> None:
    half = place / "postgres" / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    async with running(place) as server:
        assert await answer(server, "SELECT 1") == 1
    assert not half.exists()


async def test_a_cluster_of_another_major_version_is_refused_in_one_sentence(place: Path) -> None:
    data = place / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("16\n")
    with pytest.raises(StartError, match="was made by Postgres 16 and this Millrace brings Postgres 18"):
        await made(place).start()


async def test_another_password_than_the_clusters_is_told(place: Path) -> None:
    async with running(place):
        pass
    server = EmbeddedPostgres(
        folder=place / "postgres",
        sockets=place / "s",
        pidfile=place / "postgres.pid",
        log=place / "postgres.log",
        password="another",
    )
    try:
        with pytest.raises(StartError, match=r"credentials\.json"):
            await server.start()
    finally:
        await server.stop(grace=10)


@pytest.mark.skipif(not ROOT, reason="only root changes the user that Postgres runs as")
async def test_a_folder_out_of_reach_of_the_postgres_user_is_used_and_nothing_is_opened(place: Path) -> None:
    closed = place / "closed 'to' all\nbut root"
    closed.mkdir(mode=0o700)
    sockets = place / "s"
    sockets.mkdir()

    def there() -> EmbeddedPostgres:
        return EmbeddedPostgres(
            folder=closed / "postgres", sockets=sockets, pidfile=closed / "pid", log=closed / "log", password=PASSWORD
        )

    for attempt in range(2):
        server = there()
        try:
            await server.start()
            await answer(server, "CREATE TABLE IF NOT EXISTS kept (n int)")
            await answer(server, f"INSERT INTO kept VALUES ({attempt})")
            assert await answer(server, "SELECT count(*) FROM kept") == attempt + 1
            assert await answer(server, "SELECT count(*) > 0 FROM pg_timezone_names")
            await answer(server, "CHECKPOINT")
            assert Path(f"/proc/{server.supervised.state.pid}").stat().st_uid == POSTGRES_UID
        finally:
            await server.stop(grace=10)
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert closed.stat().st_uid == 0


@pytest.mark.skipif(not ROOT, reason="only root changes the user that Postgres runs as")
async def test_programs_out_of_reach_of_the_postgres_user_are_copied_once(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    own = postgres.binaries()
    wheel = own.parents[1]
    libraries = wheel.with_name(f"{wheel.name}.libs")
    shutil.copytree(own.parent, closed / wheel.name / own.parent.name, symlinks=True)
    shutil.copytree(libraries, closed / libraries.name)
    monkeypatch.setattr(reach, "CACHES", place / "cache")
    monkeypatch.setattr(postgres, "binaries", lambda: closed / wheel.name / own.parent.name / "bin")
    for _ in range(2):
        async with running(place) as server:
            assert await answer(server, "SELECT 1") == 1
            (copy,) = (place / "cache").iterdir()
            assert server.supervised.program.command[0] == str(copy / wheel.name / own.parent.name / "bin" / "postgres")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert {path.stat().st_uid for path in copy.rglob("*")} == {0}
    assert not [path for path in copy.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]


@pytest.mark.skipif(not ROOT, reason="only root changes the user that Postgres runs as")
async def test_a_place_for_copies_that_somebody_else_made_is_not_trusted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = place / "cache"
    planted.mkdir()
    os.chown(planted, 12345, 12345)
    monkeypatch.setattr(reach, "CACHES", planted)
    monkeypatch.setattr(reach, "_run", lambda *_: False)
    with pytest.raises(StartError, match="belongs to user 12345"):
        made(place)


@pytest.mark.skipif(not ROOT, reason="only root changes the user that Postgres runs as")
async def test_started_by_root_it_runs_as_a_user_of_its_own_that_owns_its_data(place: Path) -> None:
    async with running(place) as server:
        assert Path(f"/proc/{server.supervised.state.pid}").stat().st_uid == POSTGRES_UID
        owners = {path.stat().st_uid for path in (place / "postgres").rglob("*")}
        assert owners == {POSTGRES_UID}
