"""Adapters' declarations reach the gateway: with a source, with a new version of an adapter, and in its answers to senders."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from services.events import adapters
from shared.registry import RegistryWriter
from shared.resources.source import SourceEntry
from shared.verification import Handshake, Place, SignatureScheme, Verification
from tests.integration.test_gateway import BODY, SECRET, Client, Got, entry, gateway, received, signed
from tests.integration.test_sources import house
from tests.support.inside import bus_of, eventually, running
from tests.support.servers import Place as Installation

SIGNATURE = Place(header="x-sig")
CHALLENGED = Verification(
    schemes=(
        SignatureScheme(signature=SIGNATURE),
        SignatureScheme(algorithm="token", signature=Place(query="key"), encoding="text"),
    ),
    handshakes=(
        Handshake(
            when=((Place(query="hub.mode"), "subscribe"),),
            challenge=Place(query="hub.challenge"),
            token=Place(query="hub.verify_token"),
        ),
        Handshake(method="POST", when=((Place(json="type"), "url_verification"),), challenge=Place(json="challenge"), signed=True),
        Handshake(method="POST", when=((Place(json="hello"), "true"),), json={"hello": True}),
        Handshake(
            method="OPTIONS",
            challenge=Place(header="webhook-request-origin"),
            text="",
            headers={"WebHook-Allowed-Origin": "{challenge}"},
        ),
    ),
)


async def put(place: Installation, made: SourceEntry, declared: Verification | None) -> None:
    """Write a source's entry as another version of its owner might."""
    derived = {} if declared is None else {"verification": msgspec.to_builtins(declared)}
    async with bus_of(place, "events") as bus:
        entry_ = msgspec.structs.replace(made, derived=derived)
        await RegistryWriter(bus.client, "sources", SourceEntry).put(made.id, 1, entry_)


async def settled(client: Client, source: str, status: int) -> Got:
    """Wait until a source answers a signed webhook with a status."""

    async def answered() -> Got | None:
        got = await client.hook(source)
        return got if got.status == status else None

    got = await eventually(answered)
    assert isinstance(got, Got)
    return got


async def test_an_entry_of_an_earlier_version_is_503_until_its_owner_has_declared_it(place: Installation) -> None:
    made = entry(place)
    await put(place, made, None)
    async with gateway(place) as client:
        got = await settled(client, made.id, 503)
        assert int(got.headers["Retry-After"]) > 0
        # Nobody is told that a good signature is none.
        assert (await client("POST", f"/hooks/{made.id}", data=BODY, headers={})).status == 503
        async with running(place, "events"):
            await settled(client, made.id, 202)


async def test_a_new_version_of_an_adapter_reaches_the_sources_that_are_there(
    place: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(place) as call:
        _, source = await call("PUT", "/sources/repo", {"adapter": "github", "settings": {"secret": "s"}})
        assert (await call.hook(source["url"], "s")).status == 202

    def newer(_settings: Mapping[str, Any]) -> Verification:
        return Verification(schemes=(adapters.github.SCHEME,), content_types=("application/xml",))

    monkeypatch.setitem(adapters.VERIFICATIONS, "github", newer)
    async with house(place) as call:

        async def refused() -> bool:
            url = (await call("GET", "/sources/repo"))[1]["url"]
            return (await call.hook(url, "s")).status == 415

        await eventually(refused)
        status, again = await call("GET", "/sources/repo")
        assert (status, again["version"]) == (200, source["version"])


async def test_an_adapter_that_is_not_there_closes_its_source_and_no_other(
    place: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_settings: Mapping[str, Any]) -> Verification:
        raise KeyError("a setting of an earlier version")

    async with house(place) as call:
        monkeypatch.setitem(adapters.VERIFICATIONS, "hmac", broken)
        status, source = await call("PUT", "/sources/one", {"adapter": "hmac", "settings": {"secret": "s"}})
        assert status == 200
        _, other = await call("PUT", "/sources/other", {"adapter": "github", "settings": {"secret": "s"}})

        async def closed() -> bool:
            return (await call.hook(source["url"], "s")).status == 503 and (await call.hook(other["url"], "s")).status == 202

        await eventually(closed)


async def test_a_senders_questions_are_answered_and_are_no_deliveries(place: Installation) -> None:
    made = entry(place)
    await put(place, made, CHALLENGED)

    def sign(body: bytes) -> dict[str, str]:
        return {"X-Sig": hmac.new(SECRET.encode(), body, "sha256").hexdigest(), "Content-Type": "application/json"}

    async with gateway(place) as client:
        hook = f"/hooks/{made.id}"

        async def opened() -> bool:
            return (await client("POST", hook, data=BODY, headers=sign(BODY))).status == 202

        await eventually(opened)
        query = "hub.mode=subscribe&hub.challenge=%3Cb%3E1&hub.verify_token="
        token = "It%27s%20a%20Secret%20to%20Everybody"
        got = await client("GET", f"{hook}?{query}{token}", headers={})
        assert (got.status, got.body, got.headers["Content-Type"]) == (200, b"<b>1", "text/plain")
        assert got.headers["X-Content-Type-Options"] == "nosniff"
        assert (await client("GET", f"{hook}?{query}wrong", headers={})).status == 403
        got = await client("GET", hook, headers={})
        assert (got.status, got.headers["Allow"]) == (405, "POST, GET, OPTIONS")
        body = b'{"type":"url_verification","challenge":"abc"}'
        got = await client("POST", hook, data=body, headers=sign(body))
        assert (got.status, got.body) == (200, b"abc")
        assert (await client("POST", hook, data=body, headers=sign(b"other"))).status == 401
        assert (await client("POST", hook, data=body, headers={})).status == 401
        got = await client("POST", hook, data=b'{"hello":true}', headers={})
        assert (got.status, got.json) == (200, {"hello": True})
        got = await client("OPTIONS", hook, headers={"WebHook-Request-Origin": "a.example"})
        assert (got.status, got.headers["WebHook-Allowed-Origin"]) == (200, "a.example")
        # A token in the query verifies, and is not kept.
        assert (await client("POST", f"{hook}?key={token}&a=1", data=BODY, headers={})).status == 202
        kept = await received(place)
    assert len(kept) == 2
    assert kept[1].query == [("key", "[redacted]"), ("a", "1")]
    assert dict(kept[0].headers)["x-sig"] == "[redacted]"


async def test_headers_that_stand_twice_are_refused(place: Installation) -> None:
    made = entry(place)
    await put(place, made, adapters.VERIFICATIONS["github"]({}))
    async with gateway(place) as client:
        await settled(client, made.id, 202)
        good = signed(BODY)
        for name in ("X-Hub-Signature-256", "X-GitHub-Delivery"):
            headers = [*good.items(), ("X-GitHub-Delivery", "a"), (name, good.get(name, "b"))]
            got = await client("POST", f"/hooks/{made.id}", data=BODY, headers=headers)
            assert (got.status, "more than once" in got.json["detail"]) == (401, True)
