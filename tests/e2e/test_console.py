"""The console in a real browser: a person signs in, makes a source, and follows a webhook to the last line of its run."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.browser import Page, browsing
from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.peers import browser_program, install
from tests.support.signing_in import accept_in
from tests.support.stack import Up

CONSOLE = Path(__file__).parents[2] / "console"
HOSTILE = "<script>window.harmed = true</script><img src=x onerror='window.harmed = true'>"
WORKFLOWS = b"""
from millrace import ask, log, runs, wait_for, workflow


@workflow
async def greet(event: dict) -> dict:
    '''Greet who has pushed.'''
    log.info(f"hello {event['data']['who']}")
    said = await wait_for("go")
    log.info("going on", said=said.data)
    return {"greeted": event["data"]["who"]}


@workflow
async def careless(order: str = "7") -> None:
    child = await runs.astart("chatter", {"lines": 1})
    await runs.wait(child)
    prices = {"8": 3}
    prices[order]  # the line to blame


@workflow
async def refund(order: str = "7") -> bool:
    return (await ask(f"Refund order {order}?", to=["finance"])).approved


@workflow
def chatter(lines: int = 1000, size: int = 100) -> int:
    '''Say much.'''
    for number in range(lines):
        print(number, "x" * size)
    return lines
"""
SETTLED = "document.querySelector('main h1') && !document.querySelector('main .loading')"
BUTTONS = "[...document.querySelectorAll('main button, main a.button')].map(one => one.innerText).join('|')"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with browsing(browser_program()) as page:
        await page.command("Emulation.setDeviceMetricsOverride", width=1440, height=1000, deviceScaleFactor=1, mobile=False)
        yield page


async def sign_in(page: Page, client: Client, name: str, role: str) -> None:
    """Have a person accept an invitation, and go on to the console."""
    invited = await client.call("POST", "/api/v1/orgs/default/invitations", body={"role": role, "name": name})
    await accept_in(page, invited)
    await page.press("#next")
    await shows(page, "Newest runs")


async def shows(page: Page, words: str) -> None:
    await page.until(f"document.querySelector('main')?.innerText.includes({json.dumps(words)})")


async def press(page: Page, words: str, within: str = "main") -> None:
    """Click on the button or link that says just this."""
    await page.until(
        f"(one => one && (one.click(), true))([...document.querySelectorAll('{within} button, {within} a')]"
        f".findLast(one => one.innerText.trim() === {json.dumps(words)} && !one.disabled))"
    )


async def send(url: str, who: str) -> str:
    """Send a signed webhook as GitHub does; return its delivery's id."""
    body = json.dumps({"ref": "refs/heads/main", "who": who, "repository": {"full_name": "acme/app"}}).encode()
    signature = "sha256=" + hmac.new(b"sealed", body, hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": who[:20],
        "X-Hub-Signature-256": signature,
    }
    async with aiohttp.ClientSession() as sender, sender.post(url, data=body, headers=headers) as response:
        assert response.status == 202, await response.text()
        sent: dict[str, Any] = await response.json()
        return str(sent["id"])


async def test_a_person_follows_a_webhook_from_its_arrival_to_the_last_line(page: Page, client: Client) -> None:
    await client.put_file("greeting.py", WORKFLOWS)
    await sign_in(page, client, "ada", "developer")
    # A source, from the form that its adapter's schema makes.
    await press(page, "Sources", "nav")
    await press(page, "New source")
    await page.fill("#new-name", "hub")
    adapter = "[...document.querySelectorAll('main select')].find(one => [...one.options].some(each => each.value === 'github'))"
    await page.until(
        f"(one => one && (one.value = 'github', one.dispatchEvent(new Event('change', {{bubbles: true}}))))({adapter})"
    )
    await page.fill("main input[type=password]", "sealed")
    await press(page, "Create")
    await page.until("location.pathname === '/console/sources/hub'")
    url = str(await page.until("document.querySelector('.address')?.innerText"))
    for name, event in (("pushes", "push"), ("issues", "issues.*")):
        await client.call("PUT", f"/api/v1/subscriptions/{name}", body={"source": "hub", "event": event, "workflow": "greet"})
    # One that is refused is no delivery; why it is stands at its source.
    headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": "sha256=" + "0" * 64}
    async with aiohttp.ClientSession() as sender, sender.post(url, json={}, headers=headers) as response:
        assert response.status == 401
    await shows(page, "the x-hub-signature-256 header does not match")
    await press(page, "Test a request")
    await press(page, "Test", "dialog")
    await page.until("document.querySelector('dialog .steps')?.innerText.includes('there is no x-hub-signature-256 header')")
    await page.press("dialog [aria-label=Close]")
    # It is seen as it comes.
    await press(page, "Deliveries", "nav")
    await page.until("document.querySelector('.live')?.innerText.includes('Live')")
    delivery = await send(url, HOSTILE)
    await shows(page, "hub")
    await page.press(f"main a[href='/console/deliveries/{delivery}']")
    await shows(page, "the x-hub-signature-256 header is the hmac-sha256 of {body}")
    await shows(page, "it takes issues.*, and this is push")
    await page.press("main a[href^='/console/runs/']")
    # Its lines are seen while it waits, and so is what it waits for.
    await shows(page, "hello <script>")
    await shows(page, "signal go")
    await press(page, "Send a signal")
    await press(page, "Send", "dialog")
    await shows(page, "going on")
    await page.until("document.querySelector('.head .status')?.innerText === 'succeeded'")
    assert await page.value("window.harmed") is None
    first = await page.value("location.pathname")
    await press(page, "Run again")
    await press(page, "Run again", "dialog")
    await page.until(f"location.pathname.startsWith('/console/runs/') && location.pathname !== {json.dumps(first)}")
    await shows(page, "signal go")
    await press(page, "Cancel")
    await press(page, "Cancel", "dialog")
    await page.until("document.querySelector('.head .status')?.innerText === 'cancelled'")
    again = str(await page.value("location.pathname")).rpartition("/")[2]
    assert (await client.call("GET", f"/api/v1/runs/{again}"))["rerun_of"] == first.rpartition("/")[2]


async def test_somebody_without_an_account_answers_by_a_link_and_the_page_shows_it(page: Page, client: Client) -> None:
    await client.put_file("greeting.py", WORKFLOWS)
    await sign_in(page, client, "eve", "developer")
    await press(page, "Approvals", "nav")
    await page.until("document.querySelector('.live')?.innerText.includes('Live')")
    run = await client.call("POST", "/api/v1/workflows/refund/runs", body={"input": {"order": "42"}})
    await press(page, "Refund order 42?")
    await press(page, "Link for somebody without an account")
    await page.fill("dialog input", "bob@example.com")
    await press(page, "Make the link", "dialog")
    link = str(await page.until("document.querySelector('dialog pre')?.innerText"))
    async with browsing(browser_program()) as other:
        await other.open(link)
        await other.press("button[value=approve]")
        await other.until("document.querySelector('h1')?.innerText === 'Approved'")
    await page.press("dialog [aria-label=Close]")
    await page.until("document.querySelector('.head .status')?.innerText === 'approved'")
    await page.press(f"main a[href='/console/runs/{run['id']}']")
    await page.until("document.querySelector('.head .status')?.innerText === 'succeeded'")


async def test_a_failure_is_shown_with_its_code_and_its_children_and_a_question_is_answered_there(
    page: Page, client: Client
) -> None:
    await client.put_file("greeting.py", WORKFLOWS)
    await sign_in(page, client, "gus", "developer")
    here = await page.value("location.origin")
    failed = await client.call("POST", "/api/v1/workflows/careless/runs?wait=30", body={"input": {}})
    await page.open(f"{here}/console/runs/{failed['id']}")
    await page.until("document.querySelector('.frame .l.at')?.innerText.includes('the line to blame')")
    child = "document.querySelector('.timeline .child a')"
    assert await page.until(f"{child}?.innerText") == "chatter"
    await page.until(
        "!![...document.querySelectorAll('.tree a')].find(one => one.getAttribute('href') === " + f"{child}.getAttribute('href'))"
    )
    # The code is that of the run, whatever the file has since.
    await client.put_file("greeting.py", WORKFLOWS.replace(b"  # the line to blame", b"\n    return"))
    await page.open(f"{here}/console/runs/{failed['id']}")
    await shows(page, "It was changed since")
    assert await page.value("document.querySelector('.frame .l.at').innerText.includes('the line to blame')")
    asking = await client.call("POST", "/api/v1/workflows/refund/runs", body={"input": {"order": "43"}})
    await page.open(f"{here}/console/runs/{asking['id']}")
    await press(page, "Approve")
    await page.until("document.querySelector('.head .status')?.innerText === 'succeeded'")
    await client.put_file("broken.py", b"from millrace import workflow\n\n\n@workflow\ndef (:\n")
    await page.open(f"{here}/console/workflows")
    await page.press("main a[href^='/console/files/broken.py']")
    await page.until("!!document.querySelector('.source .l[data-n=\"5\"].noted')")
    await client.call("DELETE", "/api/v1/workspace/files/broken.py")


async def test_what_is_typed_stays_while_a_schedule_is_paused(page: Page, client: Client) -> None:
    await client.put_file("greeting.py", WORKFLOWS)
    await client.call("PUT", "/api/v1/schedules/nightly", body={"cron": "0 3 * * *", "workflow": "chatter"})
    await sign_in(page, client, "ines", "developer")
    await press(page, "Schedules", "nav")
    await page.until("document.querySelectorAll('.calendar .mark').length === 1")
    await press(page, "Pause")
    await press(page, "Resume")
    await page.until("document.querySelectorAll('.calendar .mark').length === 1")
    await press(page, "nightly")
    zone = (
        "[...document.querySelectorAll('main .field')].find(one => one.textContent.startsWith('timezone'))?.querySelector('input')"
    )
    await page.until(
        f"(one => one && (one.value = 'Europe/Vienna', one.dispatchEvent(new Event('input', {{bubbles: true}}))))({zone})"
    )
    await press(page, "Pause")
    await press(page, "Resume")
    # It is saved over what is there by then, no older one.
    await page.until("[...document.querySelectorAll('main button')].some(one => one.innerText === 'Pause' && !one.disabled)")
    await press(page, "Save")
    await page.until("[...document.querySelectorAll('main button')].some(one => one.innerText === 'Save' && one.disabled)")
    assert (await client.call("GET", "/api/v1/schedules/nightly"))["timezone"] == "Europe/Vienna"


async def test_a_stretch_of_the_histogram_is_searched(page: Page, client: Client) -> None:
    await client.put_file("greeting.py", WORKFLOWS)
    await sign_in(page, client, "bea", "viewer")
    await press(page, "Logs", "nav")
    box = json.loads(
        str(
            await page.until(
                "(one => one && JSON.stringify(one.getBoundingClientRect()))(document.querySelector('.histogram svg'))"
            )
        )
    )
    for kind, part in (("mousePressed", 0.5), ("mouseMoved", 0.7), ("mouseMoved", 0.99), ("mouseReleased", 0.99)):
        at = {"x": box["x"] + part * box["width"], "y": box["y"] + 10}
        await page.command("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, clickCount=1, **at)
    await page.until("new URLSearchParams(location.search).get('from')?.startsWith('20')")
    await shows(page, "found")
    # A link to it finds the same.
    address = await page.value("location.href")
    await page.open("about:blank")
    await page.open(address)
    await page.until("document.querySelector('select[aria-label=Time]')?.selectedOptions[0].innerText === 'as drawn'")


async def test_a_tab_that_nobody_looks_at_keeps_no_connection_and_catches_up(page: Page, client: Client) -> None:
    await client.put_file("greeting.py", WORKFLOWS)
    await sign_in(page, client, "fay", "viewer")
    await press(page, "Runs", "nav")
    live, turned = "document.querySelector('.live')?.innerText", "document.dispatchEvent(new Event('visibilitychange'))"
    await page.until(f"{live} === 'Live'")
    await page.value(f"Object.defineProperty(document, 'hidden', {{configurable: true, get: () => true}}), {turned}")
    await page.until(f"{live} === ''")
    run = await client.call("POST", "/api/v1/workflows/chatter/runs?wait=30", body={"input": {"lines": 1}})
    await page.value(f"Object.defineProperty(document, 'hidden', {{configurable: true, get: () => false}}), {turned}")
    await page.until(f"!!document.querySelector(\"main a[href='/console/runs/{run['id']}']\")")


async def test_a_viewer_is_offered_nothing_that_would_be_refused(page: Page, client: Client) -> None:
    await client.put_file("greeting.py", WORKFLOWS)
    await client.call("PUT", "/api/v1/sources/quiet", body={"adapter": "none", "settings": {}})
    run = await client.call("POST", "/api/v1/workflows/chatter/runs?wait=30", body={"input": {"lines": 3}})
    await sign_in(page, client, "vic", "viewer")
    asking = await client.call("POST", "/api/v1/workflows/refund/runs", body={"input": {"order": "44"}})
    await page.open(f"{await page.value('location.origin')}/console/runs/{asking['id']}")
    await shows(page, "This is asked of finance")
    await client.call("PUT", "/api/v1/schedules/nightly", body={"cron": "0 3 * * *", "workflow": "chatter"})
    paths = (f"/console/runs/{run['id']}", "/console/workflows/chatter", "/console/sources/quiet", "/console/sources")
    for path in (*paths, "/console/schedules", "/console/schedules/nightly", "/console/operations"):
        await page.open(await page.value("location.origin") + path)
        await page.until(SETTLED)
        offered = set(str(await page.value(BUTTONS)).split("|"))
        refused = {
            "Run again",
            "Run now",
            "Resume with the latest code",
            "Remove",
            "Save",
            "Test a request",
            "New source",
            "Approve",
        }
        assert not offered & (refused | {"Pause", "Resume", "Fire now", "Resolve anew", "New schedule"}), path
    menu = str(await page.value("document.querySelector('nav').innerText"))
    assert "Runs" in menu
    assert "Keys" not in menu
    assert "Users" not in menu


async def test_many_lines_stay_text_and_few_of_them_are_in_the_document(page: Page, client: Client) -> None:
    await client.put_file("greeting.py", WORKFLOWS)
    run = await client.call("POST", "/api/v1/workflows/chatter/runs?wait=60", body={"input": {"lines": 9_000, "size": 100}})
    await sign_in(page, client, "cleo", "operator")
    await page.open(await page.value("location.origin") + f"/console/runs/{run['id']}")
    await page.until("document.querySelector('.log > div')?.clientHeight >= 9000 * 22")
    assert await page.value("document.querySelectorAll('.log .line').length") < 200
    # The end is followed.
    await page.until("document.querySelector('.log').innerText.includes('8999 xxx')")


async def test_pages_are_usable_by_everybody(page: Page, client: Client, up: Up) -> None:
    install(CONSOLE)
    axe = (CONSOLE / "node_modules" / "axe-core" / "axe.min.js").read_text()
    await client.put_file("greeting.py", WORKFLOWS)
    source = await client.call("PUT", "/api/v1/sources/busy", body={"adapter": "none", "settings": {}})
    run = await client.call("POST", "/api/v1/workflows/chatter/runs?wait=30", body={"input": {"lines": 3}})
    async with aiohttp.ClientSession() as sender, sender.post(source["url"], json={"a": 1}) as response:
        delivery = (await response.json())["id"]

    async def there() -> Any:
        found = await client.available(f"/api/v1/deliveries?id={delivery}")
        return found and found["items"]

    await eventually(there)
    await sign_in(page, client, "dan", "admin")
    paths = (
        "/",
        *(f"/console/{one}" for one in ("runs", f"runs/{run['id']}", "deliveries", f"deliveries/{delivery}", "logs", "audit")),
    )
    paths += tuple(f"/console/{one}" for one in ("approvals", "dead-letters", "workflows", "workflows/chatter", "sources"))
    paths += ("/console/sources/busy", "/console/sources/+", "/console/subscriptions/+", "/console/keys", "/console/schedules")
    paths += ("/console/operations", "/console/files/greeting.py")
    for scheme in ("light", "dark"):
        await page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        for path in paths:
            await page.open(up.ready["url"] + path)
            await page.until(SETTLED)
            await page.value(axe)
            await page.value(
                "window.told = null; axe.run(document, {resultTypes: ['violations']}).then(one => { window.told = one })"
            )
            told = "one.nodes.map(each => each.target.join(' ') + ': ' + each.failureSummary)"
            found = await page.until(f"window.told && JSON.stringify(window.told.violations.map(one => [one.id, {told}]))")
            assert json.loads(str(found)) == [], (path, scheme)
    # A small telephone shows all of each page without being scrolled sideways.
    await page.command("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    for path in paths:
        await page.open(up.ready["url"] + path)
        await page.until(SETTLED)
        assert await page.value("document.documentElement.scrollWidth") <= 360, path
