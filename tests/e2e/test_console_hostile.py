"""What strangers, authors and colleagues write, in the console: text stays text, and no page breaks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from tests.e2e.test_console import SETTLED, press, shows, sign_in
from tests.support.browser import Page, browsing
from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.peers import browser_program

MARKUP = "<script>window.harmed = true</script><img src=x onerror='window.harmed = true'>"
TURNED = "safe\u202egnp.exe\u2066"
LINK = "javascript:window.harmed=true"
LONG = "W" * 3000
HOSTILE = f"{MARKUP} {TURNED} {LINK} \U0001f9d1\u200d\U0001f4bb \\u0000 {LONG}"
WORKFLOWS = f'''
from millrace import ask, log, workflow


@workflow
def loud(text: str, size: int) -> dict:
    """{MARKUP} {LINK}"""
    log.error(text, **{{"field": text}})
    print("x" * size)
    raise RuntimeError(text)


@workflow
async def asking(text: str) -> str:
    return (await ask(text, to=["finance"])).comment
'''.encode()
WATCHED = """
window.violations = []; window.faults = []
document.addEventListener("securitypolicyviolation", one => violations.push(`${one.violatedDirective} ${one.blockedURI}`))
addEventListener("error", one => faults.push(String(one.message)))
addEventListener("unhandledrejection", one => faults.push(String(one.reason)))
"""


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browsing(browser_program()) as page:
        await page.command("Page.enable")
        await page.command("Page.addScriptToEvaluateOnNewDocument", source=WATCHED)
        await page.command("Emulation.setDeviceMetricsOverride", width=1440, height=1000, deviceScaleFactor=1, mobile=False)
        yield page


async def unharmed(page: Page, where: str) -> None:
    """Hold a page that is shown against what hostile text would have done to it."""
    assert await page.value("window.harmed ?? null") is None, where
    assert await page.value("JSON.stringify([violations, faults])") == "[[],[]]", where
    links = "[...document.querySelectorAll('a[href]')].filter(one => !/^https?:$/.test(one.protocol)).map(one => one.href).join()"
    assert await page.value(links) == "", where
    assert await page.value("document.documentElement.scrollWidth - innerWidth") <= 0, where


async def hostile(client: Client) -> list[str]:
    """Have hostile text wherever a stranger, an author or a colleague may put it; return the pages that show it."""
    await client.put_file("hostile.py", WORKFLOWS)
    source = await client.call("PUT", "/api/v1/sources/open", body={"adapter": "none", "settings": {"event_path": "kind"}})
    await client.call("PUT", "/api/v1/subscriptions/open", body={"source": "open", "event": "*", "workflow": "asking"})
    fields = [{"name": "text", "label": MARKUP, "help": f"{TURNED} {LINK}"}, {"name": "nobody." + LONG[:90], "label": TURNED}]
    form = {"workflow": "loud", "title": MARKUP, "text": HOSTILE[:4000], "fields": fields, "input": {"size": 1}}
    await client.call("PUT", "/api/v1/forms/open", body=form)
    await client.call("PUT", "/api/v1/variables/open", body={"value": HOSTILE})
    await client.call("PUT", "/api/v1/integrations/open", body={"description": HOSTILE[:900], "config_schema": {"type": "object"}})
    run = await client.call("POST", "/api/v1/workflows/loud/runs?wait=60", body={"input": {"text": HOSTILE, "size": 1_000_000}})
    asked = await client.call("POST", "/api/v1/workflows/asking/runs", body={"input": {"text": HOSTILE[:900]}})
    bodies: list[Any] = [
        {"kind": f"k.{TURNED}", HOSTILE: HOSTILE, "x": [[[HOSTILE]]]},
        {"kind": MARKUP},
        '{"kind": "a\\u0000b"}',
        "x" * 60_000,
    ]
    sent = []
    async with aiohttp.ClientSession() as sender:
        for body in bodies:
            text = body if isinstance(body, str) else json.dumps(body)
            headers = {"Content-Type": "application/json", "X-Note": MARKUP, "X-Link": LINK, "User-Agent": LONG}
            async with sender.post(f"{source['url']}?q={LINK}", data=text, headers=headers) as response:
                assert response.status == 202, await response.text()
                sent.append((await response.json())["id"])

    async def told() -> Any:
        letters = await client.available("/api/v1/dead-letters?status=open")
        questions = await client.available("/api/v1/approvals?status=open")
        there = {one["run"] for one in (questions or {"items": []})["items"]}
        return letters and letters["items"] and asked["id"] in there and (letters["items"][0]["id"], questions["items"][-1]["id"])

    letter, question = await eventually(told)  # type: ignore[misc]
    pages = [f"runs/{run['id']}", f"runs/{asked['id']}", *(f"deliveries/{one}" for one in sent)]
    pages += [f"dead-letters/{letter}", f"approvals/{question}", "forms/open", "variables/open", "integrations/open"]
    return [
        *pages,
        "workflows/loud",
        "files/hostile.py",
        "deliveries",
        "runs",
        "approvals",
        "dead-letters",
        "logs",
        "audit",
        "variables",
    ]


async def test_hostile_text_stays_text_on_every_page(page: Page, client: Client) -> None:
    paths = await hostile(client)
    await sign_in(page, client, "hal", "admin")
    here = await page.value("location.origin")
    for width in (1440, 360):
        await page.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        for path in (*(f"console/{one}" for one in paths), ""):
            await page.open(f"{here}/{path}")
            await page.until(SETTLED)
            await unharmed(page, f"{path} at {width}")
    # What turns text around is written as such where data and code are read.
    await page.open(f"{here}/console/{paths[0]}")
    await page.until(r"document.querySelector('.json')?.innerText.includes('safe\\u202egnp.exe')")
    # A long text is cut, and is there for whoever wants it.
    await page.open(f"{here}/console/{paths[5]}")
    await press(page, "40,000 more characters")
    await page.until("document.querySelector('main pre')?.innerText.length === 60000")
    # Questions and comments are of people.
    question = next(path for path in paths if path.startswith("approvals/"))
    await page.open(f"{here}/console/{question}")
    await page.fill("main textarea[id^=comment]", MARKUP + TURNED)
    await unharmed(page, question)


async def test_addresses_that_name_nothing_say_so(page: Page, client: Client) -> None:
    await client.call("PUT", "/api/v1/orgs/elsewhere", body={"display_name": MARKUP})
    await client.put_file("hostile.py", WORKFLOWS)
    run = await client.call("POST", "/api/v1/workflows/loud/runs?wait=60", body={"input": {"text": "t", "size": 1}})
    await sign_in(page, client, "ivy", "viewer")
    here = await page.value("location.origin")
    for path in ("console/%", "console/nothing/at/all"):
        await page.open(f"{here}/{path}")
        await shows(page, "There is no such page")
        await unharmed(page, path)
    for path in (
        "runs/%3Cimg%20src=x%3E",
        f"deliveries/{run['id']}",
        "sources/none",
        "schedules/%22",
    ):
        await page.open(f"{here}/console/{path}")
        await page.until("!!document.querySelector('main .refusal, main .empty')")
        await unharmed(page, path)
    # A link of another organization is looked at in one's own.
    await page.open(f"{here}/console/runs/{run['id']}?org=elsewhere")
    await shows(page, "loud")
    assert await page.value("document.querySelector('.orgs').value") == "default"
