"""Takes a picture of every page of the console, wide and narrow, light and dark: `python -m tests.pictures FOLDER`.

Starts a stack on a temporary folder, gives it something to show, signs somebody in and opens page after page in a real browser.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.browser import browsing, chromium
from tests.support.client import Client
from tests.support.inside import eventually
from tests.support.places import open_folder
from tests.support.signing_in import accept_in
from tests.support.stack import running_up

MODES = {"wide": (1440, 900), "narrow": (390, 844)}
SECRET = "sealed"
FLOWS = b'''
import time

from millrace import ask, log, step, wait_for, workflow


def fetch(page: int) -> dict:
    time.sleep(0.15)
    log.info("fetched a page", page=page, rows=20 + page)
    return {"page": page, "rows": 20 + page}


@workflow
async def sync_tickets(pages: int = 3, full: bool = False) -> dict:
    """Fetch all tickets of the helpdesk and count them."""
    log.info("syncing", pages=pages)
    found = [await step(f"fetch-{page}", fetch, page) for page in range(pages)]
    log.warning("a page was slow", milliseconds=1200)
    return {"pages": pages, "rows": sum(one["rows"] for one in found)}


@workflow
def charge(amount: int) -> str:
    """Charge a card."""
    log.info("charging", amount=amount)
    if amount > 100:
        raise ValueError(f"{amount} is above the limit of 100")
    return "charged"


@workflow
async def onboard(name: str = "Ada") -> str:
    """Prepare everything for a new colleague, once somebody has agreed."""
    answer = await ask(f"Give {name} an account?", to=["admin"])
    return "given" if answer.approved else "refused"


@workflow
async def on_push(event: dict) -> str:
    """Say what was pushed."""
    log.info("pushed", ref=event["data"]["ref"])
    return "seen"
'''


async def filled(client: Client) -> list[tuple[str, str]]:
    """Give a stack something to show; return the pages by their names."""
    await client.put_file("flows.py", FLOWS)
    hub = await client.call("PUT", "/api/v1/sources/github", body={"adapter": "github", "settings": {"secret": SECRET}})
    resources: dict[str, dict[str, Any]] = {
        "subscriptions/pushes": {"source": "github", "event": "push", "workflow": "on_push", "filter": "event.data.ref != ''"},
        "schedules/nightly": {"cron": "0 3 * * *", "workflow": "sync_tickets", "input": {"pages": 2}},
        "schedules/often": {"every": 1800, "workflow": "sync_tickets", "input": {"pages": 1}},
        "searches/errors": {"q": "level:>=error", "alert_above": 10},
        "variables/region": {"value": "eu-central"},
        "secrets/helpdesk": {"value": "sealed"},
        "connections/helpdesk": {"grant": "token", "token": "sealed", "base_url": "https://helpdesk.example"},
        "forms/charge": {"workflow": "charge", "title": "Charge a card", "access": "role"},
        "keys/ci": {"role": "operator", "scopes": ["runs"]},
    }
    for path, body in resources.items():
        await client.call("PUT", f"/api/v1/{path}", body=body)
    runs = {}
    for number in range(8):
        start = "/api/v1/workflows/{}/runs?wait=30"
        runs["run"] = await client.call("POST", start.format("sync_tickets"), body={"input": {"pages": 1 + number % 4}})
        runs["failed"] = await client.call("POST", start.format("charge"), body={"input": {"amount": 30 * number}})
    runs["waiting"] = await client.call("POST", "/api/v1/workflows/onboard/runs", body={"input": {"name": "Grace"}})
    for number in range(5):
        body = json.dumps({"ref": f"refs/heads/feature-{number}", "repository": {"full_name": "acme/app"}}).encode()
        _, sent = await client.github(hub["url"], SECRET, body, event="issues" if number == 2 else "push")
    await client.delivery(sent["id"], "routed")

    async def asked() -> Any:
        found = await client.available("/api/v1/approvals?status=open")
        return found and found["items"]

    (approval,) = await eventually(asked)
    ids = {f"runs/{one['id']}": name for name, one in runs.items()} | {f"deliveries/{sent['id']}": "delivery"}
    pages = [("overview", "/"), *((name, f"/console/{path}") for path, name in ids.items())]
    pages.append(("approval", f"/console/approvals/{approval['id']}"))
    lists = ("deliveries", "runs", "approvals", "logs", "dead-letters", "audit", "workflows", "members", "operations")
    ones = ("workflows/sync_tickets", "sources/github", "sources/+", "forms/charge", *resources)
    kinds = dict.fromkeys(path.partition("/")[0] for path in (*resources, "sources/", "users/", "orgs/"))
    return pages + [
        (path.replace("/+", "-new").replace("/", "-"), f"/console/{path}") for path in dict.fromkeys((*lists, *ones, *kinds))
    ]


async def main(folder: Path) -> int:
    """Take all pictures; return how many."""
    program = chromium()
    assert program is not None, "the browser `chromium` is not installed"
    folder.mkdir(parents=True, exist_ok=True)
    taken = 0
    with open_folder() as place:
        async with running_up(place / ".millrace") as up, aiohttp.ClientSession() as session, browsing(program) as page:
            client = Client(session, up.ready)
            pages = await filled(client)
            invitation = {"role": "admin", "name": "ada", "display_name": "Ada"}
            await accept_in(page, await client.call("POST", "/api/v1/orgs/global/invitations", body=invitation))
            for mode, (width, height) in MODES.items():
                await page.command(
                    "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mode == "narrow"
                )
                for scheme in ("light", "dark"):
                    await page.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                    for name, path in pages:
                        await page.open(client.url + path)
                        await page.until("document.querySelector('main h1') && !document.querySelector('main .loading')")
                        answer = await page.command("Page.captureScreenshot", format="webp", quality=60)
                        (folder / f"{name}.{mode}.{scheme}.webp").write_bytes(base64.b64decode(answer["result"]["data"]))
                        taken += 1
    return taken


if __name__ == "__main__":
    sys.stdout.write(f"{asyncio.run(main(Path(sys.argv[1])))} pictures\n")
