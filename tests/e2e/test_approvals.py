"""What a run asks people: in a browser without scripts by a link, at the command line, and whoever is killed meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.support.browser import Page, browsing, chromium
from tests.support.client import Client
from tests.support.command import Command
from tests.support.inside import eventually
from tests.support.stack import Up

FLOWS = b"""
from dataclasses import dataclass
from typing import Literal

from millrace import AskTimeout, approvals, ask, runs, wait_for, workflow


@dataclass
class Refund:
    '''A refund.

    Args:
        amount: In whole euros.
    '''

    amount: int
    method: Literal["card", "bank"]
    urgent: bool = False
    note: str | None = None


@workflow
async def refund(order: str, to: list[str] = [], timeout: float = 3600.0, remind: float | None = None) -> dict:
    try:
        answer = await ask(
            f"Refund order {order}?", form=Refund, to=to, timeout=timeout, remind=remind, escalate=remind, escalate_to=["boss"]
        )
    except AskTimeout:
        return {"in_time": False}
    form = None if answer.form is None else vars(answer.form)
    return {"approved": answer.approved, "form": form, "by": answer.by, "via": answer.via, "comment": answer.comment}


@workflow
async def tell(event: dict) -> dict:
    if event["type"] != "ask.opened":
        return event["data"]
    link = await approvals.alink(event["data"]["approval"], "ada@example.com")
    print("the link is", link)
    return {"link": link, "has_host": link.startswith("http"), "is_long": len(link) > 200, **event["data"]}


@workflow
async def waits() -> str:
    return (await wait_for("go")).data


@workflow
async def goes(run: str) -> None:
    await runs.asignal(run, "go", "signalled")
"""


async def asked(client: Client, **given: Any) -> Any:
    """Start a refund, and wait for its question."""
    run = (await client.call("POST", "/api/v1/workflows/refund/runs", body={"input": {"order": "7"} | given}))["id"]

    async def there() -> Any:
        found = await client.available("/api/v1/approvals?status=open")
        return next((one for one in found["items"] if one["run"] == run), None) if found else None

    return await eventually(there)


async def link_of(client: Client, approval: Any, name: str = "ada@example.com") -> str:
    return str((await client.call("POST", f"/api/v1/approvals/{approval['id']}/links", body={"name": name}))["url"])


async def at(url: str, **fields: str) -> tuple[int, str]:
    """Open a page, or send its form; nobody is signed in."""
    async with aiohttp.ClientSession() as nobody:
        sent = nobody.post(URL(url).with_query(None), data=fields) if fields else nobody.get(url)
        async with sent as response:
            return response.status, await response.text()


async def denials(client: Client, reason: str) -> list[Any]:
    async def there() -> list[Any] | None:
        found = await client.available(f"/api/v1/audit?q=data.detail.reason:{reason}&org=*")
        return (found or {}).get("items")

    return list(await eventually(there))


async def test_a_person_without_an_account_answers_in_a_browser_without_scripts(client: Client) -> None:
    program = chromium()
    if program is None:
        pytest.skip("the browser `chromium` is not installed")
    await client.put_file("asking.py", FLOWS)
    approval = await asked(client, to=["finance"])
    assert (approval["to"], approval["status"], approval["form"]["required"]) == (["finance"], "open", ["amount", "method"])
    link = await link_of(client, approval)
    async with browsing(program) as page:
        await page.command("Emulation.setScriptExecutionDisabled", value=True)
        await page.open(link)
        text = await page.text()
        assert "Refund order 7?" in text
        assert "link:ada@example.com" in text
        labels = await page.value(
            "[...document.querySelectorAll('input:not([type=hidden]),select,textarea')].every(o => o.labels.length)"
        )
        assert labels
        await page.fill("[name='f.amount']", "a lot")
        await page.fill("[name='f.note']", "<b>late</b>")
        await page.press("button[value=approve]")
        await page.until("!!document.querySelector('[role=alert]')")
        assert "is to be filled in" in await page.text()
        wrong = "[...document.querySelectorAll('[aria-invalid]')].map(one => one.name).join()"
        assert await page.value(wrong) == "f.method"
        assert await page.value("document.querySelector('[name=\"f.note\"]').value") == "<b>late</b>"
        await choose(page, "f.method", "bank")
        await page.press("button[value=approve]")
        await page.until(f"{wrong} === 'f.amount'")
        assert "integer" in await page.text()
        assert await page.value("document.querySelector('[name=\"f.amount\"]').value") == "a lot"
        await page.value("document.querySelector('[name=\"f.amount\"]').value = ''")
        await page.fill("[name='f.amount']", "120")
        await page.press("button[value=approve]")
        await page.until("document.querySelector('h1')?.innerText === 'Approved'")
        assert "120" in await page.text()
    run = await client.run(approval["run"], "succeeded")
    form = {"amount": 120, "method": "bank", "urgent": False, "note": "<b>late</b>"}
    assert run["result"] == {"approved": True, "form": form, "by": "link:ada@example.com", "via": "link", "comment": ""}
    found = await client.call("GET", f"/api/v1/approvals/{approval['id']}")
    assert (found["status"], found["data"], found["answered_by"], found["remote"]) == (
        "approved",
        form,
        run["result"]["by"],
        "127.0.0.1",
    )
    assert "Chrome" in found["user_agent"]


async def choose(page: Page, name: str, label: str) -> None:
    one = f"document.getElementsByName('{name}')[0]"
    await page.value(f"{one}.value = [...{one}.options].find(of => of.text === '{label}').value")


async def test_a_link_is_of_use_once_and_to_nothing_else(client: Client) -> None:
    await client.put_file("asking.py", FLOWS)
    approval = await asked(client, to=["finance"])
    link = await link_of(client, approval)
    token = URL(link).query["link"]
    status, _ = await at(link.replace(token, token[:-3] + ("AAA" if token[-3:] != "AAA" else "BBB")))
    assert status == 404
    assert (await at(link.replace(token, "v1.0.0.0")))[0] == 404
    assert (await at(link))[0] == 200
    answers = await asyncio.gather(*(at(link, link=token, decision="refuse", comment=f"no {number}") for number in range(6)))
    assert sorted(status for status, _ in answers) == [200] + [409] * 5
    run = await client.run(approval["run"], "succeeded")
    (winner,) = [number for number, (status, _) in enumerate(answers) if status == 200]
    assert (run["result"]["approved"], run["result"]["form"], run["result"]["comment"]) == (False, None, f"no {winner}")
    status, text = await at(link)
    assert (status, "refused by link:ada@example.com" in text) == (409, True)
    # An address too often is told to wait, so this is another one's link that has lost its time.
    short = await asked(client, to=["finance"], timeout=3.0)
    expired = await link_of(client, short)
    assert (await client.run(short["run"], "succeeded"))["result"] == {"in_time": False}
    assert (await at(expired))[0] == 409
    await client.call("POST", f"/api/v1/approvals/{short['id']}", body={"decision": "refuse"}, status=409)
    await client.call("PUT", "/api/v1/orgs/other", body={})
    open_one = await asked(client)
    await client.call("GET", f"/api/v1/approvals/{open_one['id']}?org=other", status=404)
    await client.call("POST", f"/api/v1/approvals/{open_one['id']}?org=other", body={"decision": "refuse"}, status=404)
    for reason in ("unknown_link", "used_link", "expired_link"):
        assert await denials(client, reason)
    # Whoever is refused is told so before the form is judged, and the link itself is in no row.
    rows = await client.call("GET", f"/api/v1/logs?q=%22{token[-40:]}%22&org=*")
    assert rows["items"] == []
    await client.call("POST", f"/api/v1/runs/{open_one['run']}/cancel")
    await client.run(open_one["run"], "cancelled")
    gone = await client.call("GET", f"/api/v1/approvals/{open_one['id']}")
    assert gone["status"] == "withdrawn"
    await client.call("POST", f"/api/v1/approvals/{open_one['id']}", body={"decision": "refuse"}, status=409)


async def test_those_who_are_asked_answer_at_the_command_line_and_are_reminded(client: Client, millrace: Command) -> None:
    await client.put_file("asking.py", FLOWS)
    given = {"source": "millrace", "event": "ask.*", "workflow": "tell"}
    await client.call("PUT", "/api/v1/subscriptions/tell", body=given)
    approval = await asked(client, to=["admin"], remind=3.0)
    (listed,) = (await millrace.json("approvals", "list", "--to", "admin"))["items"]
    assert listed["id"] == approval["id"]
    lines = (await millrace("approvals", "get", approval["id"])).splitlines()
    assert {"status": "open", "prompt": "Refund order 7?"}.items() <= dict(line.split(maxsplit=1) for line in lines).items()
    key = (await client.call("POST", "/api/v1/keys", body={"name": "op", "role": "operator"}))["key"]
    body = {"decision": "approve", "data": {"amount": 1, "method": "card"}}
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.request("POST", f"{client.url}/api/v1/approvals/{approval['id']}", json=body, headers=headers) as response:
        assert response.status == 403

    async def told() -> dict[str, Any] | None:
        found = await client.available("/api/v1/runs?workflow=tell&status=succeeded") or {"items": []}
        of_it = [one["result"] for one in found["items"] if one["result"].get("approval") == approval["id"]]
        by = {("link" in one, one.get("to") == ["boss"], "number" in one): one for one in of_it}
        return by if {(True, False, False), (False, True, True), (False, False, True)} <= by.keys() else None

    results = await eventually(told)
    opened = results[True, False, False]
    assert (opened["link"].partition("=")[2], opened["has_host"], opened["is_long"]) == ("***", True, True)
    assert opened["prompt"] == "Refund order 7?"
    _, aside = await millrace.both("approvals", "answer", approval["id"], "approve", "--data", '{"amount": "x"}', code=1)
    assert "data.amount" in aside
    out = await millrace(
        "approvals", "answer", approval["id"], "approve", "--data", '{"amount": 1, "method": "card"}', "--comment", "ok"
    )
    assert "approved" in out
    run = await client.run(approval["run"], "succeeded")
    assert (run["result"]["by"], run["result"]["via"], run["result"]["comment"]) == ("platform-key", "key", "ok")

    async def told_of_the_answer() -> dict[str, Any] | None:
        found = await client.available("/api/v1/runs?workflow=tell&status=succeeded") or {"items": []}
        of_it = (one["result"] for one in found["items"] if one["result"].get("approval") == approval["id"])
        return next((one for one in of_it if "answered_by" in one), None)

    answered: Any = await eventually(told_of_the_answer)
    shared = ("run", "workflow", "name", "prompt", "to", "until")
    assert [answered[name] for name in shared] == [opened[name] for name in shared]
    assert (answered["approved"], answered["comment"], answered["via"]) == (True, "ok", "key")

    waiting = (await client.call("POST", "/api/v1/workflows/waits/runs", body={}))["id"]
    await client.call("POST", "/api/v1/workflows/goes/runs", body={"input": {"run": waiting}})
    assert (await client.run(waiting, "succeeded"))["result"] == "signalled"


async def signed_in(client: Client, name: str, role: str) -> aiohttp.ClientSession:
    """Return the browser of a new user."""
    invited = await client.call("POST", "/api/v1/orgs/default/invitations", body={"role": role, "name": name})
    browser = aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True))
    given = {"token": invited["url"].rpartition("#")[2], "password": f"correct horse battery staple of {name}"}
    async with browser.post(f"{client.url}/api/v1/invitations/accept", json=given, headers={"Origin": client.url}) as response:
        assert response.status == 200, await response.text()
    return browser


async def test_who_is_signed_in_answers_on_the_same_page_where_that_is_asked_of_them(client: Client) -> None:
    program = chromium()
    if program is None:
        pytest.skip("the browser `chromium` is not installed")
    await client.put_file("asking.py", FLOWS)
    approval = await asked(client, to=["user:grace"])
    page = f"{client.url}/approve?id={approval['id']}&of=default"
    assert (await at(page))[0] == 401
    async with await signed_in(client, "eve", "operator") as eve, eve.get(page) as response:
        assert response.status == 403
    async with await signed_in(client, "grace", "viewer") as grace:
        async with grace.get(page) as response:
            text = await response.text()
            assert (response.status, "you as user:grace" in text) == (200, True)
        sent = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', text)) | {
            "decision": "refuse",
            "comment": "no",
        }
        for fields, origin in ((sent | {"csrf": "x"}, client.url), (sent, "https://evil.example"), (sent, None)):
            headers = {} if origin is None else {"Origin": origin}
            async with grace.post(f"{client.url}/approve", data=fields, headers=headers) as response:
                assert response.status == 403
        # A browser says where a form is from only as far as its page lets it.
        (cookie,) = [one for one in grace.cookie_jar if "session" in one.key]
        async with browsing(program) as browser:
            await browser.command("Network.setCookie", name=cookie.key, value=cookie.value, url=client.url)
            await browser.open(page)
            await browser.fill("[name=comment]", "no")
            await browser.press("button[value=refuse]")
            await browser.until("document.querySelector('h1')?.innerText === 'Refused'")
    run = await client.run(approval["run"], "succeeded")
    assert (run["result"]["by"], run["result"]["via"], run["result"]["approved"]) == ("user:grace", "session", False)
    assert await denials(client, "csrf")


async def test_a_question_outlives_whoever_is_killed(up: Up, client: Client) -> None:
    await client.put_file("asking.py", FLOWS)
    approvals = [await asked(client) for _ in range(3)]
    for service in ("executor", "gateway"):
        os.kill(up.read()["services"][service], signal.SIGKILL)

    async def answered(approval: Any) -> Any:
        """Answer it again until somebody has it on record, as a person would who sees an error."""

        async def once() -> Any:
            with contextlib.suppress(aiohttp.ClientError, AssertionError):
                body = {"decision": "approve", "data": {"amount": 5, "method": "card"}}
                with contextlib.suppress(AssertionError):
                    await client.call("POST", f"/api/v1/approvals/{approval['id']}", body=body)
                found = await client.available(f"/api/v1/approvals/{approval['id']}")
                return found if found and found["status"] == "approved" else None

        return await eventually(once, within=120, every=0.2)

    for found in await asyncio.gather(*map(answered, approvals)):
        run = await client.run(found["run"], "succeeded", within=120)
        assert run["result"]["form"] == {"amount": 5, "method": "card", "urgent": False, "note": None}
    everything = (await client.call("GET", "/api/v1/approvals?limit=100"))["items"]
    assert len([one for one in everything if one["run"] in {of["run"] for of in approvals}]) == 3
