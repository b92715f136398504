"""Sign-ins of the command: a key for who was allowed one, once, whatever is killed, guessed or sent twice in between."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from services.gateway import app, logins
from services.gateway.logins import ALPHABET, Logins, letters_of, new_code
from services.gateway.rates import Rate, SharedBuckets
from shared.errors import Unavailable
from tests.integration.test_gateway import Client, Got, gateway, stream
from tests.integration.test_keys import by, made
from tests.support.inside import eventually
from tests.support.servers import Place


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as one:
        yield one


async def begun(client: Client, *, org: str | None = None, **asked: Any) -> dict[str, Any]:
    """Return a sign-in that a device has begun."""
    headers = {} if org is None else {"X-Millrace-Org": org}
    got = await client("POST", "/api/v1/logins", json={"host": "build-7"} | asked, headers=headers)
    assert got.status == 200, got.body
    shown: dict[str, Any] = got.json
    return shown


async def polled(client: Client, one: dict[str, Any]) -> Got:
    return await client("POST", "/api/v1/logins/token", json={"device_code": one["device_code"]}, headers={})


async def decided(client: Client, one: dict[str, Any], verb: str = "approve", query: str = "", **body: Any) -> Got:
    return await client("POST", f"/api/v1/logins/{one['user_code']}/{verb}{query}", json=body)


async def in_database(place: Place, statement: str) -> None:
    connection = await asyncpg.connect(place.database_url("gateway"))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def audited(place: Place) -> list[dict[str, Any]]:
    return [msgspec.json.decode(one.data) | {"org": one.org} for one in await stream(place, "AUDIT")]


def error(got: Got) -> tuple[int, str]:
    return got.status, got.json["error"]


async def test_a_device_gets_the_key_that_an_administrator_allowed_it(client: Client, place: Place) -> None:
    one = await begun(client, org="acme", role="operator", lifetime=3600)
    assert re.fullmatch(f"[{ALPHABET}]{{4}}-[{ALPHABET}]{{4}}", one["user_code"])
    assert one["verification_uri"] == f"{client.url}/device"
    assert (one["expires_in"], one["interval"], len(one["device_code"])) == (600, 2, 43)
    got = await polled(client, one)
    assert error(got) == (400, "authorization_pending")
    assert got.headers["Content-Type"] == "application/problem+json"
    shown = (await client("GET", f"/api/v1/logins/{one['user_code'].lower().replace('-', ' ')}")).json
    assert (shown["host"], shown["address"], shown["org"], shown["role"]) == ("build-7", "127.0.0.1", "acme", "operator")
    assert (shown["lifetime"], shown["state"]) == (3600, "pending")
    allowed = await decided(client, one)
    assert (allowed.status, allowed.json["state"], allowed.json["name"]) == (200, "approved", shown["name"])
    given = (await polled(client, one)).json
    assert given["name"].startswith("login-build-7-")
    assert (given["org"], given["role"]) == ("acme", "operator")
    key = (await client("GET", f"/api/v1/keys/{given['name']}?org=acme")).json
    assert (key["role"], key["scopes"], key["expires_at"], key["login"]) == (
        *("operator", [], given["expires_at"]),
        "build-7 at 127.0.0.1",
    )
    assert key["prefix"] == given["key"][:9]
    me = (await by(client, given["key"], "GET", "/api/v1/me")).json
    assert (me["actor"], me["org"], me["roles"]) == (f"key:{given['name']}", "acme", {"acme": "operator"})
    assert me["default_org"] == "acme"
    said = [(of["category"], of["verb"], of["actor"], of["target"], of["org"]) for of in await audited(place)]
    assert ("login", "approve", "platform-key", given["name"], "acme") in said
    assert ("key", "create", "platform-key", given["name"], "acme") in said
    secrets = (one["device_code"], one["user_code"], given["key"])
    for name in ("AUDIT", "CATALOG"):
        for message in await stream(place, name):
            assert not [secret for secret in secrets if secret.encode() in bytes(message.data)]


async def test_no_code_is_in_the_database(client: Client, place: Place) -> None:
    one = await begun(client)
    await decided(client, one)
    connection = await asyncpg.connect(place.database_url("gateway"))
    try:
        (row,) = await connection.fetch("SELECT login::text AS all FROM login")
    finally:
        await connection.close()
    for secret in (one["device_code"], one["user_code"], letters_of(one["user_code"])):
        assert secret not in row["all"]
        assert secret.encode().hex() not in row["all"]


async def test_a_code_that_was_used_gives_nothing_again_and_ends_its_key(client: Client, place: Place) -> None:
    one = await begun(client)
    await decided(client, one)
    given = (await polled(client, one)).json
    assert (await by(client, given["key"], "GET", "/api/v1/me")).status == 200
    assert error(await polled(client, one)) == (400, "invalid_grant")

    async def ended() -> bool:
        return (await by(client, given["key"], "GET", "/api/v1/me")).status == 401

    await eventually(ended)
    assert error(await polled(client, one)) == (400, "invalid_grant")
    ends = [of["detail"].get("reason") for of in await audited(place) if (of["category"], of["verb"]) == ("key", "delete")]
    assert ends == ["the code of its sign-in was used twice"]


async def test_what_is_denied_or_over_gives_no_key(client: Client, place: Place) -> None:
    denied, over, late = [await begun(client) for _ in range(3)]
    assert (await decided(client, denied, "deny")).json["state"] == "denied"
    assert error(await polled(client, denied)) == (400, "access_denied")
    assert (await decided(client, denied)).status == 409
    await decided(client, late)
    await in_database(place, "UPDATE login SET ends_at = now() - interval '1 second'")
    assert error(await polled(client, over)) == (400, "expired_token")
    assert error(await polled(client, late)) == (400, "expired_token")
    assert error(await polled(client, denied)) == (400, "access_denied")
    for verb in ("approve", "deny"):
        got = await decided(client, over, verb)
        assert (got.status, got.json["detail"]) == (404, "no sign-in has this code, or its 10 minutes are over")
    assert error(await polled(client, over)) == (400, "expired_token")
    assert error(await polled(client, {"device_code": "x" * 43})) == (400, "invalid_grant")
    assert (await client("GET", "/api/v1/keys")).json["items"] == []
    # They are forgotten a day later.
    await in_database(place, "UPDATE login SET ends_at = now() - interval '2 days'")
    await begun(client)
    assert error(await polled(client, over)) == (400, "invalid_grant")


async def test_who_polls_too_fast_has_to_wait_longer(client: Client, place: Place) -> None:
    one = await begun(client)
    assert (await polled(client, one)).json["interval"] == 2
    for pace in (7, 12):
        # As if the last time was now, however long this takes.
        await in_database(place, "UPDATE login SET polled_at = now() + interval '1 minute'")
        got = await polled(client, one)
        assert (*error(got), got.json["interval"]) == (400, "slow_down", pace)
    await in_database(place, "UPDATE login SET polled_at = now() - interval '12 seconds'")
    got = await polled(client, one)
    assert (*error(got), got.json["interval"]) == (400, "authorization_pending", 12)
    # What is allowed is given at once.
    await decided(client, one)
    assert (await polled(client, one)).status == 200


async def test_nobody_gets_more_than_who_allows_it_has(client: Client) -> None:
    admin = (await made(client, "admin", role="admin"))["key"]
    foreign = (await made(client, "admin", org="other", role="admin"))["key"]
    developer = (await made(client, "dev", role="developer"))["key"]
    narrow = (await made(client, "narrow", role="admin", scopes=["logins", "keys"]))["key"]
    looks = (await made(client, "looks", org="global"))["key"]
    for key in (developer, narrow, looks):
        one = await begun(client)
        for method, verb in (("GET", ""), ("POST", "/approve"), ("POST", "/deny")):
            got = await by(client, key, method, f"/api/v1/logins/{one['user_code']}{verb}", json={} if verb else None)
            assert got.status == 403
    # One of another organization is not there, and it stays undecided.
    ours, theirs, platform = await begun(client, org="acme"), await begun(client, org="other"), await begun(client, org="global")
    for one, key in ((theirs, admin), (ours, foreign), (platform, admin)):
        for method, verb in (("GET", ""), ("POST", "/approve"), ("POST", "/deny")):
            got = await by(client, key, method, f"/api/v1/logins/{one['user_code']}{verb}", json={} if verb else None)
            assert got.status == 404
        assert error(await polled(client, one)) == (400, "authorization_pending")
    # One that names none is of the organization of who allows it; the role may be less than what is asked for, and not more.
    one = await begun(client, role="developer")
    path = f"/api/v1/logins/{one['user_code']}/approve"
    assert (await by(client, admin, "POST", path, json={"role": "admin"})).json["role"] == "developer"
    given = (await polled(client, one)).json
    assert (given["org"], given["role"]) == ("acme", "developer")
    one = await begun(client, role="developer")
    await by(client, admin, "POST", f"/api/v1/logins/{one['user_code']}/approve", json={"role": "viewer"})
    assert (await polled(client, one)).json["role"] == "viewer"
    # A key of the platform allows what is asked for, wherever that is.
    assert (await decided(client, theirs)).json["org"] == "other"
    assert (await polled(client, theirs)).json["org"] == "other"
    assert (await decided(client, platform)).json["org"] == "global"
    assert (await decided(client, await begun(client), query="?org=third")).json["org"] == "third"


async def test_of_two_who_decide_at_once_one_does_at_whichever_gateway(client: Client, place: Place) -> None:
    async with gateway(place) as other:
        for _ in range(5):
            one = await begun(client)
            got = await asyncio.gather(*(decided(at, one, verb) for at in (client, other) for verb in ("approve", "deny")))
            assert sorted(of.status for of in got) == [200, 409, 409, 409]
            (state,) = [of.json["state"] for of in got if of.status == 200]
            assert (await polled(other, one)).status == (200 if state == "approved" else 400)


async def test_two_polls_at_once_give_one_key(client: Client, place: Place) -> None:
    async with gateway(place) as other:
        one = await begun(client)
        await decided(client, one)
        got = await asyncio.gather(polled(client, one), polled(other, one))
        keys = {of.json["key"] for of in got if of.status == 200}
        assert len(keys) == 1
        assert len((await client("GET", "/api/v1/keys")).json["items"]) <= 1


async def test_a_gateway_that_dies_before_it_answers_leaves_the_key_to_the_next(
    client: Client, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await begun(client)
    await decided(client, one)

    async def dies(self: Logins, of: logins.Login) -> None:
        raise Unavailable("killed")

    with monkeypatch.context() as killed:
        killed.setattr(Logins, "granted", dies)
        assert (await polled(client, one)).status == 503
    async with gateway(place) as other:
        given = (await polled(other, one)).json
        (listed,) = (await other("GET", "/api/v1/keys")).json["items"]
        assert listed["name"] == given["name"]
        assert (await by(other, given["key"], "GET", "/api/v1/me")).status == 200


async def test_codes_are_looked_up_so_often_at_all_gateways_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "LOOKS", Rate(0.001, 10))
    held: list[SharedBuckets] = []

    class Kept(SharedBuckets):
        def __init__(self, client: Any) -> None:
            super().__init__(client)
            held.append(self)

    monkeypatch.setattr(app, "SharedBuckets", Kept)
    async with gateway(place) as client, gateway(place) as other:

        async def hears() -> bool:
            return all(one.hears for one in held)

        await eventually(hears)
        one, admin = await begun(client), await made(client, "admin", role="admin")
        namesake = (await made(client, "admin", org="other", role="admin"))["key"]
        for _ in range(10):
            assert (await by(client, admin["key"], "GET", f"/api/v1/logins/{new_code()}")).status == 404

        async def heard() -> bool:
            return held[1].bucket(f"login:{admin['id']}", logins.LOOKS).left(time.monotonic())[0] == 0

        await eventually(heard)
        for at in (client, other):
            got = await by(at, admin["key"], "POST", f"/api/v1/logins/{one['user_code']}/approve", json={})
            assert (got.status, "Retry-After" in got.headers) == (429, True)
        # Others do not wait for who guesses.
        assert (await by(client, namesake, "GET", f"/api/v1/logins/{one['user_code']}")).status == 200
        assert (await decided(client, one)).status == 200


async def test_an_address_has_so_many_that_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logins, "EACH", 3)
    async with gateway(place, MILLRACE_TRUSTED_PROXIES="127.0.0.1") as client:

        async def asked(**headers: str) -> Got:
            return await client("POST", "/api/v1/logins", json={"host": "build-7"}, headers=headers)

        whence = {"X-Forwarded-For": "192.0.2.1"}
        waiting = [await asked(**whence) for _ in range(3)]
        got = await asked(**whence)
        assert (got.status, got.json["detail"]) == (429, "too many sign-ins wait for somebody who allows them")
        # Others do not wait for that; a proxy, or a loopback, stands for many.
        assert [(await asked()).status for _ in range(4)] == [200] * 4
        await decided(client, waiting[0].json, "deny")
        assert (await asked(**whence)).status == 200


async def test_what_cannot_be_asked_for_is_refused(client: Client) -> None:
    for body, path in (
        ({}, "host"),
        ({"host": "two words"}, "host"),
        ({"host": "x" * 64}, "host"),
        ({"host": "build-7\n"}, "host"),
        ({"host": "build-7", "role": "owner"}, "role"),
        ({"host": "build-7", "lifetime": 59}, "lifetime"),
        ({"host": "build-7", "lifetime": 367 * 86_400}, "lifetime"),
        ({"host": "build-7", "key": "mr_mine"}, "key"),
    ):
        got = await client("POST", "/api/v1/logins", json=body, headers={})
        assert (got.status, got.json["errors"][0]["path"]) == (422, path), body


async def test_a_key_of_a_sign_in_ends_itself_and_no_other_does(client: Client, place: Place) -> None:
    one = await begun(client, role="viewer")
    await decided(client, one)
    given = (await polled(client, one)).json
    other = (await made(client, "ci", role="admin"))["key"]
    for headers in ({"Authorization": f"Bearer {other}"}, client.key):
        assert (await client("POST", "/api/v1/logout", headers=headers)).status == 409
    assert (await by(client, given["key"], "POST", "/api/v1/logout")).status == 204
    assert (await by(client, given["key"], "GET", "/api/v1/me")).status == 401
    said = [of for of in await audited(place) if (of["category"], of["verb"], of["outcome"]) == ("login", "end", "ok")]
    assert [(of["target"], of["actor"]) for of in said] == [(given["name"], f"key:{given['name']}")]


async def test_every_key_may_ask_who_it_is(client: Client) -> None:
    narrow = (await made(client, "narrow", role="operator", scopes=["runs"], expires_at="2999-01-01T00:00:00Z"))["key"]
    me = (await by(client, narrow, "GET", "/api/v1/me")).json
    assert (me["actor"], me["org"], me["roles"], me["scopes"]) == ("key:narrow", "acme", {"acme": "operator"}, ["runs"])
    platform = (await client("GET", "/api/v1/me")).json
    assert (platform["actor"], platform["name"], platform["roles"]) == ("platform-key", None, {"global": "admin"})
    assert (await by(client, "mr_nobody", "GET", "/api/v1/me")).status == 401


def test_codes_are_read_as_people_type_them() -> None:
    code = new_code()
    assert letters_of(code.lower().replace("-", "")) == letters_of(f" {code} ") == code.replace("-", "")
    assert {len(new_code()) for _ in range(50)} == {9}
