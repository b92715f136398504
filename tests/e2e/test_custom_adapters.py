"""An adapter of a workspace is committed while webhooks arrive: none is refused, and the new version is used at once."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from datetime import datetime
from typing import Any

import aiohttp
import pytest

from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.stack import Up

KEY = "a-secret-of-acme"
BODY = b'{"order": 1}'
SIGNATURE = "sha256=" + hmac.new(KEY.encode(), BODY, hashlib.sha256).hexdigest()
DECLARED = """
from millrace import Event, Place, Request, Scheme, adapter


@adapter(name="NAME", scheme=Scheme(signature=Place(header="x-signature", prefix="sha256=")))
class Acme:
    def parse(self, request: Request) -> Event:
        return Event("VERSION", request.json())
"""
CODED = """
import hashlib
import hmac

from millrace import Event, Request, adapter


@adapter(name="NAME")
class Acme:
    def verify(self, request: Request) -> bool:
        expected = "sha256=" + hmac.new(request.secrets["secret"].encode(), request.body, hashlib.sha256).hexdigest()
        return hmac.compare_digest(request.headers["x-signature"], expected)

    def parse(self, request: Request) -> Event:
        return Event("VERSION", request.json())
"""


@pytest.mark.parametrize(("text", "name", "rate"), [(DECLARED, "declared", 60), (CODED, "coded", 30)], ids=["scheme", "code"])
async def test_a_version_that_is_committed_while_webhooks_arrive_is_used_soon(
    up: Up, client: Client, text: str, name: str, rate: int
) -> None:
    async def commit(version: str) -> float:
        content = text.replace("NAME", name).replace("VERSION", version)
        got = await client.put_file(f"adapters/{name}.py", content.encode())
        assert got["problems"] == []
        return time.time()

    await commit("one")
    url = (await client.call("PUT", f"/api/v1/sources/{name}", body={"adapter": name, "settings": {"secret": KEY}}))["url"]
    statuses: list[int] = []

    async def send(session: aiohttp.ClientSession) -> int:
        async with session.post(url, data=BODY, headers={"X-Signature": SIGNATURE}) as response:
            await response.read()
            return response.status

    async def flow(session: aiohttp.ClientSession, seconds: float) -> None:
        """Send at the rate, whenever the answers come."""
        began, sent, going = time.monotonic(), 0, set[asyncio.Task[None]]()

        async def one() -> None:
            statuses.append(await send(session))

        while (passed := time.monotonic() - began) < seconds:
            while sent < passed * rate:
                going.add(asyncio.create_task(one()))
                sent += 1
            await asyncio.sleep(0.005)
        await asyncio.gather(*going)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await eventually(lambda: _is(send(session), 202))
        sending = asyncio.create_task(flow(session, 6.5))
        await asyncio.sleep(1.5)
        committed = await commit("two")
        await sending
    assert set(statuses) == {202}
    assert len(statuses) >= 4 * rate

    async def all_read() -> list[dict[str, Any]] | None:
        found = await _deliveries(client, name)
        return found if len(found) > len(statuses) and all(one["type"] for one in found) else None

    found = await eventually(all_read)
    assert isinstance(found, list)
    later = [one["type"] for one in found if datetime.fromisoformat(one["received_at"]).timestamp() > committed + 2.5]
    assert len(later) > rate
    assert set(later) == {"two"}
    assert {one["type"] for one in found} == {"one", "two"}


async def _is(sent: Any, status: int) -> bool:
    return bool(await sent == status)


async def _deliveries(client: Client, source: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = await client.call("GET", f"/api/v1/deliveries?source={source}&limit=1000{cursor}")
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
