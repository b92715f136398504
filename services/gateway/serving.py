"""The public socket: bound or handed over, and drained at the end."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

from aiohttp import web

# Seconds that requests in flight have to finish once no new ones are taken.
DRAIN = 8.0
# Seconds during which the rest of a body that was refused is read, so that its sender sees the answer and not a reset.
LINGER = 2.0
# Seconds that a connection may idle between requests: longer than the proxies that keep connections open to us.
KEEPALIVE = 75.0
BACKLOG = 1024


def listening(descriptor: int | None, host: str, port: int) -> socket.socket:
    """Return the socket to serve on: `descriptor`, which is taken over, or a new one. Raises OSError when it cannot be bound."""
    if descriptor is not None:
        return socket.socket(fileno=descriptor)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def url_of(sock: socket.socket) -> str:
    """Return the address of a bound socket as a URL; one that is bound to every address is named by the loopback."""
    host, port = sock.getsockname()[:2]
    named = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{named}]:{port}" if ":" in named else f"http://{named}:{port}"


@contextlib.asynccontextmanager
async def serving(application: web.Application, sock: socket.socket) -> AsyncIterator[None]:
    """Serve during the block; at its end take no more connections and let what is in flight finish."""
    runner = web.AppRunner(
        application,
        access_log=None,
        # Signatures are over the bytes that were sent; and what is unpacked has no bound.
        auto_decompress=False,
        keepalive_timeout=KEEPALIVE,
        lingering_time=LINGER,
        shutdown_timeout=DRAIN,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, sock, backlog=BACKLOG).start()
        yield
    finally:
        await runner.cleanup()
        sock.close()
