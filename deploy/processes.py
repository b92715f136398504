"""Identifies processes over restarts of everything: a pid alone may be another process's by now."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from deploy.files import write_private

# Pause between questions, where the kernel cannot announce the end of a process that is not our child.
ASKED_EVERY = 0.05


class Identity(msgspec.Struct, frozen=True):
    """One process, not just a pid: when it started (in the system's own words) and how its command line ends."""

    pid: int
    started: str
    command: tuple[str, ...]

    def is_running(self) -> bool:
        """Return whether exactly this process still runs; a pid in use by another program is not it.

        The time of its start decides. The command can only contradict: it reads empty while a process is replacing itself.
        """
        if started(self.pid) != self.started:
            return False
        said = command_of(self.pid)
        return not said or not self.command or _ends_with(said, self.command)


def identify(pid: int, command: Sequence[str]) -> Identity | None:
    """Return the identity of a running process whose command line ends with `command`; None when it is gone."""
    since = started(pid)
    return None if since is None else Identity(pid, since, tuple(command))


def remember(pidfile: Path, identity: Identity) -> None:
    """Write an identity where the next start finds it."""
    write_private(pidfile, msgspec.json.encode(identity))


def recall(pidfile: Path) -> Identity | None:
    """Return the process that a pidfile names if it still runs."""
    try:
        identity = msgspec.json.decode(pidfile.read_bytes(), type=Identity)
    except (OSError, msgspec.DecodeError):
        return None
    return identity if identity.is_running() else None


def started(pid: int) -> str | None:
    """Return the identity of this process among any with the same pid; None when there is none, or only its corpse."""
    if sys.platform == "linux":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
    return _ps(pid, "lstart=")


def command_of(pid: int) -> tuple[str, ...]:
    """Return the command line of a process, empty when there is none; a single string where the system keeps only that."""
    if sys.platform == "linux":
        try:
            content = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return ()
        return tuple(os.fsdecode(part) for part in content.rstrip(b"\0").split(b"\0")) if content else ()
    text = _ps(pid, "command=")
    return () if text is None else (text,)


def working_in(folder: Path, program: str) -> list[Identity]:
    """Return the processes of `program` whose working folder is `folder`, so far as the system shows them; Linux only."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "cwd").readlink() == folder and (entry / "exe").readlink().name == program:
                identity = identify(int(entry.name), command_of(int(entry.name)))
                found += [] if identity is None else [identity]
    return found


async def ended(identity: Identity, within: float) -> bool:
    """Wait for the end of a process, ours or not; False when it still runs after `within` seconds."""
    try:
        async with asyncio.timeout(within):
            await _gone(identity)
    except TimeoutError:
        return not identity.is_running()
    return True


async def end(identity: Identity, signals: Sequence[signal.Signals], grace: float) -> None:
    """End a process by pid: each signal in turn with `grace` seconds after it, SIGKILL last; returns when it is gone."""
    for number in (*signals, signal.SIGKILL):
        if not identity.is_running():
            return
        with suppress(ProcessLookupError):
            os.kill(identity.pid, number)
        if await ended(identity, grace):
            return


async def _gone(identity: Identity) -> None:
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(identity.pid)
        except ProcessLookupError:
            return
        except OSError:
            descriptor = -1  # an old or a restricted kernel
        if descriptor >= 0:
            await _readable(descriptor)
            return
    while identity.is_running():
        await asyncio.sleep(ASKED_EVERY)


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _ends_with(command: tuple[str, ...], end_of_it: tuple[str, ...]) -> bool:
    if sys.platform == "linux":
        return command[-len(end_of_it) :] == end_of_it
    return " ".join(command).endswith(" ".join(end_of_it))


def _ps(pid: int, column: str) -> str | None:
    found = subprocess.run(
        ["/bin/ps", "-ww", "-p", str(pid), "-o", column], capture_output=True, text=True, check=False, timeout=10
    )
    text = found.stdout.strip()
    return text if found.returncode == 0 and text else None
