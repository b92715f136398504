"""The oauth service with a provider on the loopback, and those who ask it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import msgspec

from shared import aggregate
from shared.bus import Bus
from shared.envelope import new_id, open_message
from shared.errors import Unavailable
from shared.messages import Message
from shared.questions.oauth import (
    AuthorizationEnded,
    AuthorizationOpened,
    BeginAuthorization,
    FinishAuthorization,
    GetToken,
    ListKnownProviders,
    OpenAuthorization,
    RefreshConnection,
    Token,
)
from tests.support import resources
from tests.support.inside import bus_of, eventually, running
from tests.support.oauth_provider import LocalProvider, local_provider
from tests.support.resources import got, ring, told
from tests.support.servers import Place

ALLOWED = {"MILLRACE_EGRESS_ALLOW": "127.0.0.0/8"}
CALLBACK = "https://millrace.example/oauth/callback"
BROWSER = "the hash of a browser's cookie"


class Given(msgspec.Struct):
    """What a run is given."""

    token: str
    headers: dict[str, str]
    query: dict[str, str]
    answer: Token


class Asking:
    """A provider, the service, and those who ask it."""

    def __init__(self, place: Place, provider: LocalProvider, gateway: Bus, executor: Bus) -> None:
        self.place = place
        self.provider = provider
        self.gateway = gateway
        self.executor = executor

    async def put(self, noun: str, name: str, *, org: str = "acme", **given: Any) -> Any:
        """Put a resource; return it as it is shown."""
        return await told(self.gateway, resources.putting(noun, name, ring(self.place), org=org, **given))

    async def given(self, name: str = "halo", *, org: str = "acme", **more: Any) -> Given:
        """Ask for a connection as a run does."""
        nonce = new_id()
        answer: Token = await self.executor.ask(GetToken(org=org, name=name, run="r1", nonce=nonce, **more))
        request = msgspec.json.decode(ring(self.place).open(answer.request or "", org, nonce, "request"))
        return Given(ring(self.place).open(answer.sealed, org, nonce, "token"), request["headers"], request["query"], answer)

    async def patient(self, name: str = "halo", *, org: str = "acme") -> str:
        """Return a token, asked for until there is one."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return (await self.given(name, org=org)).token
                except Unavailable:
                    await asyncio.sleep(0.1)

    async def provide(self, **more: Any) -> None:
        """Have the provider `local`, which is the one on the loopback."""
        url = self.provider.url
        usual = {"token_url": f"{url}/token", "revoke_url": f"{url}/revoke", "authorize_url": f"{url}/authorize"}
        await self.put("provider", "local", **usual | {"client_id": "client", "client_secret": "client-secret"} | more)

    async def begin(self, name: str = "halo") -> tuple[dict[str, str], str]:
        """Begin an authorization and open it in a browser; return the parameters of the provider's address, and its `state`."""
        asked = {one: values[0] for one, values in parse_qs(urlsplit(await self.begun(name)).query).items()}
        return asked, asked["state"]

    async def open(self, state: str, browser: str = BROWSER) -> str:
        """Open an authorization in a browser, as the gateway does; return the provider's address."""
        command = OpenAuthorization(id=new_id(), org="global", actor="anonymous", state=state, browser=browser)
        opened: AuthorizationOpened = await self.gateway.ask(command)
        return opened.url

    async def begun(self, name: str) -> str:
        """Begin an authorization and open it in a browser; return the provider's address."""
        begun = await self.gateway.ask(BeginAuthorization(id=new_id(), org="acme", actor="key:k1", name=name, redirect=CALLBACK))
        return await self.open(begun.state or "")

    async def finish(self, state: str, code: str | None = "a-code-secret", **more: Any) -> AuthorizationEnded:
        """Come back from the provider, as the gateway passes it on."""
        id_ = new_id()
        sealed = None if code is None else ring(self.place).seal(code, "global", id_, "code")
        command = {
            "id": id_,
            "org": "global",
            "actor": "anonymous",
            "redirect": CALLBACK,
            "sealed_code": sealed,
            "browser": BROWSER,
        }
        ended: AuthorizationEnded = await self.gateway.ask(FinishAuthorization(state=state, **command | more))
        return ended

    async def authorize(self, name: str = "halo", **more: Any) -> Any:
        """Have a connection that a person has authorized; return it as it is shown."""
        await self.provide(**more)
        await self.put("connection", name, grant="authorization_code", provider="local")
        await self.again(name)
        return await self.shown(name)

    async def again(self, name: str = "halo") -> None:
        """Have a person authorize a connection."""
        _, state = await self.begin(name)
        self.provider.codes["a-code-secret"] = {"redirect_uri": CALLBACK}
        ended = await self.finish(state)
        assert ended.reason is None, ended

    async def refresh(self, name: str = "halo") -> None:
        """Demand another token."""
        await self.gateway.ask(RefreshConnection(id=new_id(), org="acme", actor="key:k1", name=name))

    async def shown(self, name: str = "halo", *, org: str = "acme") -> Any:
        """Return a connection as it is shown."""
        return await got(self.gateway, "connection", name, org=org)

    async def row(self, change: str = "") -> Any:
        """Return the one row of tokens, after a change if one is given as SQL."""
        connection = await asyncpg.connect(self.place.database_url("oauth"))
        try:
            if change:
                await connection.execute(f"UPDATE token SET {change}")
            return await connection.fetchrow("SELECT * FROM token")
        finally:
            await connection.close()

    async def expire(self) -> None:
        """Have all tokens ended, and nothing scheduled."""
        await self.row("expires_at = now() - interval '1 minute', refresh_at = NULL, not_before = NULL")

    async def published(self, id_: str) -> list[Message]:
        """Return the messages about a connection."""
        async with bus_of(self.place, "admin") as admin:
            found = [one async for one in aggregate.history(admin.client, "connection", id_)]
            return [open_message(one.envelope) for one in found]


@asynccontextmanager
async def asking(place: Place, *, replicas: int = 1, **environment: str) -> AsyncIterator[Asking]:
    """Run the service in this process, that often, with a provider."""
    async with (
        local_provider() as provider,
        bus_of(place, "gateway") as gateway,
        bus_of(place, "executor") as executor,
        AsyncExitStack() as stack,
    ):
        for _ in range(replicas):
            await stack.enter_async_context(running(place, "oauth", **ALLOWED | environment))
        yield Asking(place, provider, gateway, executor)


@asynccontextmanager
async def oauth_process(place: Place, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the service as the process that it is outside of tests."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "services", "oauth"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | place.environment("oauth", **ALLOWED | environment),
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def asking_processes(place: Place, count: int) -> AsyncIterator[tuple[Asking, list[asyncio.subprocess.Process]]]:
    """Run the service in so many processes, with a provider; yields when one of them answers."""
    async with (
        local_provider() as provider,
        bus_of(place, "gateway") as gateway,
        bus_of(place, "executor") as executor,
        AsyncExitStack() as stack,
    ):
        processes = [await stack.enter_async_context(oauth_process(place)) for _ in range(count)]

        async def answers() -> bool:
            try:
                await gateway.ask(ListKnownProviders(org="acme"), timeout=1)
            except Unavailable:
                return False
            return True

        await eventually(answers)
        yield Asking(place, provider, gateway, executor), processes
