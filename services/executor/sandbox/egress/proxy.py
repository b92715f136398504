"""The proxy of one run: accepts on the run's socket until it is closed, and then nothing of it is left."""

import asyncio
import functools
import socket
import time

from services.executor.sandbox.egress.connection import ProxyConnection
from services.executor.sandbox.egress.network import Network
from services.executor.sandbox.egress.request import USER

_SO_NETNS_COOKIE = 71
_AGAIN = 0.05
"""Seconds until it is tried again to accept, where there was no room."""


class Proxy:
    """Serves one run from `start` to `close`, on a listening socket, which `close` closes unless another run is to have it.

    With a token, only a request that carries it is served. Connections beyond the limits, at a time or in a second, wait in
    the kernel: a run that floods its proxy delays itself, never the supervisor. From one event loop only.
    """

    def __init__(self, network: Network, listener: socket.socket, token: str | None = None, *, keep_listener: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._listener = listener
        self._keep_listener = keep_listener
        self._limits = network.limits
        self._token = token
        self._connections: set[asyncio.Task[None]] = set()
        self._fresh: set[socket.socket] = set()
        """Accepted, and not yet in the hands of their task."""
        self._is_closed = False
        self._due = float("-inf")
        """When the last connection would have been, had all come evenly."""
        self._pause: asyncio.Handle | None = None

    def start(self) -> str:
        """Accept from the next turn of the loop on; returns the address as programs want it, with the token in it. Raises OSError.

        Who connects earlier waits in the kernel, and the run's job is on its way before.
        """
        host, port = self._listener.getsockname()[:2]
        self._listener.setblocking(False)  # noqa: FBT003
        self._pause = self._loop.call_soon(self._listen)
        user = "" if self._token is None else f"{USER}:{self._token}@"
        return f"http://{user}{host}:{port}"

    async def close(self) -> None:
        """End every connection, each with its record, and accept no more. A second time does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        if not self._keep_listener:
            self._listener.close()
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)
        for accepted in self._fresh:
            accepted.close()

    def _listen(self) -> None:
        self._pause = None
        if self._is_closed:
            return
        try:
            self._loop.add_reader(self._listener, self._accept)
        except OSError:  # no room for it in the kernel
            self._wait(_AGAIN)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(seconds, self._listen)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # no descriptor left, for one: the connection stays where it is
            self._wait(_AGAIN)
            return
        busy = len(self._connections)
        self._fresh.add(accepted)
        task = self._loop.create_task(self._serve(accepted, is_one_too_many=busy >= self._limits.connections))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        now, apart = self._loop.time(), 1 / self._limits.per_second
        self._due = max(self._due, now - self._limits.burst * apart) + apart
        if self._due + apart > now:
            self._wait(self._due + apart - now)
        elif busy >= 2 * self._limits.connections:
            self._wait(_AGAIN)

    async def _serve(self, accepted: socket.socket, *, is_one_too_many: bool) -> None:
        began = time.monotonic()
        self._fresh.discard(accepted)
        near = await asyncio.open_connection(sock=accepted, limit=self._limits.head_bytes)
        connection = ProxyConnection(self._network, self._token, near)
        try:
            await connection.serve(is_one_too_many=is_one_too_many)
        except asyncio.CancelledError:  # and that is all of it: only `close` cancels
            connection.reason = connection.reason or "run_ended"
        except ConnectionError:
            connection.reason = connection.reason or "reset"
        finally:
            near[1].transport.abort()
            if connection.outcome is not None:
                self._network.record(connection.record(round((time.monotonic() - began) * 1000)))


def is_shared(listener: socket.socket) -> bool:
    """Return whether others than the run could connect: whether the socket is in the network namespace of this process.

    Kernels before 5.14 do not show it; then the answer is yes.
    """
    try:
        return _namespace(listener) == _own_namespace()
    except OSError:
        return True


@functools.cache
def _own_namespace() -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as ours:
        return _namespace(ours)


def _namespace(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
