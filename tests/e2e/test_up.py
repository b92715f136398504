"""`millrace up`: one folder, one stack; what dies comes back, and what is stopped is gone."""

import asyncio
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from deploy import processes
from deploy.credentials import SERVICES
from deploy.stack import NICENESS, PASSED_ON
from tests.support.places import open_folder
from tests.support.stack import Up, running_up

# What API.md promises for a stop.
STOPS_WITHIN = 15.0
KEY = "mr_chosen-by-the-operator"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def up() -> AsyncIterator[Up]:
    """A stack that was started without HOME, and with a locale that is not there."""
    environment = {name: value for name, value in os.environ.items() if name not in {"HOME", "LANG", "LC_ALL"}}
    environment |= {"LANG": "xx_YY.UTF-8", "LC_ALL": "xx_YY.UTF-8", "MILLRACE_ADMIN_KEY": KEY}
    with open_folder() as place:
        async with running_up(place / ".millrace", environment=environment) as stack:
            yield stack


async def test_ready_json_tells_all_that_a_client_needs(up: Up) -> None:
    ready = up.read()
    assert up.process is not None
    assert ready["pid"] == up.process.pid
    assert ready["admin_key"] == KEY
    assert list(ready["services"]) == list(SERVICES)
    assert all(isinstance(pid, int) for pid in [ready["nats_pid"], ready["postgres_pid"], *ready["services"].values()])
    assert stat.S_IMODE((up.data / "ready.json").stat().st_mode) == 0o600
    # The sandbox's user, where it is another, passes through; nobody else does (test_closed tries).
    assert stat.S_IMODE(up.data.stat().st_mode) == (0o710 if os.geteuid() == 0 else 0o700)
    # Printed after the file is written, which is all that the fixture waits for.
    await up.until(lambda: f"ready {ready['url']}\n" in up.said.read_text())


async def refusal(up: Up) -> str:
    """Return the one sentence with which an `up` ends that starts nothing."""
    try:
        await up.launch()
        code, said = await up.ended()
    finally:
        await up.clear()
    assert (code, said.count("\n")) == (2, 1)
    return said


async def test_a_second_up_on_the_same_folder_refuses_and_names_the_first(up: Up) -> None:
    assert up.process is not None
    assert f"pid {up.process.pid}" in await refusal(Up(up.data))
    await up.until_ready_again()


@on_linux
async def test_no_secret_stands_in_a_command_line(up: Up) -> None:
    credentials = (up.data / "credentials.json").read_text()
    secrets = [part for part in credentials.split('"') if len(part) >= 40]
    assert len(secrets) > 2 * len(SERVICES)
    lines = [" ".join(processes.command_of(member.pid)) for member in up.family()]
    assert not [line for line in lines for secret in secrets if secret in line]


def fork_server(up: Up) -> int:
    """Return the pid of the process that services are forked from."""
    recalled = processes.recall(up.data / "run" / "forkserver.pid")
    return 0 if recalled is None else recalled.pid


def variables(pid: int) -> set[str]:
    """Return what the system shows as the environment of a process."""
    return set(Path(f"/proc/{pid}/environ").read_text().split("\0")) - {""}


def written_memory(pid: int) -> Iterator[tuple[str, bytes]]:
    """Yield each part of what a process can write, and its contents."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(part, 16) for part in span.split("-"))
                memory.seek(start)
                yield line, memory.read(end - start)


@on_linux
async def test_services_are_forked_as_processes_of_their_own_from_one_that_knows_no_secret(up: Up) -> None:
    server, ready = fork_server(up), up.read()
    for name, pid in ready["services"].items():
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        parent, group, session = map(int, status[1:4])
        assert (parent, group, session) == (ready["pid"], pid, pid)
        assert processes.command_of(pid)[-3:] == ("-m", "services", name)
        assert Path(f"/proc/{pid}/fd/1").readlink() == (up.data / "logs" / f"{name}.log").absolute()
        assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0) + NICENESS.get(name, 0)
        # Forked: a program that was executed shows its own settings there.
        assert variables(pid) == variables(server)
    # LC_CTYPE is what Python itself sets where no locale is given.
    assert {one.partition("=")[0] for one in variables(server)} <= {*PASSED_ON, "LC_CTYPE"}
    secrets = [part.encode() for part in (up.data / "credentials.json").read_text().split('"') if len(part) >= 40]
    assert len(secrets) > 2 * len(SERVICES)
    assert [place for place, content in written_memory(server) if b"services.oauth.app" in content]
    assert not [place for place, content in written_memory(server) for secret in secrets if secret in content]


@on_linux
async def test_a_killed_fork_server_ends_no_service_and_another_forks_the_next(up: Up) -> None:
    server, before = fork_server(up), up.read()["services"]
    os.kill(server, signal.SIGKILL)
    await up.until(lambda: fork_server(up) not in {0, server})
    assert (await up.until_ready_again())["services"] == before
    os.kill(before["oauth"], signal.SIGKILL)
    await up.until(lambda: up.read()["services"]["oauth"] not in {None, before["oauth"]})
    after = (await up.until_ready_again())["services"]
    assert variables(after["oauth"]) == variables(fork_server(up))
    assert {name for name in SERVICES if after[name] != before[name]} == {"oauth"}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_killed_service_comes_back(up: Up, service: str) -> None:
    before = up.read()["services"]
    os.kill(before[service], signal.SIGKILL)
    await up.until(lambda: up.read()["services"][service] not in {None, before[service]})
    after = (await up.until_ready_again())["services"]
    assert {name for name in SERVICES if after[name] != before[name]} == {service}


@pytest.mark.parametrize("store", ["nats", "postgres"])
async def test_a_killed_store_comes_back_at_the_same_address_under_the_same_services(up: Up, store: str) -> None:
    before = up.read()
    os.kill(before[f"{store}_pid"], signal.SIGKILL)
    await up.until(lambda: up.read()[f"{store}_pid"] not in {None, before[f"{store}_pid"]})
    after = await up.until_ready_again()
    same = {f"{store}_pid": before[f"{store}_pid"], "stores": before["stores"]}
    assert {**after, **same} == before


async def test_a_used_port_is_refused_in_one_sentence(data: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert f"port {port}" in await refusal(Up(data / "data", "--port", str(port)))
    assert not (data / "data" / "ready.json").exists()


async def test_a_folder_of_a_newer_version_is_refused_and_left_alone(data: Path) -> None:
    (data / "version").write_text("999.0.0\n")
    assert "999.0.0" in await refusal(Up(data))
    assert {entry.name for entry in data.iterdir()} == {"version", "lock"}


async def test_a_folder_with_somebody_elses_files_is_refused_and_left_alone(data: Path) -> None:
    (data / "thesis.txt").write_text("mine")
    await refusal(Up(data))
    assert [entry.name for entry in data.iterdir()] == ["thesis.txt"]


@on_linux
async def test_a_stop_leaves_no_process_and_no_ready_json_in_a_folder_of_a_long_and_strange_name(data: Path) -> None:
    async with running_up(data / ("dätä 'of' \"mine\" \\ $HOME %20 \n☂ #{x}; ü" * 4)) as up:
        members = up.family()
        assert len(members) > len(SERVICES) + 2
        sockets = Path((up.data / "run" / "sockets").read_text())
        assert up.process is not None
        up.process.send_signal(signal.SIGINT)
        code, _ = await up.ended(within=STOPS_WITHIN)
        assert code == 0
        assert [member for member in members if member.is_running()] == []
        assert not (up.data / "ready.json").exists()
        assert not sockets.exists()


@on_linux
async def test_services_that_hang_hold_up_no_stop(data: Path) -> None:
    async with running_up(data / "data") as up:
        members = up.family()
        for pid in up.ready["services"].values():
            os.kill(pid, signal.SIGSTOP)
        assert up.process is not None
        up.process.send_signal(signal.SIGTERM)
        code, _ = await up.ended(within=STOPS_WITHIN)
        assert code == 0
        assert [member for member in members if member.is_running()] == []


@on_linux
async def test_a_killed_up_takes_its_processes_with_it_and_starts_again(data: Path) -> None:
    async with running_up(data / "data") as up:
        before, members = up.ready, up.family()
        assert up.process is not None
        up.process.kill()
        await up.process.wait()
        assert all(await asyncio.gather(*(processes.ended(member, STOPS_WITHIN) for member in members)))
        await up.start()
        assert (up.ready["admin_key"], up.ready["nats_url"]) == (before["admin_key"], before["nats_url"])
        await up.until_ready_again()
        # And at once, at the same port: what is left is ended first.
        up.options = ("--port", up.ready["url"].rpartition(":")[2])
        up.process.kill()
        await up.process.wait()
        await up.start()
        await up.until_ready_again()


async def test_a_stop_during_the_start_is_obeyed(data: Path) -> None:
    up = Up(data / "data")
    try:
        await up.launch()
        await up.until((up.data / "run" / "postgres.pid").exists)
        assert up.process is not None
        up.process.send_signal(signal.SIGTERM)
        code, said = await up.ended(within=STOPS_WITHIN)
        assert code == 0, said
        assert list((up.data / "run").glob("*.pid")) == []
    finally:
        await up.clear()
