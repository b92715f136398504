"""The public socket: bound or handed over, and drained at the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

from services.gateway.config import Network
from services.gateway.peers import Peers

# Seconds in which requests that are on their way over open connections still come, once no more connections are taken.
ON_THEIR_WAY = 1.0
# Seconds that requests in flight have to finish once no new ones are taken.
DRAIN = 8.0
BACKLOG = 1024
# Bytes on their way to a client that the system keeps for it, and again as many for their keeping; left alone it keeps 4 MiB for
# one that takes nothing. Enough for 2 MB a second to a client that is 100 ms away.
UNTAKEN = 128 * 1024


def listening(descriptor: int | None, host: str, port: int) -> socket.socket:
    """Return the socket to serve on: `descriptor`, which is taken over, or a new one. Raises OSError when it cannot be bound."""
    if descriptor is not None:
        made = socket.socket(fileno=descriptor)
    else:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Every connection inherits it.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNTAKEN)
    return made


def url_of(sock: socket.socket) -> str:
    """Return the address of a bound socket as a URL; one that is bound to every address is named by the loopback."""
    host, port = sock.getsockname()[:2]
    named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{named}]:{port}" if ":" in named else f"http://{named}:{port}"


@contextlib.asynccontextmanager
async def serving(
    application: web.Application,
    sock: socket.socket,
    *,
    most: int,
    trusted: tuple[Network, ...],
    always: Mapping[str, str],
) -> AsyncIterator[Peers]:
    """Serve during the block up to `most` connections; at its end take no more and let requests in flight finish.

    `always` are headers of answers to what is no request.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=DRAIN)
    await runner.setup()
    if runner.server is None:
        raise RuntimeError("the runner made no server")
    peers = Peers(runner.server, most, trusted, always)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(sock.close)
        stack.callback(peers.stop)
        stack.push_async_callback(runner.cleanup)
        # Idle connections are closed after it: what was sent into one by then would have no answer.
        stack.push_async_callback(peers.gone, ON_THEIR_WAY)
        server = await asyncio.get_running_loop().create_server(peers, sock=sock, backlog=BACKLOG)
        stack.callback(server.close)
        yield peers
