"""Signing in with a password and an authenticator: what is wrong is told to nobody, counts against the login, and is on record."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator
from http.cookies import SimpleCookie
from typing import Any

import asyncpg
import pytest

from services.gateway.api import sign_in_methods, signing_in
from services.gateway.proofs import RECOVERY_CODES, STEP, _totp, check_password, step_of
from shared.errors import Invalid
from tests.integration.test_gateway import Client, Got, gateway
from tests.integration.test_sessions import audited, status
from tests.support.inside import eventually
from tests.support.servers import Place
from tests.support.signing_in import Browser, browser_of, user_of

PASSWORD = "correct horse battery staple"
ACME = {"roles": {"acme": "admin"}}


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as made:
        yield made


async def sign_in(client: Client, name: str = "ada", password: str = PASSWORD, code: str = "", **headers: str) -> Got:
    return await client("POST", "/api/v1/sessions", json={"name": name, "password": password, "code": code}, headers=headers)


def browser(client: Client, got: Got) -> Browser:
    """Return the browser that an answer has signed in."""
    cookie: SimpleCookie = SimpleCookie(got.headers["Set-Cookie"])
    made = Browser(client.url, cookie["millrace-session"].value)
    assert got.json["csrf"] == made.changes["X-Millrace-CSRF"]
    return made


async def user_with_password(place: Place, client: Client, name: str = "ada", **fields: Any) -> Browser:
    """Return a browser of a user who can sign in with `PASSWORD`."""
    first = await browser_of(place, client, await user_of(client, name, **(fields or ACME)))
    got = await client("PUT", "/api/v1/me/password", json={"password": PASSWORD}, headers=first.changes)
    assert got.status == 200, got.body
    assert await status(client, first) == 401
    return browser(client, got)


async def statement(place: Place, text: str) -> Any:
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        return await admin.fetchval(text)
    finally:
        await admin.close()


async def test_a_user_signs_in_with_a_password_which_is_kept_nowhere(
    place: Place, client: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    await user_with_password(place, client)
    got = await sign_in(client, "Ada", Origin=client.url)
    assert (got.status, got.json["actor"], got.json["method"], got.json["roles"]) == (
        200,
        "user:ada",
        "password",
        {"acme": "admin"},
    )
    assert all(one in got.headers["Set-Cookie"] for one in ("HttpOnly", "SameSite=Lax", "Path=/"))
    assert await status(client, browser(client, got)) == 200
    # The first is of when the password was set.
    _, said = await audited(place, "session", "open")
    assert (said["actor"], said["org"], said["detail"]) == ("user:ada", "acme", {"method": "password"})
    assert (await client("GET", "/api/v1/users/ada")).json["methods"] == ["password"]
    kept = await statement(place, "SELECT string_agg(t::text, ' ') FROM gateway.credential t")
    assert "$argon2id$v=19$m=19456,t=2,p=1$" in kept
    assert PASSWORD not in kept
    assert PASSWORD not in "".join(capfd.readouterr())
    # The page of somebody else cannot sign a browser in.
    assert (await sign_in(client, Origin="https://evil.example")).status == 403
    assert (await sign_in(client, **{"Sec-Fetch-Site": "cross-site"})).status == 403


async def test_behind_https_the_cookie_is_of_this_host_alone(place: Place, client: Client) -> None:
    await user_with_password(place, client)
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    given = {"MILLRACE_PUBLIC_URL": "https://mill.example.com", "MILLRACE_LISTEN_FD": str(listening.detach())}
    async with gateway(place, **given) as other:
        other.url = url
        got = await sign_in(other, Origin="https://mill.example.com")
        assert got.headers["Set-Cookie"].startswith("__Host-millrace-session=")
        assert "; Secure" in got.headers["Set-Cookie"]
        value = got.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
        for name, wanted in (("__Host-millrace-session", 200), ("millrace-session", 401)):
            assert (await other("GET", "/api/v1/me", headers={"Cookie": f"{name}={value}"})).status == wanted


async def test_whatever_is_wrong_is_answered_alike_and_recorded(place: Place, client: Client) -> None:
    await user_with_password(place, client)
    await user_of(client, "bob", **ACME)
    await user_with_password(place, client, "eve")
    await client("PATCH", "/api/v1/users/eve", json={"enabled": False})
    answers = {
        (got.status, got.body)
        for got in [
            await sign_in(client, "ada", "a wrong password"),
            await sign_in(client, "ada", PASSWORD + " "),
            await sign_in(client, "nobody"),
            await sign_in(client, "bob"),
            await sign_in(client, "eve"),
        ]
    }
    ((code, body),) = answers
    assert (code, b"the login, the password or the code is wrong" in body) == (403, True)

    async def recorded() -> bool:
        found = [one for one in await audited(place, "access", "denied") if one["detail"]["reason"] == "wrong_credentials"]
        return {(one["actor"], one["org"]) for one in found} >= {("user:ada", "acme"), ("unknown", "global"), ("user:bob", "acme")}

    await eventually(recorded)


async def test_failures_make_a_login_wait_at_every_gateway_whether_or_not_it_is_one(place: Place, client: Client) -> None:
    await user_with_password(place, client)
    async with gateway(place) as other:
        for name in ("ada", "nobody"):
            assert [(await sign_in(one, name, "wrong")).status for one in (client, other)] == [403] * 2
            # As after many more; of those that come at once the first has its turn, and the others wait.
            await statement(place, "UPDATE gateway.failure SET count = 30")
            got = await asyncio.gather(*(sign_in(one, name) for one in (client, other) for _ in range(3)))
            refused = [one for one in got if one.status == 429]
            assert len(refused) == 5
            assert {1 <= int(one.headers["Retry-After"]) <= 60 for one in refused} == {True}
            await statement(place, "UPDATE gateway.failure SET count = 3, until = now()")
        assert (await sign_in(client, "ada")).status == 200
        # That has forgotten them.
        assert await statement(place, "SELECT count(*) FROM gateway.failure") == 1


async def test_who_comes_while_others_keep_the_login_waiting_has_not_failed(place: Place) -> None:
    async with gateway(place, MILLRACE_TRUSTED_PROXIES="127.0.0.1") as client:
        await user_with_password(place, client)
        theirs, own = ({"X-Forwarded-For": address} for address in ("192.0.2.1", "192.0.2.2"))
        assert (await sign_in(client, "ada", "wrong", **theirs)).status == 403
        await statement(place, "UPDATE gateway.failure SET until = now() + interval '1 minute'")
        assert (await sign_in(client, **own)).status == 429
        # Nothing is known of the other address: a colleague signs in from there, and so does she afterwards.
        assert await statement(place, "SELECT count(*) FROM gateway.failure") == 2
        await statement(place, "UPDATE gateway.failure SET until = now()")
        assert (await sign_in(client, **own)).status == 200


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have the clock stand still by which codes are judged; returns its time."""

    class Clock:
        time = staticmethod(lambda: 1_800_000_015.0)

    for module in (signing_in, sign_in_methods):
        monkeypatch.setattr(module, "time", Clock)
    return int(Clock.time())


async def test_an_authenticator_is_asked_for_and_no_code_counts_twice(place: Place, client: Client, now: int) -> None:
    ours = await user_with_password(place, client)
    begun = (await client("POST", "/api/v1/me/totp", headers=ours.changes)).json
    assert begun["uri"].startswith("otpauth://totp/Millrace:ada?")
    # Nothing counts before a code has come back.
    assert (await sign_in(client)).status == 200

    def code(steps: int) -> str:
        return _totp(begun["secret"]).generate(now + steps * STEP).decode()

    wrong = await client("PUT", "/api/v1/me/totp", json={"pending": begun["pending"], "code": "000000"}, headers=ours.changes)
    assert wrong.status == 422
    got = await client("PUT", "/api/v1/me/totp", json={"pending": begun["pending"], "code": code(-1)}, headers=ours.changes)
    assert (got.status, len(got.json["codes"])) == (200, RECOVERY_CODES)
    spare = got.json["codes"]
    assert begun["secret"] not in await statement(place, "SELECT string_agg(t::text, ' ') FROM gateway.credential t")
    # The one that confirmed it has counted.
    for given, wanted in (("", 403), (code(-1), 403), (code(0), 200), (code(0), 403), (spare[0].lower(), 200), (spare[0], 403)):
        await statement(place, "DELETE FROM gateway.failure")
        assert (await sign_in(client, code=given)).status == wanted, given
    # Of two that show the same code at once one is let in.
    await statement(place, "DELETE FROM gateway.failure")
    got_in = [one.status for one in await asyncio.gather(*(sign_in(client, code=code(1)) for _ in range(3)))]
    assert sorted(got_in) == [200, 403, 403]
    assert (await client("DELETE", "/api/v1/me/totp", headers=ours.changes)).status == 204
    assert (await sign_in(client)).status == 200


async def test_the_secret_of_an_authenticator_is_sealed_anew(place: Place, now: int) -> None:
    # One gateway after the other: any of those that are there may be told to seal anew, with the key that it has.
    async with gateway(place) as first:
        ours = await user_with_password(place, first)
        begun = (await first("POST", "/api/v1/me/totp", headers=ours.changes)).json
        body = {"pending": begun["pending"], "code": _totp(begun["secret"]).generate(now).decode()}
        assert (await first("PUT", "/api/v1/me/totp", json=body, headers=ours.changes)).status == 200
    old, new = place.credentials.keys[0], base64.b64encode(os.urandom(32)).decode()
    async with gateway(place, MILLRACE_KEYS=f"{new},{old}") as both:
        # By the service itself, or because it was told to: both may come first.
        told = (await both("POST", "/api/v1/vault/rotate", json={"after": "gateway/"})).json
        assert (told["left"], told["quarantined"], told["next"]) == (0, [], None)
    async with gateway(place, MILLRACE_KEYS=new) as other:
        assert (await sign_in(other, code=_totp(begun["secret"]).generate(now + STEP).decode())).status == 200


async def test_a_session_by_a_password_ends_with_it_and_none_comes_of_it_afterwards(place: Place, client: Client) -> None:
    ours = await user_with_password(place, client)
    theirs = browser(client, await sign_in(client))
    other = "another horse, another battery"
    # While it is changed, somebody signs in with it, again and again.
    changing = asyncio.create_task(client("PUT", "/api/v1/me/password", json={"password": other}, headers=ours.changes))
    opened: list[Browser] = []
    while not changing.done():
        got = await sign_in(client)
        if got.status == 200:
            opened.append(browser(client, got))
    assert (await changing).status == 200
    assert [await status(client, one) for one in (ours, theirs, *opened)] == [401] * (2 + len(opened))
    assert ((await sign_in(client)).status, (await sign_in(client, password=other)).status) == (403, 200)


async def test_what_a_user_signs_in_with_is_changed_soon_after_a_sign_in(place: Place, client: Client) -> None:
    ours = await user_with_password(place, client)
    await statement(place, "UPDATE gateway.session SET created_at = now() - interval '16 minutes'")
    for method, path, body in (
        ("PUT", "/api/v1/me/password", {"password": "another horse, another battery"}),
        ("POST", "/api/v1/me/totp", None),
        ("DELETE", "/api/v1/me/totp", None),
    ):
        got = await client(method, path, json=body, headers=ours.changes)
        assert (got.status, "sign in again" in got.json["detail"]) == (403, True)
    items = (await client("GET", "/api/v1/me/credentials", headers=ours.looks)).json["items"]
    assert [one["kind"] for one in items] == ["password"]
    assert not {"secret", "counter"} & items[0].keys()


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "less than 12 characters"),
        ("ada", "less than 12 characters"),
        ("aaaaaaaaaaaaaaaa", "easily: repeats"),
        ("abababababababab", "easily: repeats"),
        ("password1234", "very common password"),
        ("P@ssw0rd1234", "commonly used password"),
        ("qwertyuiop12", "commonly used password"),
        ("ada.lovelace-1", "easily"),
        ("Millrace1234", "easily"),
        ("a" * 1024, "easily"),
    ],
)
def test_a_password_that_is_guessed_easily_is_refused(password: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        check_password(password, "ada.lovelace")


@pytest.mark.parametrize(
    "password", ["correct horse battery staple", "k9#mQ2vLp0zX", "\ud800 among other characters", "ключ от квартиры где"]
)
def test_a_password_that_takes_long_to_guess_is_taken(password: str) -> None:
    check_password(password, "ada.lovelace")


def test_a_code_is_that_of_the_step_before_the_present_one_or_the_next(  # RFC 6238, appendix B
) -> None:
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    assert step_of(secret, "287082", 59.0) == 1
    assert step_of(secret, "287082", 89.0) == 1
    assert step_of(secret, "287082", 91.0) is None
    assert step_of(secret, "", 59.0) is None
