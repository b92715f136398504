"""The page where a person allows a machine a key: who asks is shown, and nothing is decided but by that person on that page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.gateway import logins
from services.gateway.logins import new_code
from services.gateway.sessions import csrf_of
from tests.integration.test_gateway import Client, Got, gateway
from tests.integration.test_logins import audited, begun, error, in_database, polled
from tests.integration.test_logins_of_users import browser, role
from tests.support.inside import eventually
from tests.support.servers import Place
from tests.support.signing_in import Browser


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with gateway(place) as one:
        yield one


async def opened(client: Client, person: Browser | None, one: dict[str, Any] | None = None, **headers: str) -> Got:
    """Return the page, with the code of a sign-in in its address."""
    given = {} if person is None else person.looks
    query = "" if one is None else f"?code={one['user_code']}"
    return await client("GET", f"/device{query}", headers=given | headers)


def form(person: Browser, one: dict[str, Any], decision: str = "approve", **fields: str) -> dict[str, str]:
    return {"csrf": csrf_of(person.value), "code": one["user_code"], "decision": decision, "org": "acme", "role": "admin"} | fields


async def sent(client: Client, person: Browser, fields: dict[str, str], **headers: str) -> Got:
    given = person.looks | {"Origin": client.url} | headers
    return await client("POST", "/device", data=fields, headers=given)


def text(got: Got) -> str:
    return re.sub("<[^>]*>", " ", re.sub("<style>.*</style>", "", got.body.decode(), flags=re.DOTALL))


async def test_a_person_sees_who_asks_and_allows_it(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="developer")
    one = await begun(client, role="operator", lifetime=7 * 86_400)
    page = await opened(client, ada)
    assert (page.status, 'name="code"' in page.body.decode()) == (200, True)
    page = await opened(client, ada, one)
    said = text(page)
    for words in ("'build-7'", "127.0.0.1", "a key of acme", "7 days", one["user_code"], "Nobody has checked"):
        assert words.replace("'", "&#x27;") in said
    assert re.findall('<option value="([^"]+)"', page.body.decode()) == ["acme", "viewer", "operator"]
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "script" not in policy + page.body.decode()
    style = re.findall("<style>(.*?)</style>", page.body.decode(), re.DOTALL)[0]
    assert f"style-src 'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    for rule in ("form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert rule in policy
    assert page.headers["Cache-Control"] == "no-store"
    assert error(await polled(client, one)) == (400, "authorization_pending")
    done = await sent(client, ada, form(ada, one, role="viewer"))
    assert (done.status, "gets the key login-build-7-" in text(done)) == (200, True)
    given = (await polled(client, one)).json
    assert (given["org"], given["role"]) == ("acme", "viewer")
    assert (await client("GET", f"/api/v1/keys/{given['name']}?org=acme")).json["user"] == "ada"
    (said_,) = [of for of in await audited(place) if (of["category"], of["verb"]) == ("login", "approve")]
    assert (said_["actor"], said_["target"], said_["org"], said_["outcome"]) == ("user:ada", given["name"], "acme", "ok")
    again = await sent(client, ada, form(ada, one))
    assert (again.status, "approved already" in text(again)) == (409, True)
    # It ends with the user.
    await client("PATCH", "/api/v1/users/ada", json={"enabled": False})

    async def ended() -> bool:
        return await role(client, given["key"]) == 401

    await eventually(ended)


async def test_nobody_gets_more_than_the_person_has(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="operator", globex="viewer")
    one = await begun(client)
    page = (await opened(client, ada, one)).body.decode()
    assert re.findall('<option value="([^"]+)"', page) == ["acme", "globex", "viewer", "operator"]
    for fields, wanted in (({"role": "admin"}, "operator"), ({"org": "globex"}, "viewer"), ({"role": "owner"}, "operator")):
        one = await begun(client, role="admin")
        assert (await sent(client, ada, form(ada, one, **fields))).status == 200
        assert (await polled(client, one)).json["role"] == wanted
    for org, named in (("other", "acme"), (None, "other"), (None, "global"), ("global", "acme")):
        one = await begun(client, org=org)
        for decision in ("approve", "deny"):
            got = await sent(client, ada, form(ada, one, decision, org=named))
            assert (got.status, "in an organization of yours" in text(got)) == (404, True)
        assert error(await polled(client, one)) == (400, "authorization_pending")
    staff = await browser(place, client, "eve", **{"global": "admin"})
    one = await begun(client, org="third")
    assert (await sent(client, staff, form(staff, one, org="third"))).status == 200
    assert (await polled(client, one)).json["org"] == "third"
    assert re.findall('<option value="([^"]+)"', (await opened(client, staff, await begun(client))).body.decode())[:2] == [
        *("default", "global"),
    ]


async def test_a_person_denies_it(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="viewer")
    one = await begun(client, org="acme")
    assert "build-7 gets no key" in text(await sent(client, ada, form(ada, one, "deny")))
    assert error(await polled(client, one)) == (400, "access_denied")


async def test_who_is_not_signed_in_learns_nothing(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="admin")
    one = await begun(client)
    nobody = await browser(place, client, "guest")
    await client("DELETE", "/api/v1/sessions/current", headers=ada.changes)
    for person in (None, ada, nobody):
        page = await opened(client, person, one)
        assert (page.status, "Sign in first" in text(page), "build-7" in text(page)) == (200, True, False)
        assert f"millrace login approve {one['user_code']}" in text(page)
        assert f'href="/sign-in?next=%2Fdevice%3Fcode%3D{one["user_code"]}"' in page.body.decode()
        sender = person or Browser(client.url, "x" * 43)
        assert (await sent(client, sender, form(sender, one))).status == 401
    # What an address has been given is not said back unless it is a code.
    page = await client("GET", "/device?code=<b>x", headers={})
    assert b"<b>" not in page.body
    assert b'href="/sign-in?next=%2Fdevice"' in page.body
    assert error(await polled(client, one)) == (400, "authorization_pending")


async def test_no_page_of_somebody_else_decides(place: Place, client: Client) -> None:
    ada, bob = await browser(place, client, acme="admin"), await browser(place, client, "bob", acme="admin")
    one = await begun(client)
    good = form(ada, one)
    for fields, headers in (
        (good | {"csrf": ""}, {}),
        (good | {"csrf": csrf_of(bob.value)}, {}),
        ({name: value for name, value in good.items() if name != "csrf"}, {}),
        (good, {"Origin": "https://evil.example"}),
        (good, {"Origin": "null"}),
        (good, {"Sec-Fetch-Site": "cross-site"}),
        (good, {"Sec-Fetch-Site": "same-site"}),
    ):
        assert (await sent(client, ada, fields, **headers)).status == 403
    assert (await client("POST", "/device", data=good, headers=ada.looks)).status == 403
    # Where a page of another site leads, the code is to be typed.
    page = await opened(client, ada, one, **{"Sec-Fetch-Site": "cross-site"})
    assert (one["user_code"] in text(page), 'name="code"' in page.body.decode()) == (False, True)
    assert error(await polled(client, one)) == (400, "authorization_pending")

    async def recorded() -> bool:
        found = [of for of in await audited(place) if (of["category"], of["verb"]) == ("access", "denied")]
        return any((of["actor"], of["detail"]["reason"]) == ("user:ada", "csrf") for of in found)

    await eventually(recorded)


async def test_what_is_no_code_or_over_is_said(place: Place, client: Client) -> None:
    ada = await browser(place, client, acme="admin")
    one = await begun(client)
    assert "Enter the code" in text(await client("GET", "/device?code=AEIO-1234", headers=ada.looks))
    unknown = await opened(client, ada, {"user_code": new_code()})
    assert (unknown.status, "no sign-in has this code" in text(unknown)) == (404, True)
    for fields in ({"decision": "maybe"}, {"code": "x"}, {"org": "no such org"}):
        assert (await sent(client, ada, form(ada, one, **fields))).status == 422
    assert (await client("POST", "/device", data=b"x" * 5000, headers=ada.looks | {"Origin": client.url})).status == 413
    await in_database(place, "UPDATE login SET ends_at = now() - interval '1 second'")
    for got in (await opened(client, ada, one), await sent(client, ada, form(ada, one))):
        assert (got.status, "10 minutes are over" in text(got)) == (404, True)
    # More than there are at once: while they are made others come.
    for _ in range(3 * (logins.LOOKS.burst or 0)):
        got = await opened(client, ada, {"user_code": new_code()})
        if got.status == 429:
            break
    assert (got.status, "Retry-After" in got.headers) == (429, True)
