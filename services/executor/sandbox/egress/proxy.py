"""The proxy of one run: accepts on the run's socket until it is closed, and then nothing of it is left."""

import asyncio
import socket
import time

from services.executor.sandbox.egress.connection import Connection
from services.executor.sandbox.egress.network import Network
from services.executor.sandbox.egress.relay import Ends
from services.executor.sandbox.egress.request import USER

_SO_NETNS_COOKIE = 71


class Proxy:
    """Serves one run from `start` to `close`, on a socket that listens already and is the proxy's from now on.

    With a token, only who knows it is served.
    """

    def __init__(self, network: Network, listener: socket.socket, token: str | None = None) -> None:
        self._network = network
        self._listener = listener
        self._limits = network.limits
        self._token = token
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Begin to accept; returns the address as programs want it, with the token in it. Raises OSError."""
        host, port = self._listener.getsockname()[:2]
        self._listener.setblocking(False)  # noqa: FBT003
        self._server = await asyncio.start_server(self._accept, sock=self._listener, limit=self._limits.head_bytes)
        user = "" if self._token is None else f"{USER}:{self._token}@"
        return f"http://{user}{host}:{port}"

    async def close(self) -> None:
        """End every connection, each with its record, and stop to listen."""
        if self._server is not None:
            self._server.close()
        self._listener.close()
        for task in self._connections:
            task.cancel()
        while self._connections:  # among them what was accepted in the meantime
            await asyncio.wait(self._connections)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        busy = len(self._connections)
        is_over = self._server is None or not self._server.is_serving()
        if is_over or busy >= 2 * self._limits.connections:  # not even worth a word
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve((reader, writer), is_one_too_many=busy >= self._limits.connections))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, near: Ends, *, is_one_too_many: bool) -> None:
        began = time.monotonic()
        connection = Connection(self._network, self._token, near)
        try:
            await connection.serve(is_one_too_many=is_one_too_many)
        except asyncio.CancelledError:
            connection.reason = "run_ended"  # and that is all of it: only `close` cancels
        except ConnectionError:
            connection.reason = "reset"
        finally:
            near[1].transport.abort()
            if connection.outcome is not None:
                self._network.note(connection.record(round((time.monotonic() - began) * 1000)))


def is_shared(listener: socket.socket) -> bool:
    """Return whether others than the run could connect: whether the socket is in the network namespace of this process.

    Kernels before 5.14 cannot tell; then the answer is yes.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
        try:
            return _namespace(ours) == _namespace(listener)
        except OSError:
            return True


def _namespace(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
