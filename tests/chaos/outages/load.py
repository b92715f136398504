"""A mixed load: reads of every owner, writes and webhooks at a steady pace, each sent once and noted with its outcome."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import uuid
from collections.abc import Callable, Iterator
from typing import Self

import aiohttp
import msgspec

from tests.chaos.clients import paced
from tests.chaos.drill import Site

# Seconds after which a request without an answer counts as hung: more than the gateway waits for any owner of these routes.
HUNG = 30.0
SECRET = "It's a Secret to Everybody"
BODY = b'{"ref": "refs/heads/main"}'
SIGNED = {
    "X-Hub-Signature-256": "sha256=" + hmac.new(SECRET.encode(), BODY, hashlib.sha256).hexdigest(),
    "X-GitHub-Event": "push",
    "Content-Type": "application/json",
}
READS = ("/runs", "/deliveries", "/sources", "/variables", "/workspace/files", "/workflows", "/logs", "/dead-letters")


class Request(msgspec.Struct, frozen=True):
    """A request to send: a read, a write or a webhook."""

    kind: str
    method: str
    path: str
    body: bytes | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What became of a request that was sent at `at`, in the loop's time: its status, or the error instead of one."""

    request: Request
    at: float
    seconds: float
    status: int | None
    error: str | None = None
    retry_after: bool = False

    @property
    def failed(self) -> bool:
        """Return whether it has no answer, or one that says that it was not done."""
        return self.status is None or self.status >= 500 or self.status == 429


def requests(hook: str) -> Iterator[Request]:
    """Yield requests without end: of four, two reads of one owner after the other, a write and a webhook."""
    for number in itertools.count():
        yield Request("read", "GET", f"/api/v1{READS[(2 * number) % len(READS)]}?limit=10")
        yield Request("read", "GET", f"/api/v1{READS[(2 * number + 1) % len(READS)]}?limit=10")
        match number % 3:
            case 0:
                yield Request("write", "PUT", f"/api/v1/variables/load-{number % 20}", b'{"value": %d}' % number)
            case 1:
                yield Request("write", "PUT", f"/api/v1/workspace/files/data/load-{number % 20}.txt", b"%d" % number)
            case _:
                yield Request("write", "POST", "/api/v1/workflows/touch/runs", b'{"input": {}}')
        yield Request("webhook", "POST", hook, BODY)


class Load:
    """Sends requests for the block and notes their outcomes."""

    def __init__(self, site: Site, hook: str, rate: float) -> None:
        self._site = site
        self._hook = hook
        self._rate = rate
        self.outcomes: list[Outcome] = []
        self._flow: asyncio.Task[None] | None = None
        self._sent: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Begin to send."""
        self._flow = asyncio.create_task(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send nothing more, and wait for what was sent."""
        if self._flow is not None:
            self._flow.cancel()
            await asyncio.gather(self._flow, return_exceptions=True)
        await asyncio.gather(*self._sent)

    def since(self, at: float) -> list[Outcome]:
        """Return the outcomes of what was sent since a time."""
        return [one for one in self.outcomes if one.at >= at]

    async def until(self, claim: Callable[[], bool]) -> None:
        """Wait until a claim holds, looking at every outcome."""
        while not claim():
            await asyncio.sleep(1 / self._rate)

    async def _send(self) -> None:
        async for request in paced(requests(self._hook), self._rate):
            task = asyncio.create_task(self._one(request))
            self._sent.add(task)
            task.add_done_callback(self._sent.discard)

    async def _one(self, request: Request) -> None:
        loop = asyncio.get_running_loop()
        ready = self._site.installation.ready()
        headers = {"Authorization": f"Bearer {ready['admin_key']}"}
        if request.kind == "webhook":
            headers = SIGNED | {"X-GitHub-Delivery": str(uuid.uuid4())}
        at, status, error, retry_after = loop.time(), None, None, False
        try:
            async with self._site.session.request(
                request.method,
                ready["url"] + request.path,
                data=request.body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=HUNG),
            ) as response:
                await response.read()
                status, retry_after = response.status, "Retry-After" in response.headers
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            error = "hung" if isinstance(failure, TimeoutError) else type(failure).__name__
        self.outcomes.append(Outcome(request, at, loop.time() - at, status, error, retry_after))
