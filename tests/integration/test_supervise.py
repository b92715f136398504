"""A supervised program is kept running, and nothing of it is left when its supervisor is gone."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest

from deploy import processes, supervise
from deploy.liveness import Liveness
from deploy.supervise import Backoff, Program, Supervised

BOUND = 15.0
SLEEPS = "import time; time.sleep(120)"
IGNORES_TERM = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(120)"
HAS_A_CHILD = (
    "import subprocess, sys, time; "
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)']).pid, flush=True); time.sleep(120)"
)
FAST = Backoff(first=0.05, longest=0.2, settled=30)
# Answers on the socket of its first argument; SIGUSR1 blocks it for as many seconds as its second one says.
ANSWERS = """
import contextlib, signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(float(sys.argv[2])))
time.sleep(float(sys.argv[3]))
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
while True:
    asked, _ = listening.accept()
    with asked, contextlib.suppress(OSError):
        asked.recv(1000)
        asked.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
"""


class Stage:
    """Runs programs in a folder and waits for what becomes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changed = asyncio.Event()
        self.started: list[Supervised] = []

    def program(self, code: str, backoff: Backoff = FAST) -> Program:
        return Program(
            name="program",
            command=(sys.executable, "-c", code),
            environment={"PATH": os.defpath},
            directory=self.folder,
            log=self.folder / "program.log",
            pidfile=self.folder / "program.pid",
            backoff=backoff,
        )

    async def start(self, program: Program) -> Supervised:
        supervised = Supervised(program, changed=self.changed.set)
        self.started.append(supervised)
        await supervised.start()
        return supervised

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    async def printed(self) -> str:
        async with asyncio.timeout(BOUND):
            while not (said := (self.folder / "program.log").read_text()).endswith("\n"):
                await asyncio.sleep(0.01)
        return said.strip()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    for supervised in stage.started:
        await supervised.stop(grace=1)


def identity(pid: int) -> processes.Identity:
    found = processes.identify(pid, processes.command_of(pid))
    assert found is not None
    return found


async def test_a_killed_program_comes_back_and_its_end_is_told(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    supervised = await stage.start(stage.program(SLEEPS))
    first = supervised.state
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    await stage.until(lambda: supervised.state.pid not in {None, first.pid})
    assert supervised.state.restarts == 1
    assert supervised.state.last_exit is not None
    assert supervised.state.last_exit.code == -signal.SIGKILL
    assert supervised.state.since > first.since
    assert supervised.state.since.tzinfo is not None
    assert f"ended by signal 9, is started again; {supervised.program.log} may say why" in capsys.readouterr().err


async def test_a_program_that_always_fails_is_started_ever_more_slowly(stage: Stage) -> None:
    supervised = await stage.start(stage.program("import sys; sys.exit(3)", Backoff(first=0.1, longest=0.4)))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await stage.until(lambda: supervised.state.restarts >= 3)
    assert loop.time() - began >= 0.1 + 0.2 + 0.4
    assert supervised.state.last_exit is not None
    assert supervised.state.last_exit.code == 3


async def test_a_program_that_dies_again_and_again_is_told_until_it_has_run_for_a_while(stage: Stage) -> None:
    flag = stage.folder / "well"
    dies_without_it = f"import pathlib, sys, time; pathlib.Path({str(flag)!r}).exists() or sys.exit(3); time.sleep(120)"
    supervised = await stage.start(stage.program(dies_without_it, Backoff(first=0.05, longest=0.1, settled=1.5)))
    assert not supervised.state.is_failing
    await stage.until(lambda: supervised.state.is_failing)
    assert supervised.state.failures >= 3
    since = supervised.state.failing_since
    assert since is not None
    assert since < supervised.state.since
    flag.touch()
    await stage.until(lambda: supervised.state.failures == 0)
    assert supervised.state.failing_since is None
    assert supervised.state.pid is not None
    assert supervised.state.restarts >= 3


async def test_a_program_that_gives_way_does_so_with_its_session_and_each_time_it_is_started(stage: Stage) -> None:
    session = "open('/proc/self/autogroup').read().split()[-1]" if Path("/proc/self/autogroup").exists() else "7"
    program = stage.program(f"import os, time; print(os.nice(0), {session}, flush=True); time.sleep(120)")
    supervised = await stage.start(msgspec.structs.replace(program, niceness=7))
    given = f"{os.nice(0) + 7} 7"
    assert await stage.printed() == given
    first = supervised.state.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(BOUND):
        while (said := (await stage.printed()).splitlines()) == [given]:
            await asyncio.sleep(0.01)
    assert said == [given, given]


def answering(stage: Stage, blocks: float = 120, start: float = 0, backoff: Backoff = FAST, **bounds: float) -> Program:
    socket = stage.folder / "alive.sock"
    before = f"import os; os.path.exists({str(socket)!r}) and os.unlink({str(socket)!r})"
    program = stage.program(before + ANSWERS, backoff)
    quick = Liveness(socket=socket, **{"every": 0.1, "within": 0.3, **bounds})  # type: ignore[arg-type]
    return msgspec.structs.replace(program, command=(*program.command, str(socket), str(blocks), str(start)), liveness=quick)


async def test_a_hung_program_that_is_deaf_to_sigterm_is_ended_and_started_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "HUNG_GRACE", 0.2)
    supervised = await stage.start(answering(stage))
    first = supervised.state.pid
    assert first is not None
    await answers(stage)
    os.kill(first, signal.SIGUSR1)
    await stage.until(lambda: supervised.state.silent_since is not None)
    assert supervised.state.pid == first
    await stage.until(lambda: supervised.state.pid not in {None, first})
    last_exit = supervised.state.last_exit
    assert last_exit is not None
    assert (last_exit.code, last_exit.hung, supervised.state.restarts) == (-signal.SIGKILL, True, 1)
    assert supervised.state.silent_since is None
    assert "program does not answer any more" in (stage.folder / "program.log").read_text()


async def test_a_program_that_stands_still_is_ended_as_a_hung_one(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "HUNG_GRACE", 0.2)
    supervised = await stage.start(answering(stage))
    first = supervised.state.pid
    assert first is not None
    await answers(stage)
    os.kill(first, signal.SIGSTOP)
    await stage.until(lambda: supervised.state.pid not in {None, first})
    assert supervised.state.last_exit is not None
    assert supervised.state.last_exit.hung


async def test_a_program_that_is_held_up_for_less_is_left_alone(stage: Stage) -> None:
    supervised = await stage.start(answering(stage, blocks=1.5, within=1.0))
    await answers(stage)
    assert supervised.state.pid is not None
    os.kill(supervised.state.pid, signal.SIGUSR1)
    await stage.until(lambda: supervised.state.silent_since is not None)
    await stage.until(lambda: supervised.state.silent_since is None)
    assert (supervised.state.restarts, supervised.state.last_exit) == (0, None)


async def test_a_slow_start_is_no_hang_but_one_without_end_is(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "HUNG_GRACE", 0.2)
    supervised = await stage.start(answering(stage, start=2, starts_within=60))
    await answers(stage)
    assert supervised.state.restarts == 0
    await supervised.stop(grace=0.2)
    # It runs for longer than settles another, and never answers: that forgives nothing.
    never = answering(stage, start=120, starts_within=1.0, backoff=Backoff(first=0.05, longest=0.1, settled=0.5))
    supervised = await stage.start(never)
    await stage.until(lambda: supervised.state.is_failing)
    assert supervised.state.failing_since is not None
    assert supervised.state.last_exit is not None
    assert supervised.state.last_exit.hung


async def answers(stage: Stage) -> None:
    """Wait until the program has told its supervisor that it lives."""
    async with asyncio.timeout(BOUND):
        while not stage.started[-1]._answers:
            await asyncio.sleep(0.01)


async def test_stopping_waits_for_a_program_that_drains(stage: Stage) -> None:
    drains = "import signal, sys; print('up', flush=True); signal.sigwait([signal.SIGTERM]); print('drained', flush=True)"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); {drains}"
    supervised = await stage.start(stage.program(blocked))
    await stage.printed()
    await supervised.stop(grace=BOUND)
    assert await stage.printed() == "up\ndrained"
    assert supervised.state.pid is None


async def test_a_program_deaf_to_sigterm_is_killed_after_its_grace(stage: Stage) -> None:
    supervised = await stage.start(stage.program(IGNORES_TERM))
    await stage.printed()
    async with asyncio.timeout(BOUND):
        await supervised.stop(grace=0.2)
    assert supervised.state.last_exit is not None
    assert supervised.state.last_exit.code == -signal.SIGKILL
    assert supervised.state.restarts == 0


async def test_stopping_during_the_back_off_starts_nothing_more(stage: Stage) -> None:
    supervised = await stage.start(stage.program("pass", Backoff(first=60, longest=60)))
    await stage.until(lambda: supervised.state.last_exit is not None)
    async with asyncio.timeout(BOUND):
        await supervised.stop(grace=1)
    assert supervised.state.pid is None
    assert supervised.state.restarts == 0


async def test_what_a_program_started_dies_with_it(stage: Stage) -> None:
    supervised = await stage.start(stage.program(HAS_A_CHILD))
    grandchild = identity(int(await stage.printed()))
    await supervised.stop(grace=1)
    assert await processes.ended(grandchild, within=BOUND)


async def test_a_program_does_not_hear_the_terminal_of_its_supervisor(stage: Stage) -> None:
    supervised = await stage.start(stage.program(SLEEPS))
    assert supervised.state.pid is not None
    assert os.getsid(supervised.state.pid) == supervised.state.pid != os.getsid(0)


async def test_a_command_that_is_not_there_is_told_in_the_log(stage: Stage) -> None:
    program = msgspec.structs.replace(stage.program(SLEEPS), command=("/nowhere/program",))
    supervised = await stage.start(program)
    await stage.until(lambda: supervised.state.last_exit is not None)
    assert "/nowhere/program: No such file" in program.log.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no death signal; the pidfile serves there")
async def test_a_state_that_cannot_be_told_ends_no_supervision(stage: Stage) -> None:
    def changed() -> None:
        stage.changed.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    supervised = Supervised(stage.program(SLEEPS), changed=changed)
    stage.started.append(supervised)
    await supervised.start()
    first = supervised.state.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await stage.until(lambda: supervised.state.pid not in {None, first})
    assert "how program is cannot be told" in (stage.folder / "program.log").read_text()
    assert "No space left" in (stage.folder / "program.log").read_text()


async def test_a_program_that_cannot_be_remembered_is_ended_and_never_doubled(stage: Stage) -> None:
    code = f"{SLEEPS}  # {stage.folder}"

    def running() -> list[int]:
        commands = [(int(path.parent.name), path) for path in Path("/proc").glob("[0-9]*/cmdline")]
        return [pid for pid, path in commands if code.encode() in _read(path).split(b"\0")]

    away = stage.folder / "away"
    away.mkdir()
    supervised = await stage.start(msgspec.structs.replace(stage.program(code), pidfile=away / "program.pid"))
    first = supervised.state.pid
    assert first is not None
    (away / "program.pid").unlink()
    away.rmdir()
    os.kill(first, signal.SIGKILL)
    await stage.until(lambda: supervised.state.failures >= 3)
    assert "could not be started again" in (stage.folder / "program.log").read_text()
    away.mkdir()
    await stage.until(lambda: supervised.state.pid is not None)
    assert running() == [supervised.state.pid]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_a_program_dies_with_a_killed_supervisor(stage: Stage) -> None:
    program = stage.program(SLEEPS)
    supervisor = await supervise_elsewhere(program)
    left = identity(int((await read_line(supervisor)).split()[0]))
    supervisor.kill()
    await supervisor.wait()
    assert await processes.ended(left, within=BOUND)


async def test_an_orphan_is_ended_before_the_program_starts_again(stage: Stage) -> None:
    program = stage.program(SLEEPS)
    orphan = subprocess.Popen(program.command)
    processes.remember(program.pidfile, identity(orphan.pid))
    reaped = asyncio.create_task(asyncio.to_thread(orphan.wait, BOUND))
    supervised = await stage.start(program)
    assert await reaped == -signal.SIGTERM
    assert supervised.state.pid not in {None, orphan.pid}


async def test_another_program_with_a_remembered_pid_is_left_alone(stage: Stage) -> None:
    program = stage.program(SLEEPS)
    bystander = subprocess.Popen(program.command)
    try:
        there = identity(bystander.pid)
        other_time = msgspec.structs.replace(there, started="long ago")
        other_command = msgspec.structs.replace(there, command=("/usr/bin/other",))
        assert there.is_running()
        await until_executed(bystander.pid)
        for remembered in (other_time, other_command):
            processes.remember(program.pidfile, remembered)
            supervised = await stage.start(program)
            await supervised.stop(grace=1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(BOUND)


async def until_executed(pid: int) -> None:
    """Wait until a started process has become its program: its command line reads empty for a moment before."""
    async with asyncio.timeout(BOUND):
        while not processes.command_of(pid):
            await asyncio.sleep(0.01)


async def supervise_elsewhere(program: Program) -> asyncio.subprocess.Process:
    code = (
        "import asyncio, sys, msgspec\n"
        "from deploy.supervise import Program, Supervised\n"
        "async def main():\n"
        "    supervised = Supervised(msgspec.json.decode(sys.argv[1], type=Program))\n"
        "    await supervised.start()\n"
        "    print(supervised.state.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    encoded = msgspec.json.encode(program, enc_hook=str).decode()
    code = code.replace("type=Program", "type=Program, dec_hook=lambda kind, value: kind(value)")
    return await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", code, encoded],
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )


async def read_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(BOUND):
        return (await process.stdout.readline()).decode()
