"""Sends requests outside on an organization's behalf, under its egress policy, and gets small documents."""

import asyncio
import functools
import socket
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from shared.egress.addresses import Address
from shared.egress.policy import EgressPolicy, EgressRules, Target, target
from shared.egress.resolver import Resolve, Resolver, is_own
from shared.errors import Unavailable

# Bytes: a key set of a large provider has some tens of KiB.
MOST = 256 * 1024
# Bytes of an answer with its heads and what comes before it: a server may send interim answers (1xx) without end.
MOST_RECEIVED = MOST + 128 * 1024


class NotSent(Unavailable):
    """The host may not be asked, or was not reached: nothing of the request has left this machine."""


class NotAllowed(NotSent):
    """The egress policy refuses the host, or one of its addresses."""


class AnsweredTooMuch(Unavailable):
    """The answer is larger than what is read."""


class Fetched(msgspec.Struct, frozen=True):
    """The answer of a host: its status, its headers by their names in lower case, and its body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fetcher:
    """Asks hosts over HTTPS; over HTTP only at an address that the operator has allowed. Its creator must `close` it."""

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._resolver = Resolver()

    def close(self) -> None:
        """Begin nothing any more."""
        self._resolver.close()

    def refusal(self, org: str, authority: str) -> str | None:
        """Return why the policy of an organization refuses a host, for HTTPS where it has no `:port`; None: it does not.

        The addresses of a name are not looked up: they may be refused all the same. Raises ValueError for what is no host.
        """
        policy, asked = self._rules.of(org), target(authority, default_port=443)
        refused = policy.refusal_of_name(asked)
        if refused is None and asked.address is not None:
            refused = policy.refusal_of_address(asked.address, asked.port)
        return None if refused is None else refused.detail

    async def get(self, org: str, url: str, *, timeout: float) -> bytes:
        """Return the body of the answer 200, of up to 256 KiB, within `timeout` seconds. Raises `Unavailable` with the reason."""
        answer = await self.send(org, "GET", url, timeout=timeout)
        if answer.status != 200:
            raise Unavailable(f"{urlsplit(url).netloc} answered {answer.status}", retry_after=5)
        return answer.body

    async def send(
        self,
        org: str,
        method: str,
        url: str,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Fetched:
        """Return the answer to a request, whatever it is, of up to 256 KiB, within `timeout` seconds.

        No redirect is followed. The host is judged by the organization's policy, and so is each of its addresses. Raises
        `Unavailable` with the reason, which repeats nothing of the headers or the body: `NotSent` where the host has seen nothing
        of it; after any other the request may have done what it is for.
        """
        policy = self._rules.of(org)
        parts = urlsplit(url)
        try:
            there = target(parts.netloc, {"http": 80, "https": 443}.get(parts.scheme))
        except ValueError as error:
            raise NotSent(f"{parts.netloc[:100]!r} cannot be fetched from: {error}", retry_after=60) from error
        refusal = policy.refusal_of_name(there)
        if refusal is not None:
            raise NotAllowed(f"{there} may not be fetched from: {refusal.detail}", retry_after=60)
        judged = _Judged(policy, there, self._resolver.of(org), secure=parts.scheme == "https")
        connected = asyncio.Event()
        try:
            async with asyncio.timeout(timeout):
                if there.address is not None:
                    judged.check([there.address])
                return await _sent(method, url, judged, {"Accept-Encoding": "identity", **(headers or {})}, body, connected)
        except TimeoutError as error:
            lost = Unavailable if connected.is_set() else NotSent
            raise lost(f"{there} did not answer within {timeout:g} s", retry_after=5) from error
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            lost = Unavailable if connected.is_set() else NotSent
            raise lost(f"{there} could not be fetched from: {type(error).__name__}", retry_after=5) from error


class _Judged(AbstractResolver):
    """Resolves the host once, and refuses it where any of its addresses may not be reached."""

    def __init__(self, policy: EgressPolicy, there: Target, resolve: Resolve, *, secure: bool) -> None:
        self._policy = policy
        self._there = there
        self._resolve = resolve
        self._secure = secure

    def check(self, addresses: list[Address]) -> None:
        """Raise `NotAllowed` unless all addresses may be reached."""
        port = self._there.port
        for address in addresses:
            refusal = self._policy.refusal_of_address(address, port)
            opened = self._policy.is_opened(address, port)
            if refusal is not None:
                raise NotAllowed(f"{self._there} may not be fetched from: {refusal.detail}", retry_after=60)
            if not opened and (not self._secure or is_own(address)):
                why = "is not asked over HTTPS" if not self._secure else "is the machine that runs Millrace"
                raise NotAllowed(f"{self._there} may not be fetched from: it {why}", retry_after=60)

    async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Return the addresses of a host, of every family."""
        del family
        addresses = await self._resolve(host)
        self.check(addresses)
        return [
            ResolveResult(
                hostname=host,
                host=str(one),
                port=port,
                family=socket.AF_INET if one.version == 4 else socket.AF_INET6,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for one in addresses
        ]

    async def close(self) -> None:
        """Keep nothing."""


class _Bounded(ResponseHandler):
    """Receives an answer, and ends the connection of one that is larger than is read, wherever it is in it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, exceeded: asyncio.Event) -> None:
        super().__init__(loop)
        self._exceeded = exceeded
        self._left = MOST_RECEIVED

    def data_received(self, data: bytes) -> None:
        """Take what has come in."""
        self._left -= len(data)
        if self._left >= 0:
            super().data_received(data)
        elif self.transport is not None:
            self._exceeded.set()
            self.transport.abort()


class _Connector(aiohttp.TCPConnector):
    """Makes connections with a bound on what they receive; aiohttp has one for a line and a field only."""

    def __init__(self, resolver: AbstractResolver) -> None:
        super().__init__(resolver=resolver, use_dns_cache=False, force_close=True)
        self.exceeded = asyncio.Event()
        handler = functools.partial(_Bounded, asyncio.get_running_loop(), self.exceeded)
        self._factory = cast("functools.partial[ResponseHandler]", handler)


async def _sent(
    method: str, url: str, judged: _Judged, headers: Mapping[str, str], body: bytes | None, connected: asyncio.Event
) -> Fetched:
    """Send a request and read its answer; sets `connected` before the first byte of the request is written."""
    tracing = aiohttp.TraceConfig()

    async def is_connected(_session: aiohttp.ClientSession, _context: Any, _params: Any) -> None:
        connected.set()

    tracing.on_connection_create_end.append(is_connected)
    connector = _Connector(judged)
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), trace_configs=[tracing]
            ) as session,
            session.request(method, url, allow_redirects=False, headers=headers, data=body) as answer,
        ):
            got = await answer.content.read(MOST + 1)
            while len(got) <= MOST and (more := await answer.content.read(MOST + 1 - len(got))):
                got += more
    except aiohttp.ClientError as error:
        if connector.exceeded.is_set():
            raise _too_much(url) from error
        raise
    if len(got) > MOST:
        raise _too_much(url)
    return Fetched(answer.status, {name.lower(): value for name, value in answer.headers.items()}, got)


def _too_much(url: str) -> AnsweredTooMuch:
    return AnsweredTooMuch(f"{urlsplit(url).netloc} answered more than {MOST} bytes", retry_after=60)
