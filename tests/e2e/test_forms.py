"""Forms: in a browser without scripts by a link, by everybody, by who is signed in, and by a front end of one's own."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from tests.e2e.conftest import REMOTES
from tests.e2e.test_approvals import denials, signed_in
from tests.support.browser import Page, browsing, chromium
from tests.support.client import Client
from tests.support.command import Command
from tests.support.inside import eventually

FLOWS = b"""
from typing import Literal

from millrace import data_provider, files, step, wait_for, workflow

CITIES = {"AT": ["Wien", "Graz"], "DE": ["Ulm"]}


@data_provider
def countries() -> list:
    return [{"value": one, "label": f"<{one}>"} for one in CITIES]


@data_provider
def cities(country: str) -> list:
    return CITIES[country]


@workflow
async def order(
    country: str, city: str, amount: int, method: Literal["card", "bank"], paper: dict | None = None, price: int = 5, note: str = ""
) -> dict:
    said = None if paper is None else {**paper, "path": None, "text": files.read_text(paper["path"])}
    await step("reserve", dict)
    return {"to": f"{city}, {country}", "pays": amount * price, "method": method, "paper": said, "note": note}


@workflow
async def waits(n: int) -> dict:
    await step("begin", dict)
    return {"n": n, "said": (await wait_for("go")).data}
"""
FORM: dict[str, Any] = {
    "workflow": "order",
    "title": "Order <here>",
    "text": "We deliver.",
    "fields": [
        {"name": "country", "label": "Country", "options": {"provider": "countries"}},
        {"name": "city", "label": "City", "options": {"provider": "cities", "input": {"country": "country"}}},
        {"name": "amount", "label": "How many", "help": "Boxes of ten."},
        {"name": "method", "label": "Payment"},
        {"name": "paper", "label": "Your order", "file": {"types": [".txt", "application/pdf"], "most_bytes": 1000}},
        {"name": "note", "label": "Note"},
    ],
    "input": {"price": 7},
    "access": "link",
    "show": "result",
    "thanks": "Thank you.",
}
VALUES = {"country": "DE", "city": "Ulm", "amount": 3, "method": "card"}
SENT = {"f.country": '"DE"', "f.city": '"Ulm"', "f.amount": "3", "f.method": "0"}


async def made(client: Client, name: str, **fields: Any) -> str:
    await client.put_file("forms.py", FLOWS)
    found = await client.call("PUT", f"/api/v1/forms/{name}", body=FORM | fields)

    async def is_right() -> bool:
        return bool((await client.call("GET", f"/api/v1/forms/{name}"))["warnings"] == [])

    await eventually(is_right)
    return str(found["url"])


async def link_to(client: Client, name: str, **given: Any) -> str:
    return str((await client.call("POST", f"/api/v1/forms/{name}/links", body={"name": "ada@example.com"} | given))["url"])


async def at(url: str, fields: dict[str, Any] | None = None, **headers: str) -> tuple[int, str, aiohttp.ClientResponse]:
    """Open a page, or send its form; nobody is signed in, and no redirect is followed."""
    async with aiohttp.ClientSession(headers={name.replace("_", "-"): value for name, value in headers.items()}) as nobody:
        where = URL(url, encoded=True).with_query(None) if fields is not None else URL(url, encoded=True)
        sent = nobody.post(where, data=fields, allow_redirects=False) if fields is not None else nobody.get(where)
        async with sent as response:
            return response.status, await response.text(), response


async def runs_of(client: Client, workflow: str) -> list[Any]:
    return list((await client.call("GET", f"/api/v1/runs?workflow={workflow}&limit=100"))["items"])


def chooses(name: str, label: str) -> str:
    one = f"document.getElementsByName('{name}')[0]"
    return f"(o => o && ({one}.value = o.value, true))([...{one}?.options ?? []].find(of => of.text === '{label}'))"


async def take_file(page: Page, selector: str, path: Path) -> None:
    found = await page.command("Runtime.evaluate", expression=f'document.querySelector("{selector}")')
    await page.command("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["result"]["objectId"])


async def test_who_has_a_link_fills_it_in_without_scripts_is_refused_by_field_and_sees_the_result(
    client: Client, tmp_path: Path
) -> None:
    program = chromium()
    if program is None:
        pytest.skip("the browser `chromium` is not installed")
    await made(client, "order")
    link = await link_to(client, "order")
    (tmp_path / "order.txt").write_text("three boxes")
    wrong = "[...document.querySelectorAll('[aria-invalid]')].map(one => one.name).join()"
    async with browsing(program) as page:
        await page.command("Emulation.setScriptExecutionDisabled", value=True)
        await page.open(link)
        await page.until("document.querySelector('h1')?.innerText === 'Order <here>'")
        assert await page.value(
            "[...document.querySelectorAll('input:not([type=hidden]),select,textarea')].every(o => o.labels.length === 1)"
        )
        labels = await page.value("[...document.querySelectorAll('label')].map(one => one.innerText).join()")
        assert labels == "Country,City,How many,Payment,Your order,Note"
        text = await page.text()
        assert "City\nFill in Country first" in text
        assert "How many\nBoxes of ten." in text
        # Choices that depend on others come with the next page: nothing runs in the browser.
        await page.until(chooses("f.country", "<AT>"))
        await page.fill("[name='f.amount']", "a lot")
        await page.press("button[value=choices]")
        await page.until(chooses("f.city", "Graz"))
        assert await page.value("document.querySelector('[role=alert]')") is None
        await page.press("button[value=send]")
        await page.until(f"{wrong} === 'f.amount,f.method'")
        await page.until(chooses("f.method", "card"))
        await page.press("button[value=send]")
        await page.until(f"{wrong} === 'f.amount'")
        assert "integer" in await page.text()
        assert await page.value("document.querySelector('[name=\"f.amount\"]').value") == "a lot"
        assert await page.value("document.querySelector('[name=\"f.city\"]').selectedOptions[0].text") == "Graz"
        await page.value("document.querySelector('[name=\"f.amount\"]').value = ''")
        await page.fill("[name='f.amount']", "3")
        await page.fill("[name='f.note']", "<i>quick</i>")
        await take_file(page, "[name='f.paper']", tmp_path / "order.txt")
        await page.press("button[value=send]")
        # The page comes again by itself until the result is there.
        await page.until("document.querySelector('dl')?.innerText.includes('21')")
        text = await page.text()
        assert "Thank you." in text
        assert "<i>quick</i>" in text
        assert "three boxes" in text
    (run,) = await runs_of(client, "order")
    assert (run["requested_by"], run["status"]) == ("link:ada@example.com", "succeeded")
    assert run["input"]["paper"]["name"] == "order.txt"
    assert run["result"]["paper"]["text"] == "three boxes"
    kept = (await client.call("GET", f"/api/v1/runs/{run['id']}/artifacts"))["items"]
    assert [(one["path"], one["size"]) for one in kept] == [(f"sent/paper-{run['input']['paper']['sha256'][:16]}.txt", 11)]
    found = await client.call("GET", "/api/v1/audit?q=data.category:form")
    told = {(one["data"]["verb"], one["data"]["outcome"], one["data"]["detail"].get("via")) for one in found["items"]}
    assert {("link", "ok", None), ("send", "ok", "link")} <= told


async def test_a_link_that_was_used_is_over_altered_or_of_another_organization_is_refused_and_audited(
    client: Client, millrace: Command
) -> None:
    url = await made(client, "once")
    link = (await millrace("forms", "link", "once", "--for", "ada@example.com")).strip()
    token = URL(link).query["link"]
    before = len(await runs_of(client, "order"))
    # Of several that are sent at once one is taken; the same one again, as by a second click, is that one.
    sent = [SENT | {"link": token, "f.note": str(number), "sending": "s"} for number in range(4)]
    answers = await asyncio.gather(*(at(link, one) for one in [*sent, *sent]))
    taken = {number % 4 for number, (status, _, _) in enumerate(answers) if status == 303}
    assert sorted({status for status, _, _ in answers}) == [303, 409]
    assert len(taken) == 1
    assert len(await at_least(client, "order", before + 1)) == before + 1
    assert (await at(link))[0] == 409
    assert await denials(client, "used_link")
    altered = token[:-3] + ("AAA" if token[-3:] != "AAA" else "BBB")
    assert (await at(link.replace(token, altered)))[0] == 404
    assert (await at(link, SENT | {"link": altered}))[0] == 404
    assert await denials(client, "unknown_link")
    ends = (datetime.now(UTC) + timedelta(seconds=6)).isoformat().replace("+00:00", "Z")
    short = await link_to(client, "once", ends_at=ends)
    assert (await at(short))[0] == 200

    async def is_over() -> bool:
        return (await at(short))[0] == 409

    await eventually(is_over, every=1.0)
    assert await denials(client, "expired_link")
    await client.call("PUT", "/api/v1/orgs/other", body={})
    await client.call("POST", "/api/v1/forms/once/links?org=other", body={}, status=404)
    await client.call("PUT", "/api/v1/forms/theirs?org=other", body=FORM)
    theirs = await client.call("POST", "/api/v1/forms/theirs/links?org=other", body={})
    foreign = URL(theirs["url"]).query["link"]
    assert (await at(f"{url}?link={foreign}"))[0] == 404
    assert (await at(url, SENT | {"link": foreign}))[0] == 404
    assert await denials(client, "foreign_link")
    # One that is of use any number of times, until all that were made are taken back.
    many = (await millrace("forms", "link", "once", "--many", "--ends-at", "+1d")).strip()
    for number in range(2):
        status, _, _ = await at(many, SENT | {"link": URL(many).query["link"], "f.note": f"many {number}"})
        assert status == 303
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    await client.call("PATCH", "/api/v1/forms/once", body={"links_after": now})

    async def is_revoked() -> bool:
        return (await at(many))[0] == 409

    await eventually(is_revoked)
    assert await denials(client, "revoked_link")
    assert len(await at_least(client, "order", before + 3)) == before + 3
    # The link itself is in no row.
    assert (await client.call("GET", f"/api/v1/logs?q=%22{token[-40:]}%22&org=*"))["items"] == []
    await client.call("PATCH", "/api/v1/forms/once", body={"enabled": False})

    async def is_closed() -> bool:
        return (await at(many))[0] == 404

    await eventually(is_closed)


async def at_least(client: Client, workflow: str, count: int) -> list[Any]:
    """Wait for so many runs, and return all that there are."""

    async def there() -> Any:
        found = await runs_of(client, workflow)
        return found if len(found) >= count else None

    found: Any = await eventually(there)
    return list(found)


@asynccontextmanager
async def telling_people(solved: str) -> AsyncIterator[tuple[str, list[dict[str, list[str]]]]]:
    """A service that tells people from programs; a solution is of use once, until `asked` is emptied."""
    asked: list[dict[str, list[str]]] = []

    async def verify(request: web.Request) -> web.Response:
        sent = parse_qs(await request.text())
        is_first = sent["response"] not in [one["response"] for one in asked]
        asked.append(sent)
        return web.json_response({"success": sent["response"] == [solved] and is_first})

    app = web.Application()
    app.router.add_post("/siteverify", verify)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, REMOTES, 0)
        await site.start()
        yield f"http://{REMOTES}:{runner.addresses[0][1]}/siteverify", asked
    finally:
        await runner.cleanup()


async def test_everybody_sends_a_public_form_as_often_as_it_says_once_it_is_checked_that_it_is_a_person(client: Client) -> None:
    script = "https://challenges.example.com/api.js?render=auto"
    before = len(await runs_of(client, "order"))
    async with telling_people("a solution") as (verify, asked):
        check = {"verify": verify, "script": script, "site_key": "a-site"}
        given = {"access": "public", "check": check, "check_secret": "its secret", "embed_on": ["https://www.example.com"]}
        url = await made(client, "public", **given, rate=0.001, burst=2, show="state")
        status, text, response = await at(url)
        assert status == 200
        assert f'<script src="{script}"' in text
        assert 'data-sitekey="a-site"' in text
        policy = response.headers["Content-Security-Policy"]
        assert "frame-ancestors https://www.example.com" in policy
        assert "script-src https://challenges.example.com/api.js;" in policy
        assert "X-Frame-Options" not in response.headers
        assert "its secret" not in str(await client.call("GET", "/api/v1/forms/public"))
        for token, complaint in (("", "show that you are a person"), ("a guess", "show once more")):
            status, text, _ = await at(url, SENT | {"cf-turnstile-response": token})
            assert (status, complaint in text) == (422, True), text
        solved = SENT | {"cf-turnstile-response": "a solution"}
        status, text, _ = await at(url, solved | {"f.city": '"Wien"'})
        assert (status, "is none of the choices" in text) == (422, True)
        assert [one["response"] for one in asked] == [["a guess"]]
        # Two clicks have one solution.
        clicks = await asyncio.gather(*(at(url, solved | {"sending": "a click"}) for _ in range(2)))
        assert [status for status, _, _ in clicks] == [303, 303]
        response = clicks[0][2]
        assert asked[-1] == {"secret": ["its secret"], "response": ["a solution"], "remoteip": ["127.0.0.1"]}
        status, text, _ = await at(client.url + response.headers["Location"])
        # Whoever sees the state does not see the result, nor which run it is.
        assert (status, "21" in text) == (200, False)
        # Nothing that somebody adds to the address comes to stand in the page.
        added = response.headers["Location"] + "==%22%3E%3Cmeta%20http-equiv=refresh%20content=0%3E"
        status, text, _ = await at(client.url + added)
        assert (status, "content=0" in text) == (404, False)
        asked.clear()
        assert (await at(url, solved))[0] == 303
        asked.clear()
        status, text, response = await at(url, solved)
        assert (status, "too often" in text) == (429, True)
        assert int(response.headers["Retry-After"]) > 1
        assert len(await at_least(client, "order", before + 2)) == before + 2


async def test_a_front_end_of_ones_own_asks_for_fields_and_sends_json_from_another_origin(client: Client) -> None:
    origin = "https://www.example.com"
    url = await made(client, "own", access="public", embed_on=[origin], rate=100.0, burst=100)
    api = url.replace("/forms/", "/api/v1/forms/")
    async with aiohttp.ClientSession(headers={"Origin": origin}) as page:
        async with page.get(f"{api}/fields", params={"values": '{"country": "DE"}'}) as response:
            assert response.headers["Access-Control-Allow-Origin"] == origin
            fields = {one["name"]: one for one in (await response.json())["fields"]}
        assert list(fields) == [one["name"] for one in FORM["fields"]]
        assert fields["city"]["choices"] == [{"value": "Ulm", "label": "Ulm"}]
        assert (fields["paper"]["accept"], fields["paper"]["most_bytes"]) == ([".txt", "application/pdf"], 1000)
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,idempotency-key"}
        for path, asker, answered in (
            ("/submissions", origin, (204, origin)),
            ("/submissions", "https://evil.example", (401, None)),
            ("/submissions", f"{origin}:8443", (401, None)),
            ("x/submissions", origin, (401, None)),
            ("/links", origin, (401, None)),
        ):
            async with page.options(f"{api}{path}", headers=asks | {"Origin": asker}) as response:
                allowed = response.headers.get("Access-Control-Allow-Origin")
                assert (response.status, allowed) == answered, (path, asker)
                if allowed is not None:
                    assert response.headers["Access-Control-Allow-Headers"] == "Content-Type, Idempotency-Key"
                    assert "POST" in response.headers["Access-Control-Allow-Methods"]
                    assert (response.headers["Vary"], response.headers["Access-Control-Max-Age"]) == ("Origin", "60")
        paper = {"name": "../../evil.py", "type": "application/pdf", "content_base64": base64.b64encode(b"print()").decode()}

        async def sent(body: dict[str, Any], key: str = "k" * 20) -> tuple[int, Any]:
            async with page.post(f"{api}/submissions", json=body, headers={"Idempotency-Key": key}) as response:
                assert response.headers["Access-Control-Allow-Origin"] == origin
                assert "Retry-After" in response.headers["Access-Control-Expose-Headers"]
                return response.status, await response.json(content_type=None)

        for values, path in (
            (VALUES | {"amount": "many"}, "input.amount"),
            (VALUES | {"city": "Graz"}, "input.city"),
            (VALUES | {"price": 0}, "input.price"),
            (VALUES | {"paper": {"path": "forms.py"}}, "input.paper"),
        ):
            status, answer = await sent({"values": values})
            assert (status, answer["errors"][0]["path"]) == (422, path)
        status, answer = await sent({"values": VALUES, "files": {"paper": paper | {"content_base64": "A" * 2000}}})
        assert (status, answer["errors"][0]["path"]) == (422, "input.paper")
        first = await sent({"values": VALUES, "files": {"paper": paper}})
        again = await sent({"values": VALUES, "files": {"paper": paper}})
        assert (first[0], again[0], first[1]["run"]) == (202, 202, None)

        async def done() -> Any:
            async with page.get(f"{api}/submission", params={"of": again[1]["ticket"]}) as response:
                found = await response.json()
                return found if found["ended"] else None

        found: Any = await eventually(done)
        assert (found["status"], found["result"]["pays"], found["result"]["paper"]["text"]) == ("succeeded", 21, "print()")
        async with page.get(f"{api}/submission", params={"of": again[1]["ticket"][:-3] + "AAA"}) as response:
            assert response.status == 404
        assert (await sent({"values": VALUES}))[0] == 422
    assert len([one for one in await runs_of(client, "order") if one["requested_by"] == "form:own"]) == 1
    # Who has the role is shown more, and nobody else is by that address.
    mine = await client.call("POST", URL(f"{api}/submissions").path, body={"values": VALUES}, status=202)
    assert (await client.call("GET", f"{URL(api).path}/submission?of={mine['ticket']}"))["run"] == mine["run"]
    assert (await at(mine["url"]))[0] == 403
    # What nobody is asked for nobody is told of, or of what is wrong with it.
    await client.call("PATCH", "/api/v1/forms/own", body={"input": {"price": "a secret"}})

    async def is_unfit() -> bool:
        status, text, _ = await at(url, SENT)
        assert "secret" not in text
        return status == 409

    await eventually(is_unfit)
    paths = [one["path"] for one in (await client.call("GET", "/api/v1/workspace/files?prefix=artifacts/"))["items"]]
    assert not [one for one in paths if one.endswith(".py") or ".." in one]
    async with aiohttp.ClientSession(headers={"Origin": "https://evil.example"}) as other, other.get(f"{api}/fields") as response:
        assert (response.status, "Access-Control-Allow-Origin" in response.headers) == (200, False)


async def test_who_is_signed_in_with_the_role_opens_it_in_a_browser_and_sees_how_it_goes_on(client: Client) -> None:
    program = chromium()
    if program is None:
        pytest.skip("the browser `chromium` is not installed")
    given: dict[str, Any] = {"workflow": "waits", "fields": [{"name": "n"}], "input": {}, "access": "role", "role": "viewer"}
    url = await made(client, "inside", **given)
    status, text, _ = await at(url)
    assert (status, "Sign in" in text) == (401, True)
    await client.call("PUT", "/api/v1/orgs/other", body={})
    key = (await client.call("POST", "/api/v1/keys?org=other", body={"name": "foreign", "role": "admin"}))["key"]
    api = url.replace("/forms/", "/api/v1/forms/")
    assert (await at(f"{api}/fields", Authorization=f"Bearer {key}"))[0] == 404
    assert (await at(f"{api}/fields", Authorization=f"Bearer {client.key}"))[0] == 200
    async with await signed_in(client, "hedy", "viewer") as hedy:
        (cookie,) = [one for one in hedy.cookie_jar if "session" in one.key]
        async with hedy.get(url) as response:
            text = await response.text()
            assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', text)) | {"f.n": "1"}
        for wrong, origin in ((fields | {"csrf": "x"}, client.url), (fields, "https://evil.example")):
            async with hedy.post(url, data=wrong, headers={"Origin": origin}) as response:
                assert response.status == 403
    assert await denials(client, "csrf")
    async with browsing(program) as page:
        await page.command("Emulation.setScriptExecutionDisabled", value=True)
        await page.command("Network.setCookie", name=cookie.key, value=cookie.value, url=client.url)
        await page.open(url)
        await page.fill("[name='f.n']", "4")
        await page.press("button[value=send]")
        await page.until("document.querySelector('[role=status]')?.innerText.includes('It waits for an answer.')")
        assert "begin" in await page.text()
        (run,) = await at_least(client, "waits", 1)
        assert run["requested_by"] == "user:hedy"
        await client.call("POST", f"/api/v1/runs/{run['id']}/signals/go", body="now")
        await page.until("document.querySelector('dl')?.innerText.includes('now')")
