"""Invitations: each link is of use once and for a time, gives what it says and nothing else, and is kept nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.test_gateway import Client, Got, gateway
from tests.integration.test_sessions import audited, signed_in, status
from tests.integration.test_signing_in import PASSWORD, browser, sign_in, statement, user_with_password
from tests.support.inside import eventually
from tests.support.servers import Place

ACME = {"roles": {"acme": "admin"}}


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


async def invited(client: Client, org: str = "acme", headers: dict[str, str] | None = None, **fields: Any) -> str:
    """Return the token of a new invitation."""
    body = {"role": "operator"} | fields
    got = await client("POST", f"/api/v1/orgs/{org}/invitations", json=body, headers=headers or client.key)
    assert got.status == 201, got.body
    page, _, token = got.json["url"].partition("#")
    assert page == client.url + "/invitation"
    return str(token)


async def accept(client: Client, token: str, **fields: Any) -> Got:
    return await client("POST", "/api/v1/invitations/accept", json={"token": token} | fields, headers={"Origin": client.url})


async def read(client: Client, token: str) -> Got:
    return await client("POST", "/api/v1/invitations/read", json={"token": token}, headers={})


async def test_who_is_invited_becomes_a_user_with_that_role_once(place: Place, client: Client) -> None:
    admin = await signed_in(place, client, **ACME)
    token = await invited(client, headers=admin.changes, email="bob@example.com", display_name="Bob")
    told = (await read(client, token)).json
    assert (told["org"], told["role"], told["is_new"], told["name"]) == ("acme", "operator", True, None)
    assert (await accept(client, token)).status == 422
    assert (await accept(client, token, name="Bob!", password=PASSWORD)).status == 422
    assert (await accept(client, token, name="bob", password="short")).status == 422
    taken = await accept(client, token, name="ada", password=PASSWORD)
    assert (taken.status, taken.json["detail"]) == (409, "the login 'ada' is taken")
    got = await accept(client, token, name="bob", password=PASSWORD)
    assert (got.status, got.json["actor"], got.json["method"], got.json["roles"]) == (
        200,
        "user:bob",
        "invitation",
        {"acme": "operator"},
    )
    assert await status(client, browser(client, got)) == 200
    assert (await sign_in(client, "bob")).status == 200
    shown = (await client("GET", "/api/v1/users/bob")).json
    assert (shown["email"], shown["display_name"], shown["methods"]) == ("bob@example.com", "Bob", ["password"])
    for again in (await read(client, token), await accept(client, token, name="eve", password=PASSWORD)):
        assert (again.status, "was used" in again.json["detail"]) == (404, True)
    assert token not in await statement(place, "SELECT string_agg(t::text, ' ') FROM gateway.session t")
    (said,) = await audited(place, "invitation", "create")
    assert (said["actor"], said["org"], said["detail"]) == ("user:ada", "acme", {"role": "operator"})

    async def recorded() -> bool:
        return any(one["detail"]["reason"] == "unknown_invitation" for one in await audited(place, "access", "denied"))

    await eventually(recorded)


async def test_of_many_who_accept_one_link_at_once_one_is_let_in(place: Place, client: Client) -> None:
    token = await invited(client)
    async with gateway(place) as other:
        got = await asyncio.gather(*(accept(one, token, name="bob", password=PASSWORD) for one in (client, other, client)))
    assert sorted(one.status for one in got) == [200, 404, 404]


async def test_one_link_makes_one_user_however_many_logins_are_chosen_at_once(place: Place, client: Client) -> None:
    token = await invited(client)
    async with gateway(place) as other:
        logins = [f"bob{number}" for number in range(6)]
        chosen = zip((client, other) * 3, logins, strict=True)
        got = await asyncio.gather(*(accept(one, token, name=name, password=PASSWORD) for one, name in chosen))
    assert sorted(one.status for one in got) == [200] + [404] * 5
    members = (await client("GET", "/api/v1/orgs/acme/members")).json["items"]
    assert [one["name"] for one in members] == [one.json["name"] for one in got if one.status == 200]


async def test_who_finds_a_login_taken_chooses_another(place: Place, client: Client) -> None:
    tokens = [await invited(client) for _ in range(2)]
    async with gateway(place) as other:
        both = zip((client, other), tokens, strict=True)
        got = await asyncio.gather(*(accept(one, token, name="bob", password=PASSWORD) for one, token in both))
    assert sorted(one.status for one in got) == [200, 409]
    (left,) = [token for token, one in zip(tokens, got, strict=True) if one.status == 409]
    assert (await read(client, left)).json["name"] is None
    assert (await accept(client, left, name="eve", password=PASSWORD)).status == 200


async def test_an_invitation_that_was_begun_and_not_answered_goes_on(place: Place, client: Client) -> None:
    token = await invited(client)
    await statement(place, "CREATE TABLE gateway.kept AS SELECT * FROM gateway.invitation")
    assert (await accept(client, token, name="bob", password=PASSWORD)).status == 200
    # As if the gateway had died when the user was made, and nothing of it was in the database.
    await statement(place, "DELETE FROM gateway.credential")
    await statement(place, "INSERT INTO gateway.invitation SELECT * FROM gateway.kept")
    await statement(place, "DROP TABLE gateway.kept")
    assert (await sign_in(client, "bob")).status == 403
    assert (await accept(client, token, name="bob", password=PASSWORD)).status == 200
    assert (await sign_in(client, "bob")).status == 200
    assert [one["name"] for one in (await client("GET", "/api/v1/users")).json["items"]] == ["bob"]


async def test_an_organization_invites_to_itself_alone_and_takes_it_back(place: Place, client: Client) -> None:
    admin = await signed_in(place, client, **ACME)
    for org in ("globex", "global"):
        got = await client("POST", f"/api/v1/orgs/{org}/invitations", json={"role": "viewer"}, headers=admin.changes)
        assert got.status == 404
    assert (await client("POST", "/api/v1/users/ada/invitation", json={}, headers=admin.changes)).status == 403
    await invited(client, "globex")
    token = await invited(client, headers=admin.changes)
    (shown,) = (await client("GET", "/api/v1/orgs/acme/invitations", headers=admin.looks)).json["items"]
    assert (shown["url"], shown["invited_by"]) == (None, "user:ada")
    theirs = (await client("GET", "/api/v1/orgs/globex/invitations")).json["items"][0]["id"]
    assert (await client("DELETE", f"/api/v1/orgs/acme/invitations/{theirs}", headers=admin.changes)).status == 404
    assert (await client("DELETE", f"/api/v1/orgs/acme/invitations/{shown['id']}", headers=admin.changes)).status == 204
    assert (await accept(client, token, name="bob", password=PASSWORD)).status == 404
    late = await invited(client, headers=admin.changes)
    await statement(place, "UPDATE gateway.invitation SET ends_at = now()")
    assert (await read(client, late)).status == 404


async def test_a_user_takes_another_role_by_an_invitation(place: Place, client: Client) -> None:
    user = await user_with_password(place, client, **ACME)
    token = await invited(client, "globex", role="viewer")
    got = await client("POST", "/api/v1/me/invitations", json={"token": token}, headers=user.changes)
    assert (got.status, got.json["org"], got.json["role"]) == (200, "globex", "viewer")
    # Its roles are others now.
    assert await status(client, user) == 401
    assert (await sign_in(client)).json["roles"] == {"acme": "admin", "globex": "viewer"}
    assert (await read(client, token)).status == 404


async def test_the_platform_lets_a_user_sign_in_anew(place: Place, client: Client) -> None:
    user = await user_with_password(place, client, **ACME)
    link = (await client("POST", "/api/v1/users/ada/invitation", json={})).json["url"]
    token = link.partition("#")[2]
    assert (await read(client, token)).json["is_new"] is False
    # It is for that user, and makes nobody else one.
    other = "another horse, another battery"
    got = await accept(client, token, name="eve", password=other)
    assert (got.status, got.json["name"], got.json["roles"]) == (200, "ada", {"acme": "admin"})
    assert await status(client, user) == 401
    assert ((await sign_in(client)).status, (await sign_in(client, password=other)).status) == (403, 200)
    # Without a password the session is there for a passkey to be made, and nothing is changed.
    link = (await client("POST", "/api/v1/users/ada/invitation", json={})).json["url"]
    got = await accept(client, link.partition("#")[2])
    assert (got.status, got.json["method"]) == (200, "invitation")
    await client("PATCH", "/api/v1/users/ada", json={"enabled": False})
    link = (await client("POST", "/api/v1/users/ada/invitation", json={})).json["url"]
    assert (await accept(client, link.partition("#")[2])).status == 404
