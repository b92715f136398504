"""Sources that register themselves, by the command, on a stack whose events service is killed where it hurts."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest_asyncio

from tests.support.client import Client
from tests.support.command import Command
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.registering import TOKEN, Graph, graph
from tests.support.stack import Up, running_up


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def up() -> AsyncIterator[Up]:
    """A stack that may ask senders on this machine."""
    with open_folder() as place:
        async with running_up(place / ".millrace", environment=os.environ | {"MILLRACE_EGRESS_ALLOW": "127.0.0.1"}) as stack:
            yield stack


async def active(client: Client, remote: str) -> None:
    """Wait until the source is registered as `remote`; the service that knows it may be starting again."""

    async def shown() -> bool:
        found = await client.available("/api/v1/sources/mail")
        return found is not None and (found["registration"]["status"], found["registration"]["remote"]) == ("active", remote)

    await eventually(shown, within=90, every=0.25)


def wanted(server: Graph, **more: Any) -> str:
    document = {"resource": "users/a/messages", "changes": ["created"], "api_url": server.url} | more
    return "registration=" + str(document).replace("'", '"')


async def test_a_source_registers_itself_and_goes_on_after_a_kill(up: Up, millrace: Command, client: Client) -> None:
    token = up.data.parent / "token"
    token.write_text(TOKEN)
    async with graph() as server:
        await millrace("connections", "put", "contoso", "--token-file", str(token))
        await millrace("integrations", "put", "office")
        await millrace("integrations", "map", "office", "--connection", "contoso")
        # Killed when the sender has made it, and nobody knows.
        server.unanswered = {"POST"}
        await millrace("sources", "put", "mail", "--adapter", "microsoft-graph", "--integration", "office", "--set", wanted(server))

        async def there() -> bool:
            return len(server.there()) == 1

        await eventually(there)
        (id_,) = server.there()
        os.kill(up.read()["services"]["events"], signal.SIGKILL)
        server.unanswered = set()
        server.free.set()
        await active(client, id_)
        assert server.counted()["POST"] == 1
        shown = await millrace.json("sources", "get", "mail")
        assert (shown["registration"]["remote"], shown["registration"]["error"], shown["secrets"]) == (id_, None, ["secret"])
        # What the sender then notifies is a delivery.
        assert await server.notify(id_, changeType="created", resource="users/a/messages") == 202

        async def delivered() -> bool:
            found = await client.available("/api/v1/deliveries?source=mail")
            return found is not None and [one["type"] for one in found["items"]] == ["created"]

        await eventually(delivered)
        # It is nobody else's to see.
        await client.call("GET", "/api/v1/sources/mail?org=other", status=404)
        async with aiohttp.ClientSession() as session, session.get(f"{client.url}/api/v1/sources/mail") as answer:
            assert answer.status == 401
        # A source with a wrong resource is refused where it is put.
        refused = await client.call(
            "PATCH", "/api/v1/sources/mail", body={"settings": {"registration": {"resource": "x"}}}, status=422
        )
        assert refused["errors"][0]["path"].startswith("settings.registration")
        await millrace("sources", "delete", "mail")

        async def gone() -> bool:
            return server.there() == {}

        await eventually(gone)
    log = b"".join(path.read_bytes() for path in up.data.rglob("*.log"))
    assert TOKEN.encode() not in log
