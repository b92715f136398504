"""One template as the supervisor sees it: asked of the zygote, it forks the runs of one organization and bundle."""

import asyncio
import contextlib
import socket
from typing import Any

from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.fork_server import ForkServer
from services.executor.sandbox.output import ChildOutput
from services.executor.sandbox.zygote import Zygote

_MOST_MODULES = 64


class Template(ForkServer):
    """A running template, from `start` on. Its owner must `end` it. It dies with its zygote, and its children with it."""

    kind = "template"
    takes_orders = False
    _is_watched = False

    def __init__(self, control: socket.socket, output: ChildOutput) -> None:
        super().__init__(control, output)
        self._modules: set[str] = set()

    def expect(self, module: str) -> None:
        """Have it find and read a module that jobs ask for, by its path or name, for children to come."""
        if module in self._modules or len(self._modules) >= _MOST_MODULES:
            return
        self._modules.add(module)
        with contextlib.suppress(OSError):  # they are none the worse for it
            self._control.send(module.removesuffix(".py").replace("/", ".").encode())

    def kill(self) -> None:
        """Kill it, and its children with it. `died` follows."""
        if self._itself >= 0:
            super().kill()
        elif not self.died.done():
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)  # it has no child yet, and ends when it notices

    def _packet(self, number: int, order: dict[str, Any]) -> bytes:  # noqa: ARG002 - all of its children are alike
        return b"%d" % number

    def _apply(self, packet: bytes, descriptors: list[int]) -> None:
        super()._apply(packet, descriptors)
        if self.hello.done() and not self._is_watched:
            self._is_watched = True
            # Readable when it is dead, and all that descends from it.
            asyncio.get_running_loop().add_reader(self._itself, self._gone)

    def _hang_up(self) -> None:
        if self._itself >= 0:
            self.kill()
        else:
            self._bury("ended before it was ready")

    def _gone(self) -> None:
        asyncio.get_running_loop().remove_reader(self._itself)
        self._receive()  # its last reports
        self._bury("ended")


async def start(zygote: Zygote, order: dict[str, Any]) -> Template:
    """Have a template forked and wait until it is ready. Raises `SandboxUnavailable`, with its output, if it does not."""
    with contextlib.ExitStack() as undo:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            output = ChildOutput()
            undo.callback(output.close)
        except OSError as error:
            msg = f"a template cannot be started: {error}"
            raise SandboxUnavailable(msg) from error
        with theirs:
            zygote.fork_template(order, theirs.fileno(), output.writable("stdout"), output.writable("stderr"))
        output.listen()
        ours.setblocking(False)  # noqa: FBT003
        template = Template(ours, output)
        undo.pop_all()
    if not await template.greeted():
        msg = f"a template cannot be started: {template.died.result()}"
        raise SandboxUnavailable(msg)
    return template
