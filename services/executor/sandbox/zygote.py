"""The zygote as the supervisor sees it: exec'd once, it forks children and templates on request."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.fork_server import ForkServer
from services.executor.sandbox.ground import Ground, Identity
from services.executor.sandbox.interface import Tier
from services.executor.sandbox.output import ChildOutput


class Zygote(ForkServer):
    """A running zygote, from `start` on. Its owner must `end` it."""

    kind = "zygote"

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket, output: ChildOutput) -> None:
        super().__init__(control, output)
        self.pid = process.pid
        """The number of the process that forks; where it has a PID namespace of its own, its parent is the one started here."""
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._reap)

    def fork_template(self, order: dict[str, Any], control: int, out: int, err: int) -> None:
        """Have a template forked that holds just these descriptors; it reports on its own socket, which is closed if it fails.

        Raises `SandboxUnavailable`.
        """
        if self.died.done():
            raise SandboxUnavailable(self.died.result())
        try:
            socket.send_fds(self._control, [json.dumps({"kind": "template", **order}).encode()], [control, out, err])
        except OSError as error:
            msg = f"the zygote takes no request: {error}"
            raise SandboxUnavailable(msg) from error

    def kill(self) -> None:
        """Kill it, and its children with it. `died` follows."""
        if self._itself >= 0:  # where that is another process, the one started here reaps it and ends
            super().kill()
        elif not self.died.done():
            self._process.kill()

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self._receive()  # its last reports
        code = self._process.wait()
        os.close(self._pidfd)
        self._bury(f"ended with code {code}")


async def start(
    where: Ground,
    who: Identity | None,
    tier: Tier,
    on_death: Callable[[str], None],
    builds: list[str] | None = None,
    output_file: str | None = None,
) -> Zygote:
    """Exec a zygote of a tier and wait until it is ready. Raises `SandboxUnavailable`, with its output, if it is not.

    One that `builds` environments shows these files and folders of the machine besides; see `walls.Walls.builds`. With an
    `output_file` its children may write to no other file of their folder.
    """
    with contextlib.ExitStack() as undo:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                output = ChildOutput()
                undo.callback(output.close)
                process = _popen(where, who, tier, theirs, output, builds, output_file)
        except OSError as error:
            msg = f"the zygote cannot be started: {error}"
            raise SandboxUnavailable(msg) from error
        output.listen()
        ours.setblocking(False)  # noqa: FBT003
        zygote = Zygote(process, ours, output)
        undo.pop_all()
    if not await zygote.greeted():
        msg = f"the sandbox cannot be started: {zygote.died.result()}"
        raise SandboxUnavailable(msg)
    zygote.died.add_done_callback(lambda died: on_death(died.result()))
    return zygote


def _popen(
    where: Ground,
    who: Identity | None,
    tier: Tier,
    control: socket.socket,
    output: ChildOutput,
    builds: list[str] | None,
    output_file: str | None,
) -> "subprocess.Popen[bytes]":
    setting = {
        "uid": None if who is None else who.uid,
        "gid": None if who is None else who.gid,
        "parent": os.getpid(),
        "package": str(where.package),
        "tier": tier,
        "scratch": str(where.scratch),
        "code": str(where.code),
        "egress_port": None,
        "builds": builds,
        "output": output_file,
    }
    return subprocess.Popen(
        [str(where.interpreter), "-I", "-S", "-B", str(where.boot), json.dumps(setting)],
        stdin=control.fileno(),
        stdout=output.writable("stdout"),
        stderr=output.writable("stderr"),
        cwd=where.scratch,
        env={
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/nonexistent",
            **({"LD_LIBRARY_PATH": where.libraries} if where.libraries else {}),
        },
        close_fds=True,
        start_new_session=True,
    )
