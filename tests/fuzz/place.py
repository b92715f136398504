"""The stack that is fuzzed: how it is reached, and what it holds that is as it should be."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import asyncpg
import msgspec
import nats
from nats.aio.client import Client as Nats

from deploy.credentials import load_or_create
from shared.encryption import Keyring
from shared.pull import inbox_prefix
from tests.fuzz.wire import Client
from tests.support.stack import Up

ORG = "fuzz"
SECRET = "It's a Secret to Everybody"
STANDARD_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
# Seconds for any answer: beyond it something hangs.
WITHIN = 20.0
# Seconds for what was admitted to be routed, behind all that was admitted before.
SETTLED_WITHIN = 60.0
WORKFLOWS = Path(__file__).with_name("workflows")


class Source(NamedTuple):
    """A source of webhooks: its adapter and where it is."""

    name: str
    adapter: str
    path: str


class Place:
    """One running stack. `known` has good values by the name of the field that takes them."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.ready = up.read()
        self.url: str = self.ready["url"]
        self.known: dict[str, Any] = {}
        self.sources: list[Source] = []
        self._credentials = load_or_create(up.data / "credentials.json", None)
        self.keyring = Keyring(tuple(base64.b64decode(key) for key in self._credentials.keys))

    def client(self) -> Client:
        """Return a new connection to the API."""
        return Client(self.url, WITHIN)

    def authorized(self, org: str = ORG) -> list[tuple[str, str]]:
        """Return the headers of somebody who may do everything, meaning an organization."""
        return [("Authorization", f"Bearer {self.ready['admin_key']}"), ("X-Millrace-Org", org)]

    async def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, org: str = ORG) -> Any:
        """Do something that has to work; returns the answer. Raises AssertionError otherwise."""
        client = self.client()
        try:
            sent = raw if raw is not None else None if body is None else msgspec.json.encode(body)
            answer = await client.request(method, f"/api/v1{path}".encode(), self.authorized(org), sent)
        finally:
            client.close()
        assert answer.status < 300, (method, path, answer)
        return msgspec.json.decode(answer.body) if answer.body else None

    @contextlib.asynccontextmanager
    async def bus(self, service: str) -> AsyncIterator[Nats]:
        """Connect to the broker with a service's rights, or those of `admin`, for the block."""
        url = self.ready["nats_url"]
        if service != "admin":
            parts = urlsplit(url)
            url = parts._replace(netloc=f"{service}:{self._credentials.nats[service]}@{parts.netloc.rpartition('@')[2]}").geturl()
        client = await nats.connect(url, inbox_prefix=inbox_prefix(service).encode(), max_reconnect_attempts=-1)
        try:
            yield client
        finally:
            await client.close()

    @contextlib.asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """Connect to the database with an administrator's rights for the block."""
        connection = await asyncpg.connect(self.ready["database_url"])
        try:
            yield connection
        finally:
            await connection.close()

    async def prepare(self) -> None:
        """Make what the doors need: workflows, sources, subscriptions, settings, a run that has ended, a delivery."""
        for file in sorted(WORKFLOWS.glob("*.py")):
            view = await self.call("PUT", f"/workspace/files/{file.name}", raw=file.read_bytes())
            assert not view["problems"], view
        await self._sources()
        await self.call("PUT", "/workspace/files/spare.txt", raw=b"nothing")
        await self.call("PUT", "/variables/spare", {"value": "nothing"})
        await self.call("PUT", "/secrets/spare", {"value": "nothing"})
        await self.call("PUT", "/keys/spare", {"role": "viewer"})
        await self.call("PUT", "/orgs/spare", {})
        await self.call("PUT", "/users/spare", {"roles": {"default": "viewer"}})
        await self.call("PUT", "/levels/oauth", {"level": "info"}, org="global")
        await self.call("PUT", "/connections/spare", {"token": "nothing"})
        await self.call("PUT", "/providers/spare", {"known": "github", "client_id": "a client", "client_secret": "its secret"})
        await self.call("PUT", "/connections/pending", {"grant": "authorization_code", "provider": "spare"})
        await self.call("PUT", "/integrations/spare", {"config_schema": {"type": "object"}})
        await self.call("PUT", f"/integrations/spare/mappings/{ORG}", {"config": {}})
        run = await self.call("POST", "/workflows/take/runs?wait=30", {"input": {}})
        assert run["status"] == "succeeded", run
        emitted = await self.call("POST", "/sources/topic/events", {"type": "spare"})
        topic = await self.call("GET", "/sources/topic")
        self.known |= {
            "org": ORG,
            "actor": "fuzz",
            "run": run["id"],
            "version": run["version"],
            "delivery": emitted["id"],
            "topic": topic["id"],
        }

    async def unsettled(self, deliveries: set[str]) -> list[str]:
        """Wait until each delivery that was admitted has a row that says what became of it; return what is wrong with others."""
        waiting = set(deliveries)

        async def all_there() -> bool:
            async with self.database() as database:
                rows = await database.fetch(
                    "SELECT id FROM events.delivery WHERE id = ANY($1) AND (outcome <> 'accepted' OR dead IS NOT NULL)",
                    list(waiting),
                )
            waiting.difference_update(row["id"] for row in rows)
            return not waiting

        if await eventually(all_there, SETTLED_WITHIN, 0.5):
            return []
        return [f"{len(waiting)} deliveries were admitted and have no row that says what became of them, such as {min(waiting)}"]

    async def _sources(self) -> None:
        signed: dict[str, tuple[str, dict[str, Any]]] = {
            "github": ("github", {"secret": SECRET}),
            "standard": ("standard-webhooks", {"secret": STANDARD_SECRET}),
            "plain": ("hmac", {"secret": SECRET}),
            "named": ("hmac", {"secret": SECRET, "event_path": "kind.of", "delivery_header": "X-Id"}),
            "topic": ("topic", {}),
        }
        for name, (adapter, settings) in signed.items():
            view = await self.call("PUT", f"/sources/{name}", {"adapter": adapter, "settings": settings})
            if view["url"]:
                self.sources.append(Source(name, adapter, urlsplit(view["url"]).path))
        # What such a workflow is given comes from the sender; each of these looks at the event in another way.
        inputs = [
            ("named", "*", "take", None, {"value": "event.data"}),
            ("standard", "*", "order", 'has(event.data.a) && event.data.a == "b"', {"order": "event.data"}),
            ("github", "push", "take", "event.data.n > 1 || event.data.a.b == 2", None),
            ("topic", "*", "take", 'event.type != "spare" && event.data.a.matches("^b+$")', {"value": "event.data.a"}),
        ]
        for number, (source, event, workflow, wanted, given) in enumerate(inputs):
            body = {"source": source, "event": event, "workflow": workflow, "filter": wanted, "input": given}
            await self.call("PUT", f"/subscriptions/spare-{number}", body)


def quoted(text: str) -> str:
    """Return a text as part of a path or a query, half surrogate pairs and all."""
    return quote(text.encode(errors="surrogatepass"), safe="")


async def eventually(claim: Any, within: float, every: float = 0.1) -> Any:
    """Return the first true answer of an async function, or its last one when there is none in time."""
    deadline = asyncio.get_running_loop().time() + within
    while not (found := await claim()) and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(every)
    return found
