"""The zygote as the supervisor sees it: exec'd once, it forks children on request and reports how each ended.

Each packet on the socket between the two is one JSON object; see `reports`. Forking is the zygote's, so is reaping; a
child is only ever signalled through the pidfd that came with the news of its birth.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from services.executor.sandbox.birth import Birth, pid_of, settle
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.ground import Ground, Identity
from services.executor.sandbox.jail import Tier
from services.executor.sandbox.output import ChildOutput
from services.executor.sandbox.reports import MAX_PACKET, Born, ChildEnded, Hello, Stillborn, Swept, decode

_START = 30.0
"""Seconds until a zygote, or a child of it, must be there: far more than either needs on a busy machine."""


class Zygote:
    """A running zygote, from `start` on. Its owner must `end` it."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket, output: ChildOutput) -> None:
        loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[None] = loop.create_future()
        self.died: asyncio.Future[str] = loop.create_future()
        """Becomes the reason, with the process's output."""
        self.pid = process.pid
        """The number of the process that forks; where it has a PID namespace of its own, its parent is the one started here."""
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._itself = -1
        self._control = control
        self._output = output
        self._births: dict[int, Birth] = {}
        self._last_id = 0
        loop.add_reader(control, self._receive)
        loop.add_reader(self._pidfd, self._bury)

    async def fork(self, order: dict[str, Any], control: int, out: int, err: int, doors: Sequence[int] = ()) -> Birth:
        """Have a child forked that enters a control group by its `doors`, and holds exactly the other descriptors, as 3, 1 and 2.

        Raises `SandboxUnavailable`.
        """
        if self.died.done():
            raise SandboxUnavailable(self.died.result())
        self._last_id += 1
        birth = self._births[self._last_id] = Birth(self.kill)
        packet = json.dumps({"kind": "fork", "id": self._last_id, **order}).encode()
        try:
            socket.send_fds(self._control, [packet], [control, out, err, *doors])
        except OSError as error:
            del self._births[self._last_id]
            msg = f"the zygote takes no request: {error}"
            raise SandboxUnavailable(msg) from error
        try:
            async with asyncio.timeout(_START):
                await asyncio.shield(birth.born)
        except TimeoutError:
            self.kill()
            msg = f"the zygote forked no child in {_START:.0f} s"
            raise SandboxUnavailable(msg) from None
        except asyncio.CancelledError:
            birth.kill()
            raise
        return birth

    def kill(self) -> None:
        """Kill it, and its children with it. `died` follows."""
        if not self.died.done():
            if self._itself < 0:
                self._process.kill()
            else:  # where that is another process, the one started here reaps it and ends
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._itself, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and wait until it is reaped, and its children are gone."""
        self.kill()
        await asyncio.shield(self.died)
        births = list(self._births.values())
        await asyncio.gather(*(asyncio.shield(birth.ended) for birth in births))

    def _receive(self) -> None:
        while True:
            try:
                packet, descriptors, flags, _ = socket.recv_fds(self._control, MAX_PACKET, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors, flags = b"", [], 0
            try:
                if not packet or flags & socket.MSG_TRUNC:
                    raise ValueError
                self._apply(packet, descriptors)
            except (msgspec.MsgspecError, ValueError, KeyError):
                asyncio.get_running_loop().remove_reader(self._control)
                self.kill()
                return
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _apply(self, packet: bytes, descriptors: list[int]) -> None:
        frame = decode(packet)
        match frame:
            case Hello():
                self._itself = descriptors.pop()
                self.pid = pid_of(self._itself)
                settle(self.hello, None)
            case Born():
                self._births[frame.id].begin(descriptors.pop())
            case Stillborn():
                self._births.pop(frame.id).fail(f"a child cannot be forked: {frame.message}")
            case ChildEnded():
                self._births[frame.id].end(frame)
                if frame.swept:
                    del self._births[frame.id]
            case Swept():
                settle(self._births.pop(frame.id).swept, None)

    def _bury(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pidfd)
        self._receive()  # its last reports
        loop.remove_reader(self._control)
        code = self._process.wait()
        os.close(self._pidfd)
        if self._itself >= 0:
            os.close(self._itself)
        self._control.close()
        self._output.drain()
        output = "".join(text for _, text in self._output.take()).strip()
        self._output.close()
        message = f"the zygote ended with code {code}" + (f"; it said: {output[-2000:]}" if output else "")
        for birth in self._births.values():
            birth.lose(message)
        self.died.set_result(message)


async def start(where: Ground, who: Identity | None, tier: Tier, on_death: Callable[[str], None]) -> Zygote:
    """Exec a zygote of a tier and wait until it is ready. Raises `SandboxUnavailable`, with its output, if it is not."""
    with contextlib.ExitStack() as undo:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            with theirs:
                output = ChildOutput()
                undo.callback(output.close)
                process = _popen(where, who, tier, theirs, output)
        except OSError as error:
            msg = f"the zygote cannot be started: {error}"
            raise SandboxUnavailable(msg) from error
        output.listen()
        ours.setblocking(False)  # noqa: FBT003
        zygote = Zygote(process, ours, output)
        undo.pop_all()
    both: list[asyncio.Future[Any]] = [zygote.hello, zygote.died]
    try:
        async with asyncio.timeout(_START):
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    except TimeoutError:
        await zygote.end()
    except BaseException:
        await zygote.end()
        raise
    if zygote.died.done():
        msg = f"the sandbox cannot be started: {zygote.died.result()}"
        raise SandboxUnavailable(msg)
    zygote.died.add_done_callback(lambda died: on_death(died.result()))
    return zygote


def _popen(
    where: Ground, who: Identity | None, tier: Tier, control: socket.socket, output: ChildOutput
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
