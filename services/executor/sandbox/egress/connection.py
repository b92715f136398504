"""One connection of a run: asked for, judged, made, passed on, reported."""

import asyncio
import contextlib
import time

from services.executor.sandbox.egress.network import Network, Outcome, Record
from services.executor.sandbox.egress.relay import PIECE, Ends, Relay
from services.executor.sandbox.egress.request import MalformedRequest, ProxyRequest, knows, parse
from shared.egress.addresses import Address
from shared.egress.policy import Refusal, Target
from shared.egress.resolver import is_own

ADDRESSES = 4
"""Addresses of a name that are tried, one after the other."""

_PHRASES = {
    400: "Bad Request",
    403: "Forbidden",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class _Answer(Exception):
    """The request is answered by the proxy itself. `error` is a type of RFC 9209, `code` goes into the record."""

    def __init__(self, status: int, error: str, refusal: Refusal, *, address: Address | None = None) -> None:
        super().__init__(refusal.detail)
        self.status = status
        self.error = error
        self.refusal = refusal
        self.address = address


class ProxyConnection:
    """One connection of a run, from its first byte on."""

    def __init__(self, network: Network, token: str | None, near: Ends) -> None:
        self._network = network
        self._limits = network.limits
        self._token = token
        self._near = near
        self._relay = Relay(self._limits.idle_seconds, self._limits.half_open_seconds)
        self._target: Target | None = None
        self._address: Address | None = None
        self.outcome: Outcome | None = None
        """None as long as nothing was asked for: such a connection is not worth a record."""
        self.reason = ""
        near[1].transport.set_write_buffer_limits(high=PIECE)

    def record(self, duration_ms: int) -> Record:
        """Return the report of the connection. After `serve`, however that ended."""
        return Record(
            outcome=self.outcome or "failed",
            reason=self.reason,
            host="" if self._target is None else self._target.host,
            port=0 if self._target is None else self._target.port,
            address=None if self._address is None else str(self._address),
            sent=self._relay.sent,
            received=self._relay.received,
            duration_ms=duration_ms,
        )

    async def serve(self, *, is_one_too_many: bool) -> None:
        """Serve it to its end. Raises ConnectionError where the run goes away in the middle of a word."""
        try:
            request = await self._request()
            if request is None:
                return
            self.outcome, self._target = "failed", request.target
            if is_one_too_many:
                detail = f"the run has {self._limits.connections} connections open, which is the limit"
                raise _Answer(503, "connection_limit_reached", Refusal("limit", detail))
            far = await self._connected(request.target)
        except _Answer as answer:
            self.outcome = "denied" if answer.status in (403, 407) else "failed"
            self.reason, self._address = answer.refusal.code, answer.address
            await self._send_answer(answer)
            return
        self.outcome = "connected"
        try:
            if request.is_tunnel:
                self._near[1].write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far[1].write(request.head)
                self._relay.sent = len(request.head)
            self.reason = await self._relay.run(self._near, far)
            if self.reason == "closed":
                far[1].close()
                self._near[1].close()
                async with asyncio.timeout(self._limits.half_open_seconds):
                    await asyncio.gather(far[1].wait_closed(), self._near[1].wait_closed())
        except OSError:
            self.reason = "reset"
        finally:
            far[1].transport.abort()

    async def _request(self) -> ProxyRequest | None:
        """Read the head; None where the other side closed before its end."""
        try:
            async with asyncio.timeout(self._limits.head_seconds):
                request = parse(await self._near[0].readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError:
            return None
        except TimeoutError:
            detail = f"no whole request came in {self._limits.head_seconds:g} s"
            raise _Answer(408, "http_request_error", Refusal("slow", detail)) from None
        except asyncio.LimitOverrunError:
            detail = f"the head of the request is over {self._limits.head_bytes} bytes"
            raise _Answer(431, "http_request_error", Refusal("head", detail)) from None
        except MalformedRequest as error:
            raise _Answer(400, "http_request_error", Refusal("malformed", str(error))) from None
        if self._token is not None and not knows(request.authorization, self._token):
            raise _Answer(407, "http_request_denied", Refusal("token", "the run's token is missing or wrong"))
        return request

    async def _connected(self, target: Target) -> Ends:
        policy = self._network.policy
        refusal = policy.refusal_of_name(target)
        if refusal is not None:
            raise _Answer(403, "http_request_denied", refusal, address=target.address)
        addresses = [target.address] if target.address is not None else await self._resolved(target.host)
        for address in addresses:
            refusal = policy.refusal_of_address(address, target.port)
            if refusal is None and not policy.is_opened(address, target.port) and is_own(address):
                refusal = Refusal("own", f"{address} is an address of the machine that runs Millrace")
            if refusal is not None:
                if target.address is None:
                    refusal = Refusal(refusal.code, f"{target.host} resolves to {refusal.detail}")
                raise _Answer(403, "destination_ip_prohibited", refusal, address=address)
        return await self._open(addresses[:ADDRESSES], target)

    async def _resolved(self, host: str) -> list[Address]:
        try:
            async with asyncio.timeout(self._limits.resolve_seconds):
                return await self._network.resolve(host)
        except TimeoutError:
            raise _Answer(504, "dns_timeout", Refusal("dns", f"looking {host} up took too long")) from None
        except (OSError, UnicodeError):
            raise _Answer(502, "dns_error", Refusal("dns", f"{host} has no address")) from None

    async def _open(self, addresses: list[Address], target: Target) -> Ends:
        """Connect to the first address that answers: to the number that was judged, so that no name is looked up again."""
        failure: OSError | None = None
        deadline = time.monotonic() + self._limits.connect_seconds
        for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
            self._address = address
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic()) / left):
                    far = await asyncio.open_connection(str(address), target.port, limit=PIECE)
            except OSError as error:
                failure = error
            else:
                far[1].transport.set_write_buffer_limits(high=PIECE)
                return far
        if isinstance(failure, TimeoutError):
            refusal = Refusal("timeout", f"{target} did not answer in time")
            raise _Answer(504, "connection_timeout", refusal, address=self._address)
        refused = isinstance(failure, ConnectionRefusedError)
        refusal = Refusal(
            "refused" if refused else "unreachable", f"{target} {'refuses connections' if refused else 'is unreachable'}"
        )
        raise _Answer(502, "connection_refused" if refused else "destination_unavailable", refusal, address=self._address)

    async def _send_answer(self, answer: _Answer) -> None:
        """Answer in the proxy's own name. The reason is in the status line too: of a refused CONNECT most clients show no more."""
        detail = answer.refusal.detail
        fields = [
            f"HTTP/1.1 {answer.status} {_PHRASES[answer.status]} by Millrace: {detail}",
            f'Proxy-Status: millrace; error={answer.error}; details="{detail}"',
            "Content-Type: text/plain; charset=us-ascii",
            f"Content-Length: {len(detail) + 1}",
            *(['Proxy-Authenticate: Basic realm="millrace"'] if answer.status == 407 else []),
            "Connection: close",
        ]
        reader, writer = self._near
        writer.write("\r\n".join([*fields, "", f"{detail}\n"]).encode("ascii", "replace"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.linger_seconds):
                await writer.drain()
                writer.write_eof()
                while await reader.read(PIECE):  # closing with bytes unread would take the answer back
                    pass
