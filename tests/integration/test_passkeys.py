"""Passkeys: who holds one signs in without a login, once for each question, at the gateway's own pages, and with no copy of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.integration.test_gateway import Client, Got, gateway
from tests.integration.test_sessions import audited, signed_in, status
from tests.integration.test_signing_in import browser, statement
from tests.support.authenticator import PRESENT, Authenticator, raw, text
from tests.support.inside import eventually
from tests.support.servers import Place
from tests.support.signing_in import Browser

ACME = {"roles": {"acme": "admin"}}


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


def page_of(client: Client) -> str:
    """Return the origin by which a browser has a domain for passkeys."""
    return client.url.replace("127.0.0.1", "localhost")


async def with_passkey(client: Client, ours: Browser, *, counts: bool = True) -> Authenticator:
    """Return the new passkey of a user who is signed in."""
    made = Authenticator(page_of(client), counts=counts)
    options = await client("POST", "/api/v1/me/passkeys/options", headers=ours.changes)
    assert (options.status, options.json["rp"]["id"]) == (200, "localhost")
    assert options.json["authenticatorSelection"]["residentKey"] == "required"
    body = {"credential": made.make(options.json), "name": "a phone"}
    got = await client("POST", "/api/v1/me/passkeys", json=body, headers=ours.changes)
    assert (got.status, got.json["kind"], got.json["name"]) == (201, "passkey", "a phone")
    return made


async def question(client: Client) -> dict[str, Any]:
    got = await client("POST", "/api/v1/sessions/passkey/options", headers={})
    assert (got.status, got.json["allowCredentials"], got.json["userVerification"]) == (200, [], "required")
    options: dict[str, Any] = got.json
    return options


async def answer(client: Client, signed: dict[str, Any]) -> Got:
    return await client("POST", "/api/v1/sessions/passkey", json={"credential": signed}, headers={"Origin": page_of(client)})


@pytest.mark.parametrize("counts", [True, False])
async def test_who_holds_a_passkey_signs_in_with_it(place: Place, client: Client, counts: bool) -> None:
    ours = await signed_in(place, client, **ACME)
    key = await with_passkey(client, ours, counts=counts)
    for _ in range(2):
        got = await answer(client, key.sign(await question(client)))
        assert (got.status, got.json["actor"], got.json["method"]) == (200, "user:ada", "passkey")
        opened = browser(client, got)
        assert await status(client, opened) == 200
    assert (await client("GET", "/api/v1/users/ada")).json["methods"] == ["passkey"]
    # The one that is there is not made a second time.
    options = (await client("POST", "/api/v1/me/passkeys/options", headers=ours.changes)).json
    assert [raw(one["id"]) for one in options["excludeCredentials"]] == [key.id]
    (kept,) = (await client("GET", "/api/v1/me/credentials", headers=ours.looks)).json["items"]
    assert (await client("DELETE", f"/api/v1/me/passkeys/{kept['id']}", headers=ours.changes)).status == 204
    # Nor goes on what it has opened.
    assert (await status(client, opened), await status(client, ours)) == (401, 200)
    assert (await answer(client, key.sign(await question(client)))).status == 403


def _other_origin(key: Authenticator) -> None:
    key.origin = "https://evil.example"


def _unverified(key: Authenticator) -> None:
    key.flags = PRESENT


def _other_user(key: Authenticator) -> None:
    key.user = b"somebody"


def _other_passkey(key: Authenticator) -> None:
    key.id = bytes(32)


def _copied(key: Authenticator) -> None:
    key.counter = 0


@pytest.mark.parametrize("changed", [_other_origin, _unverified, _other_user, _other_passkey, _copied])
async def test_a_passkey_that_is_not_what_it_should_be_is_refused(
    place: Place, client: Client, changed: Callable[[Authenticator], None]
) -> None:
    key = await with_passkey(client, await signed_in(place, client, **ACME))
    assert (await answer(client, key.sign(await question(client)))).status == 200
    changed(key)
    assert (await answer(client, key.sign(await question(client)))).status == 403

    async def recorded() -> bool:
        return any(one["detail"]["reason"] == "wrong_passkey" for one in await audited(place, "access", "denied"))

    await eventually(recorded)


async def test_what_was_signed_counts_once_and_for_what_was_asked(place: Place, client: Client) -> None:
    ours = await signed_in(place, client, **ACME)
    key = await with_passkey(client, ours, counts=False)
    signed = key.sign(await question(client))
    async with gateway(place) as other:
        # At another gateway, which has another address here, it is of another page.
        assert (await answer(other, signed)).status == 403
    got = await asyncio.gather(*(answer(client, signed) for _ in range(3)))
    assert sorted(one.status for one in got) == [200, 403, 403]
    # What was asked for something else, or by nobody.
    creation = (await client("POST", "/api/v1/me/passkeys/options", headers=ours.changes)).json
    for challenge in (creation["challenge"], text(b"mine"), ""):
        assert (await answer(client, key.sign({"challenge": challenge, "rpId": "localhost"}))).status == 403
    for broken in (
        {},
        {"rawId": 1},
        signed | {"response": []},
        signed | {"rawId": "é"},
        signed | {"response": {"userHandle": "x"}},
    ):
        assert (await answer(client, broken)).status == 403, broken
    assert await statement(place, "SELECT count(*) FROM gateway.challenge") == 2


async def test_a_passkey_is_made_soon_after_a_sign_in_for_the_user_who_asked(place: Place, client: Client) -> None:
    ours, theirs = await signed_in(place, client, **ACME), await signed_in(place, client, "bob", **ACME)
    made = Authenticator(page_of(client))
    options = (await client("POST", "/api/v1/me/passkeys/options", headers=theirs.changes)).json
    body = {"credential": made.make(options)}
    assert (await client("POST", "/api/v1/me/passkeys", json=body, headers=ours.changes)).status == 403
    assert (await client("POST", "/api/v1/me/passkeys", json=body, headers=theirs.changes)).status == 201
    assert (await client("POST", "/api/v1/me/passkeys", json=body, headers=theirs.changes)).status == 403
    await statement(place, "UPDATE gateway.session SET created_at = now() - interval '16 minutes'")
    assert (await client("POST", "/api/v1/me/passkeys/options", headers=ours.changes)).status == 403
    for kept in (await client("GET", "/api/v1/me/credentials", headers=theirs.looks)).json["items"]:
        assert (await client("DELETE", f"/api/v1/me/passkeys/{kept['id']}", headers=ours.changes)).status == 403
