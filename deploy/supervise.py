"""One program that is kept running: started, watched, started again when it dies, and stopped for good."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from deploy import launch, processes
from deploy.errors import StartError
from deploy.forking import Forked
from deploy.liveness import Liveness, until_hung

# A program that cannot be killed is stuck in the kernel; nothing is gained by waiting for it longer.
KILL_GRACE = 2.0
# Seconds that a hung program has between its stop signals and SIGKILL: one that is merely slow may still end in order.
HUNG_GRACE = 5.0
# Ends in a row, each soon after a start, from which on the next is to be expected: once may be the operator, twice a coincidence.
AGAIN_AND_AGAIN = 3


Process = asyncio.subprocess.Process | Forked


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """The pause before starting again, in seconds: doubling from `first` to `longest`, anew after a life of `settled`."""

    first: float = 0.2
    longest: float = 10.0
    settled: float = 30.0

    def after(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row."""
        return min(self.first * 2.0 ** min(failures - 1, 60), self.longest)


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program to run. `command` is absolute and holds no secret (argv is public); secrets go through `environment`.

    `stop_signals` are tried in turn before SIGKILL; the first of them also ends the program when its supervisor is killed.
    With `liveness` it is asked whether it still answers, and ended when it hangs. A `niceness` above 0 lets other programs go first
    where there are too few cores.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    directory: Path
    log: Path
    pidfile: Path
    stop_signals: tuple[signal.Signals, ...] = (signal.SIGTERM,)
    account: tuple[int, int] | None = None
    descriptors: tuple[int, ...] = ()
    backoff: Backoff = Backoff()
    liveness: Liveness | None = None
    niceness: int = 0


class Exit(msgspec.Struct, frozen=True):
    """The end of a program: its exit code, or minus the number of the signal that ended it; `hung` if it had to be ended."""

    code: int
    at: datetime
    hung: bool = False

    @property
    def how(self) -> str:
        """How it ended, as a part of a sentence."""
        how = f"signal {-self.code}" if self.code < 0 else f"code {self.code}"
        return f"{how} after it had ceased to answer" if self.hung else how


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A program right now; `pid` is None while it is down, `since` is when it came to this.

    `failures` counts its ends (and starts that failed) since it last ran for as long as its back-off calls settled, and
    `failing_since` is when the first of them was. `silent_since` is when it was first asked in vain whether it answers.
    """

    pid: int | None
    restarts: int
    last_exit: Exit | None
    since: datetime
    failures: int = 0
    failing_since: datetime | None = None
    silent_since: datetime | None = None

    @property
    def is_failing(self) -> bool:
        """Whether the program dies again and again, also at a moment when it happens to run."""
        return self.failures >= AGAIN_AND_AGAIN


async def _nothing() -> None:
    return


async def _not_forked(_program: Program, _log: int) -> Forked | None:
    return None


class Supervised:
    """Keeps one program running from `start` to `stop`, in a session of its own.

    `before` is awaited before each start; `changed` is called whenever the state has changed. `fork` is given the program and the
    descriptor of its log, and may have started it in its own way: as a child of this process that leads a session and has the death
    signal and the niceness that the program asks for. It returns None where the command has to be executed.
    """

    def __init__(
        self,
        program: Program,
        *,
        before: Callable[[], Awaitable[None]] = _nothing,
        changed: Callable[[], None] = lambda: None,
        fork: Callable[[Program, int], Awaitable[Forked | None]] = _not_forked,
    ) -> None:
        """Start nothing yet."""
        self.program = program
        self._fork = fork
        self._before = before
        self._changed = changed
        self._state = State(pid=None, restarts=0, last_exit=None, since=datetime.now(UTC))
        self._process: Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()
        self._answers = False
        self._hung = False

    @property
    def state(self) -> State:
        """The program as it is now."""
        return self._state

    async def start(self) -> None:
        """End the process that an earlier supervisor left running, then start the program; StartError if it cannot run."""
        orphan = processes.recall(self.program.pidfile)
        if orphan is not None:
            await processes.end(orphan, self.program.stop_signals, grace=5)
        try:
            await self._spawn()
        except OSError as error:
            message = f"{self.program.name} cannot be started: {error}."
            raise StartError(message) from error
        self._watching = asyncio.create_task(self._watch(), name=f"watch {self.program.name}")

    async def stop(self, grace: float) -> None:
        """End the program and do not start it again; within `grace` seconds, then by SIGKILL. May be called twice."""
        self._stopping.set()
        async with self._starting:
            process = self._process
        if process is not None and process.returncode is None:
            await self._end(process, grace)
        if self._watching is not None:
            await self._watching
        self.program.pidfile.unlink(missing_ok=True)

    async def _end(self, process: Process, grace: float) -> None:
        signals = self.program.stop_signals
        for number in signals:
            with suppress(ProcessLookupError):
                process.send_signal(number)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), grace / len(signals))
                return
        _signal_group(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), KILL_GRACE)

    async def _spawn(self) -> None:
        async with self._starting:
            if self._stopping.is_set():
                return
            await self._before()
            program = self.program
            log = os.open(program.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                self._process = await self._fork(program, log) or await _executed(program, log)
            finally:
                os.close(log)
            pid = self._process.pid
            identity = processes.identify(pid, program.command)
            if identity is not None:
                try:
                    processes.remember(program.pidfile, identity)
                except OSError:
                    # One that no later supervisor would find: there may be two of it then.
                    _signal_group(pid, signal.SIGKILL)
                    await self._process.wait()
                    raise
            self._become(pid=pid)

    async def _watch(self) -> None:
        while self._process is not None:
            last_exit = await self._ended(self._process)
            _signal_group(self._process.pid, signal.SIGKILL)
            self._become(pid=None, last_exit=last_exit, failures=self._state.failures + 1)
            if not self._stopping.is_set():
                program = self.program
                with suppress(OSError):
                    sys.stderr.write(f"{program.name} ended by {last_exit.how}, is started again; {program.log} may say why\n")
            while not await self._again(self.program.backoff.after(self._state.failures)):
                self._become(pid=None, failures=self._state.failures + 1)
            if self._stopping.is_set():
                return

    async def _ended(self, process: Process) -> Exit:
        """Wait for the program's end, and bring it about when it hangs."""
        self._hung, self._answers = False, self.program.liveness is None
        hanging = asyncio.create_task(self._end_when_hung(process), name=f"liveness of {self.program.name}")
        try:
            return Exit(await self._settled_and_ended(process), datetime.now(UTC), self._hung)
        finally:
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)

    async def _settled_and_ended(self, process: Process) -> int:
        """Wait for the program's end; once it has run for long enough, and answers, earlier failures are forgiven."""
        while self._state.failures:
            with suppress(TimeoutError):
                return await asyncio.wait_for(process.wait(), self.program.backoff.settled)
            if self._answers:
                self._change(failures=0, failing_since=None)
        return await process.wait()

    async def _end_when_hung(self, process: Process) -> None:
        if self.program.liveness is not None:
            await until_hung(self.program.liveness, self._hear)
            self._hung = True
            self._note(f"{self.program.name} does not answer any more, and is ended by its supervisor.")
            await self._end(process, HUNG_GRACE)

    def _hear(self, silent_since: datetime | None) -> None:
        """Record since when the program has not answered, or that it does."""
        self._answers = silent_since is None
        if self._state.silent_since != silent_since:
            self._change(silent_since=silent_since)

    async def _again(self, delay: float) -> bool:
        """Start once more after `delay`; False when even that failed. True at once when the supervisor is stopping."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)
            return True
        self._state = msgspec.structs.replace(self._state, restarts=self._state.restarts + 1)
        try:
            await self._spawn()
        except (OSError, StartError) as error:
            self._note(f"{self.program.name} could not be started again: {error}")
            return False
        return True

    def _tell(self) -> None:
        """Report that the state has changed. A failure to write it, on a full disk perhaps, ends no supervision."""
        try:
            self._changed()
        except OSError as error:
            self._note(f"how {self.program.name} is cannot be told: {error}")

    def _note(self, sentence: str) -> None:
        with suppress(OSError), self.program.log.open("a") as log:
            log.write(f"{sentence}\n")

    def _become(self, *, pid: int | None, last_exit: Exit | None = None, failures: int | None = None) -> None:
        now = datetime.now(UTC)
        self._change(
            pid=pid,
            last_exit=last_exit or self._state.last_exit,
            since=now,
            silent_since=None,
            failures=self._state.failures if failures is None else failures,
            failing_since=self._state.failing_since or (now if failures else None),
        )

    def _change(self, **changes: object) -> None:
        self._state = msgspec.structs.replace(self._state, **changes)
        self._tell()


async def _executed(program: Program, log: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *launcher(program.account, program.stop_signals[0], niceness=program.niceness),
        *program.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=program.environment,
        cwd=program.directory,
        pass_fds=program.descriptors,
        start_new_session=True,
    )


def launcher(account: tuple[int, int] | None, death_signal: signal.Signals, *, niceness: int = 0) -> list[str]:
    """Return the command line in front of a program that shall run as `account` and die with this process."""
    dropped = [] if account is None else ["--uid", str(account[0]), "--gid", str(account[1])]
    nice = ["--give-way", str(niceness)] if niceness else []
    return [
        *[sys.executable, "-I", "-S", launch.__file__, *nice, *dropped],
        *["--pdeathsig", str(int(death_signal)), "--parent", str(os.getpid()), "--"],
    ]


def _signal_group(group: int, number: signal.Signals) -> None:
    """Signal the rest of a program's own process group; it is the program's alone, being the group of its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
