"""Connections to the public port: their number, how long one may send or take nothing, and which has to go first."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from services.gateway.config import Network
from services.gateway.heads import MOST_FIELD, MOST_HEADERS, MOST_LINE, Heads, refusal_of
from shared.http import problem
from shared.service import descriptors

# Seconds within which a head is there: from the connection's beginning, or from the head's first byte. It has a few KiB, and
# fits into the first packets of a connection.
HEAD = 10.0
# A client that takes an answer may stand still for so many seconds; each `TAKEN` bytes give a second of that back.
STILL = 30.0
TAKEN = 1024
# Seconds that a connection may idle between requests: longer than the proxies that keep connections open to us.
KEEPALIVE = 75.0
# Seconds during which the rest of a body that was refused is read, so that its sender sees the answer and not a reset.
LINGER = 2.0
# Seconds between looks at all connections, and between two searches for one that can go where there was none.
LOOKS = 1.0
SEARCHES = 0.1
# Bytes of a body that wait for their reader, before no more are read.
UNREAD = 64 * 1024
# An address may have an eighth of all connections, and of the idle ones a sixteenth goes at once, so that
# looking for them costs little however fast new ones come.
OF_ADDRESS = 8
AT_ONCE = 16
# Descriptors for everything but connections: broker, files, those of libraries.
OTHER_DESCRIPTORS = 128
LEAST = 64

_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nServer: millrace\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    b"Cache-Control: no-store\r\n%bContent-Length: %d\r\n\r\n%b"
)
_LATE_BODY = b'{"type":"about:blank","title":"Too slow","status":408,"detail":"a head has to be there within %d s"}' % HEAD

_log = structlog.get_logger()


def descriptors_for(most: int) -> int:
    """Have as many descriptors as so many connections need, if the system lets us; returns how many connections they allow."""
    wanted = most + OTHER_DESCRIPTORS
    there = descriptors(wanted)
    if there >= wanted:
        return most
    allowed = max(LEAST, there - OTHER_DESCRIPTORS)
    _log.warning("gateway.few_descriptors", descriptors=there, wanted=wanted, connections=allowed)
    return allowed


@functools.lru_cache(maxsize=4096)
def neighbourhood(remote: str | None, trusted: Sequence[Network]) -> str | None:
    """Return the network that counts as one address: itself, of IPv6 its /64. None for one of many: trusted proxies, loopback."""
    try:
        address = ip_address(remote or "")
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback or any(address in network for network in trusted):
        return None
    return str(IPv6Address(int(address) >> 64 << 64)) if address.version == 6 else str(address)


class Peer(web.RequestHandler):
    """One connection. `address` as `neighbourhood` has it; `known` once an authenticated request came over it."""

    __slots__ = ("_peers", "_seen_size", "_still", "address", "heads", "known")

    def __init__(self, peers: Peers, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            # Signatures are over the bytes that were sent; and unpacked bytes have no bound.
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE,
            lingering_time=LINGER,
            read_bufsize=UNREAD,
            max_line_size=MOST_LINE,
            max_field_size=MOST_FIELD,
            max_headers=MOST_HEADERS,
        )
        self._peers = peers
        self.heads = Heads(self._parser, loop.time)
        self._parser: Any = self.heads
        self.address: str | None = None
        self.known = False
        self._still = 0.0
        self._seen_size = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or be closed at once where there are too many."""
        name = transport.get_extra_info("peername")
        self.address = neighbourhood(name[0] if isinstance(name, tuple) else None, self._peers.trusted)
        if self._peers.admit(self):
            super().connection_made(transport)
        elif isinstance(transport, asyncio.WriteTransport):
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._peers.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; of a connection that is about to be closed those of the body that is on its way, and no further request."""
        if not (self._force_close or self._close):
            super().data_received(data)
        elif not self.heads.body.is_eof():
            with contextlib.suppress(HttpProcessingError):
                self.heads.feed_data(data)

    def pause_writing(self) -> None:
        """Begin to count how long the client takes nothing."""
        super().pause_writing()
        self._still = STILL
        self._seen_size = self._unsent()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; the next request is not looked at before the client takes this one's."""
        done = await super().finish_response(request, resp, start_time)
        if self.writing_paused:
            await request.writer.drain()
        elif self.heads.broken:
            # To a client that is still sending, closing at once would look like a reset.
            await asyncio.sleep(LINGER)
        return done

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer broken or too large requests; senders' mistakes are not logged."""
        if status != 400:
            return super().handle_error(request, status, exc, message)
        answer = problem(*refusal_of(exc))
        answer.headers.update(self._peers.always)
        answer.force_close()
        return answer

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log an error, unless a body broke off."""
        if not isinstance(kw.get("exc_info"), web.RequestPayloadError | ConnectionError):
            super().log_exception(*args, **kw)

    def spare(self) -> tuple[int, float] | None:
        """Return the rank of this connection for closing, first the cheapest to lose; None where it is of use.

        First those that have no whole head, then idle ones, then those whose body is on its way.
        """
        if self._waiter is not None and not self._messages:
            return (0, self.heads.since) if self.heads.since is not None else (1, self.heads.began)
        if self.heads.broken:
            return (0, self.heads.began)
        return None if self.known or self.heads.body.is_eof() else (2, self.heads.began)

    def look(self, now: float, since: float) -> None:
        """Close this connection if its head is late, or it takes none of its answer; `since` is the last look."""
        if self.writing_paused:
            size = self._unsent()
            self._still = min(STILL, self._still - (now - since) + max(0, self._seen_size - size) / TAKEN)
            self._seen_size = size
            if self._still < 0 and self.transport is not None:
                self.transport.abort()
        elif self.heads.since is not None and not self.heads.broken:
            if self._waiter is None:
                # Its turn has not come.
                self.heads.since = now
            elif now - self.heads.since > HEAD and self.transport is not None:
                if not self.heads.silent:
                    self.transport.write(self._peers.late)
                self.force_close()

    def _unsent(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0


class Peers:
    """All connections; makes new ones, as a protocol factory. `most` at a time; `trusted` are proxies.

    `always` are headers of the answers that are given before there is a request.
    """

    def __init__(self, server: web.Server, most: int, trusted: tuple[Network, ...], always: Mapping[str, str]) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._most_of_address = max(1, most // OF_ADDRESS)
        self.trusted = trusted
        self.always = {"Cache-Control": "no-store", **always}
        lines = "".join(f"{name}: {value}\r\n" for name, value in always.items()).encode()
        self.late = _LATE % (lines, len(_LATE_BODY), _LATE_BODY)
        self._peers: dict[Peer, None] = {}
        self._nobody = asyncio.Event()
        self._nobody.set()
        self._of: defaultdict[str, int] = defaultdict(int)
        self._looked = self._loop.time()
        self._searched = -SEARCHES
        self._next_look = self._loop.call_later(LOOKS, self._look)

    def __call__(self) -> Peer:
        """Return the protocol that serves a new connection."""
        return Peer(self, self._server, self._loop)

    def __len__(self) -> int:
        """Return how many are connected."""
        return len(self._peers)

    def admit(self, peer: Peer) -> bool:
        """Count a new connection in, or return False where there are too many and none of them can go."""
        address = peer.address
        if address is not None and self._of[address] >= self._most_of_address and not self._make_way(address):
            return False
        if len(self._peers) >= self._most and not self._make_way(None):
            return False
        self._peers[peer] = None
        self._nobody.clear()
        if address is not None:
            self._of[address] += 1
        return True

    def forget(self, peer: Peer) -> None:
        """Count a connection out; nothing where it is not counted."""
        if peer in self._peers:
            del self._peers[peer]
            if peer.address is not None:
                self._of[peer.address] -= 1
                if not self._of[peer.address]:
                    del self._of[peer.address]
            if not self._peers:
                self._nobody.set()

    async def gone(self, within: float) -> None:
        """Wait until nobody is connected, at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._nobody.wait()

    def stop(self) -> None:
        """Look no more."""
        self._next_look.cancel()

    def _make_way(self, address: str | None) -> bool:
        """Close the connections, of an address or of all, that are least in use; returns whether there were any."""
        now = self._loop.time()
        if now < self._searched + SEARCHES:
            return False
        spare = [(order, peer) for peer in self._peers if address in {None, peer.address} and (order := peer.spare()) is not None]
        if not spare:
            self._searched = now
            return False
        spare.sort(key=lambda one: one[0])
        # Not many more than half of one kind: the newest may be about to speak.
        alike = sum(order[0] == spare[0][0][0] for order, _ in spare)
        for _, peer in spare[: max(1, min(self._most // AT_ONCE, alike // 2))]:
            self.forget(peer)
            if peer.transport is not None:
                peer.transport.abort()
        return True

    def _look(self) -> None:
        now = self._loop.time()
        for peer in list(self._peers):
            peer.look(now, self._looked)
        self._looked = now
        self._next_look = self._loop.call_later(LOOKS, self._look)
