"""Services are forked from one process that has imported them all, and are their supervisor's children nevertheless."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from deploy import forking
from deploy.forking import Forked, Forking
from deploy.supervise import Program, Supervised
from tests.support.stack import ROOT

BOUND = 120.0
# Each is made anew after a fork, or draws from the system.
DRAWN = """
import os, random, secrets, tempfile
from shared.client import unique_name
from shared.envelope import new_id
import services.oauth.app
draw = lambda: [unique_name(), new_id(), str(random.random()), secrets.token_hex(8), next(tempfile._get_candidate_names())]
draw()
for _ in range(3):
    if os.fork() == 0:
        print(*draw(), flush=True)
        os._exit(0)
    os.wait()
"""
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are adopted on Linux only")


class Stage:
    """A fork server in a folder, and services that it is asked for; they say what settings they lack, and end with 2."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changed = asyncio.Event()
        self.forking = Forking()
        number = self.forking.descriptor
        command = (sys.executable, "-P", "-m", "deploy.forkserver", str(number))
        self.server = Supervised(self._program("forkserver", command, (number,)), changed=self._server_changed)
        self.services: list[Supervised] = []

    def _program(self, name: str, command: tuple[str, ...], descriptors: tuple[int, ...] = ()) -> Program:
        return Program(
            name=name,
            command=command,
            environment={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "MILLRACE_OWN": name},
            directory=self.folder,
            log=self.folder / f"{name}.log",
            pidfile=self.folder / f"{name}.pid",
            descriptors=descriptors,
        )

    def _server_changed(self) -> None:
        self.forking.is_now(self.server.state.pid)
        self.changed.set()

    async def start(self, name: str) -> tuple[Supervised, bool]:
        """Start a service; return whether it was forked, too."""
        forked = []

        async def fork(program: Program, log: int) -> Forked | None:
            forked.append(await self.forking.fork(program, log))
            return forked[-1]

        command = (sys.executable, "-P", "-m", "services", name)
        service = Supervised(self._program(name, command), changed=self.changed.set, fork=fork)
        self.services.append(service)
        await service.start()
        return service, forked[0] is not None

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    await stage.server.start()
    yield stage
    for supervised in (*stage.services, stage.server):
        await supervised.stop(grace=1)
    stage.forking.close()


async def test_the_exit_of_a_forked_service_is_known_and_its_log_is_its_own(stage: Stage) -> None:
    service, was_forked = await stage.start("oauth")
    assert was_forked
    await stage.until(lambda: service.state.last_exit is not None)
    assert service.state.last_exit is not None
    assert service.state.last_exit.code == 2
    assert "millrace oauth: MILLRACE_NATS_URL is not set" in (stage.folder / "oauth.log").read_text()
    assert (stage.folder / "forkserver.log").read_text() == ""


async def test_without_a_fork_server_that_answers_a_service_is_executed_and_another_server_is_started(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forking, "WITHIN", 3.0)
    hung = stage.server.state.pid
    assert hung is not None
    os.kill(hung, signal.SIGSTOP)
    service, was_forked = await stage.start("logs")
    assert not was_forked
    await stage.until(lambda: service.state.last_exit is not None and service.state.last_exit.code == 2)
    monkeypatch.setattr(forking, "WITHIN", BOUND)
    await stage.until(lambda: stage.server.state.pid not in {None, hung})
    _, was_forked = await stage.start("oauth")
    assert was_forked


async def test_a_fork_server_that_dies_while_it_is_asked_holds_nobody_up(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "WITHIN", BOUND * 10)
    dying = stage.server.state.pid
    assert dying is not None
    os.kill(dying, signal.SIGSTOP)
    starting = asyncio.create_task(stage.start("events"))
    await asyncio.sleep(0)
    os.kill(dying, signal.SIGKILL)
    async with asyncio.timeout(BOUND):
        _, was_forked = await starting
    assert not was_forked


def test_no_two_forks_draw_the_same() -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-c", DRAWN],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ).stdout
    drawn = said.split()
    assert len(drawn) == len(set(drawn)) == 15
