"""A process that forks children when it is asked, as the supervisor sees it: the zygote, or a template.

Forking is its own, so is reaping; a child is only ever signalled through the pidfd that came with the report of its birth.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from services.executor.sandbox.birth import Birth, pid_of, settle
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.output import ChildOutput
from services.executor.sandbox.reports import MAX_PACKET, Born, ChildEnded, Hello, Stillborn, Swept, decode

_ROOM = socket.CMSG_SPACE(2 * 4)
START = 30.0
"""Seconds until one, or a child of it, must be there: far more than either needs on a busy machine."""


class ForkServer:
    """One of either kind, from its request on. Its owner must `end` it.

    Each packet on the socket between the two is one report; see `reports`.
    """

    kind = "fork server"
    takes_orders = True
    """Whether it is told what each child is for."""

    def __init__(self, control: socket.socket, output: ChildOutput) -> None:
        loop = asyncio.get_running_loop()
        self.hello: asyncio.Future[None] = loop.create_future()
        self.died: asyncio.Future[str] = loop.create_future()
        """Becomes the reason, with the process's output."""
        self.pid = -1
        """The number of the process that forks, once it has reported."""
        self.proxy: str | None = None
        """The address that its children use for their proxy unless they are given another, once it has reported."""
        self._itself = -1
        self._control = control
        self._output = output
        self._births: dict[int, Birth] = {}
        self._last_id = 0
        loop.add_reader(control, self._receive)

    @property
    def children(self) -> int:
        """Answer how many children of it live, or are being born."""
        return len(self._births)

    async def fork(self, order: dict[str, Any], control: int, out: int, err: int, doors: Sequence[int] = ()) -> Birth:
        """Have a child forked as `request` does, and wait until it is born. Raises `SandboxUnavailable`."""
        birth = self.request(order, control, out, err, doors)
        try:
            async with asyncio.timeout(START):
                await asyncio.shield(birth.born)
        except TimeoutError:
            self.kill()
            msg = f"the {self.kind} forked no child in {START:.0f} s"
            raise SandboxUnavailable(msg) from None
        except asyncio.CancelledError:
            birth.kill()
            raise
        return birth

    def request(self, order: dict[str, Any], control: int, out: int, err: int, doors: Sequence[int] = ()) -> Birth:
        """Ask for a child that enters a control group by its `doors`, and holds exactly the other descriptors, as 3, 1 and 2.

        Raises `SandboxUnavailable`.
        """
        if self.died.done():
            raise SandboxUnavailable(self.died.result())
        self._last_id += 1
        birth = self._births[self._last_id] = Birth(self.kind, self.kill)
        packet = self._packet(self._last_id, order)
        try:
            socket.send_fds(self._control, [packet], [control, out, err, *doors])
        except OSError as error:
            del self._births[self._last_id]
            msg = f"the {self.kind} takes no request: {error}"
            raise SandboxUnavailable(msg) from error
        return birth

    def kill(self) -> None:
        """Kill it, and its children with it. `died` follows."""
        if not self.died.done() and self._itself >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._itself, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and wait until it is gone, and its children are."""
        self.kill()
        await asyncio.shield(self.died)
        births = list(self._births.values())
        await asyncio.gather(*(asyncio.shield(birth.ended) for birth in births))

    async def childless(self) -> None:
        """Wait until it is dead, or none of its children is left."""
        while self._births and not self.died.done():
            ends: list[asyncio.Future[Any]] = [self.died, *(birth.swept for birth in self._births.values())]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    async def greeted(self) -> bool:
        """Wait for its first word; answer whether that came. It has ended where it did not."""
        both: list[asyncio.Future[Any]] = [self.hello, self.died]
        try:
            async with asyncio.timeout(START):
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            await self.end()
        except BaseException:
            await self.end()
            raise
        return not self.died.done()

    def _packet(self, number: int, order: dict[str, Any]) -> bytes:
        """Answer the packet that asks for a child."""
        return json.dumps({"kind": "fork", "id": number, **order}).encode()

    def _receive(self) -> None:
        while True:
            try:
                packet, ancillary, flags, _ = self._control.recvmsg(MAX_PACKET, _ROOM, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                packet, ancillary, flags = b"", [], 0
            descriptors = memoryview(ancillary[0][2]).cast("i").tolist() if ancillary else []
            try:
                if not packet or flags & socket.MSG_TRUNC:
                    raise ValueError
                self._apply(packet, descriptors)
            except (msgspec.MsgspecError, ValueError, KeyError, IndexError):
                asyncio.get_running_loop().remove_reader(self._control)
                self._hang_up()
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
                self.proxy = frame.proxy
                settle(self.hello, None)
            case Born():
                birth = self._births[frame.id]
                if len(descriptors) > 1:
                    birth.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptors.pop())
                    birth.listener.setblocking(False)  # noqa: FBT003
                birth.begin(descriptors.pop())
            case Stillborn():
                self._births.pop(frame.id).fail(f"a child cannot be forked: {frame.message}")
            case ChildEnded():
                self._births[frame.id].end(frame)
                if frame.swept:
                    del self._births[frame.id]
            case Swept():
                settle(self._births.pop(frame.id).swept, None)

    def _hang_up(self) -> None:
        """Answer that the other end is closed, or has broken the protocol."""
        self.kill()

    def _bury(self, how: str) -> None:
        """Record the death; `how` is the reason without the output."""
        asyncio.get_running_loop().remove_reader(self._control)
        if self._itself >= 0:
            os.close(self._itself)
        self._control.close()
        self._output.drain()
        output = "".join(text for _, text in self._output.take()).strip()
        self._output.close()
        message = f"the {self.kind} {how}" + (f"; it said: {output[-2000:]}" if output else "")
        for birth in self._births.values():
            birth.lose(message)
        self.died.set_result(message)
