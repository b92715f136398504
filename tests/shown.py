"""What the pictures of the console show: an invented company's workflows, and what has come and run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp

from tests.support.client import Client
from tests.support.inside import eventually

SECRET = "sealed"
FILES = {
    "helpdesk.py": b'''"""What is done with tickets of the helpdesk."""

import time

from millrace import log, runs, step, workflow


def fetch(page: int) -> dict:
    time.sleep(0.12 + 0.05 * page)
    log.info("fetched a page", page=page, tickets=20 + page)
    return {"page": page, "tickets": 20 + page}


@workflow
async def sync_tickets(pages: int = 3, full: bool = False) -> dict:
    """Fetch the tickets of the helpdesk, and count those that are open."""
    log.info("syncing", pages=pages, full=full)
    found = [await step(f"fetch-{page}", fetch, page) for page in range(pages)]
    if pages > 3:
        log.warning("the helpdesk is slow", milliseconds=1200)
    log.info("done", tickets=sum(one["tickets"] for one in found))
    return {"pages": pages, "open": sum(one["tickets"] for one in found), "customers": ["acme", "globex", "initech"]}


@workflow
async def sync_everything() -> dict:
    """Sync the tickets, once with few pages and once with all."""
    few = await runs.call("sync_tickets", {"pages": 1})
    everything = await runs.call("sync_tickets", {"pages": 3, "full": True})
    return {"few": few["open"], "all": everything["open"]}
''',
    "billing.py": b'''"""Payments, and giving them back."""

from dataclasses import dataclass

from millrace import ask, log, workflow


@dataclass
class Refund:
    """What is given back.

    Args:
        amount: In euros.
        reason: What the customer is told.
    """

    amount: int
    reason: str = ""


class CardDeclined(Exception):
    """The bank has said no."""


def bank(amount: int, card: str) -> str:
    log.debug("asking the bank", amount=amount)
    if amount > 100:
        log.error("declined", amount=amount, code="insufficient_funds")
        raise CardDeclined(f"{amount} EUR on the card that ends in {card}: insufficient funds")
    return f"ch_{amount}"


@workflow
def charge_card(amount: int, customer: str = "acme", card: str = "4242") -> dict:
    """Charge the card of a customer."""
    log.info("charging", customer=customer, amount=amount)
    charge = bank(amount, card)
    log.info("charged", charge=charge)
    return {"charge": charge, "amount": amount, "currency": "EUR"}


@workflow
async def refund(order: str, amount: int) -> str:
    """Give money back, once somebody of finance has agreed."""
    answer = await ask(f"Refund {amount} EUR for order {order}?", form=Refund, to=["operator"])
    return "refunded" if answer.approved else "kept"
''',
    "people.py": b'''"""What a new colleague needs."""

from millrace import ask, log, wait_for, workflow


@workflow
async def onboard(name: str, team: str = "engineering") -> dict:
    """Prepare everything for a new colleague."""
    log.info("preparing", name=name, team=team)
    answer = await ask(f"Give {name} of {team} an account?", to=["admin"])
    if answer.approved:
        log.info("account made", name=name)
    return {"name": name, "account": answer.approved}


@workflow
async def laptop(name: str) -> str:
    """Order a laptop, and wait until it has come."""
    log.info("ordered", name=name, model="X1")
    await wait_for("delivered", timeout=7 * 86400)
    return f"{name} has a laptop"
''',
    "repository.py": b'''"""What happens in the repository."""

from millrace import log, workflow


@workflow
async def on_push(event: dict) -> dict:
    """Build what was pushed."""
    push = event["data"]
    log.info("building", ref=push["ref"], commits=len(push["commits"]))
    return {"ref": push["ref"], "image": f"registry.example/shop:{push['after'][:7]}"}


@workflow
async def triage(event: dict) -> str:
    """Put a label on a new issue."""
    title = event["data"]["issue"]["title"]
    if "?" in title:
        raise LookupError(f"no label fits {title!r}")
    log.info("labelled", title=title, label="bug")
    return "bug"
''',
    "orders.py": b'''"""Orders of the shop."""

from millrace import log, wait_for_event, workflow


@workflow
async def ship(order: str) -> str:
    """Send an order, once it has been paid."""
    log.info("packed", order=order)
    await wait_for_event("order.paid", source="shop", where="event.data.order == order")
    return f"{order} is on its way"
''',
    "reports.py": b'''"""Figures of the week."""

import os
import time

from millrace import log, workflow


@workflow(timeout=1)
def weekly_report() -> None:
    """Add up the week."""
    log.info("reading the ledger", rows=1_200_000)
    time.sleep(30)


@workflow
def thumbnails() -> None:
    """Make small pictures of large ones."""
    log.info("decoding", file="poster.tiff")
    os._exit(137)


@workflow(timeout=3600)
def rebuild_index(seconds: int = 900) -> None:
    """Read all documents once more."""
    for number in range(seconds):
        log.info("read", documents=250 * number)
        time.sleep(20)
''',
    "exports.py": b'''"""Exports for the accountant."""

from millrace import workflow


@workflow
def export_invoices(month: str = "2026-01" -> str:
    """Write the invoices of a month as CSV."""
    return month
''',
}
RESOURCES: dict[str, dict[str, Any]] = {
    "sources/shop": {"adapter": "none", "settings": {"event_path": "kind"}},
    "sources/statuspage": {"adapter": "none", "settings": {}, "enabled": False},
    "subscriptions/pushes": {
        "source": "github",
        "event": "push",
        "workflow": "on_push",
        "filter": "event.data.ref == 'refs/heads/main'",
    },
    "subscriptions/issues": {"source": "github", "event": "issues.*", "workflow": "triage"},
    "schedules/nightly": {
        "cron": "0 3 * * *",
        "timezone": "Europe/Vienna",
        "workflow": "sync_tickets",
        "input": {"pages": 3, "full": True},
    },
    "schedules/often": {"every": 1800, "workflow": "sync_tickets", "input": {"pages": 1}},
    "schedules/weekly": {"cron": "30 7 * * MON", "timezone": "Europe/Vienna", "workflow": "sync_everything"},
    "schedules/monthly": {"cron": "0 6 1 * *", "workflow": "weekly_report", "enabled": False},
    "searches/errors": {"q": "level:>=error", "alert_above": 10},
    "searches/slow": {"q": "level:warning workflow:sync_tickets"},
    "variables/region": {"value": "eu-central"},
    "variables/currency": {"value": "EUR"},
    "secrets/bank": {"value": SECRET},
    "secrets/helpdesk": {"value": SECRET},
    "connections/helpdesk": {"grant": "token", "token": SECRET, "base_url": "https://helpdesk.example"},
    "connections/bank": {"grant": "token", "token": SECRET, "base_url": "https://bank.example"},
    "integrations/helpdesk": {
        "description": "Tickets of each customer",
        "config_schema": {"type": "object", "properties": {"subdomain": {"type": "string"}}},
    },
    "forms/refund": {"workflow": "refund", "title": "Give money back", "access": "role"},
    "forms/onboard": {"workflow": "onboard", "title": "A new colleague", "access": "link"},
    "keys/ci": {"role": "operator", "scopes": ["runs"]},
    "orgs/warehouse": {"display_name": "Warehouse", "runs_a_day": 10_000},
    "keys/grafana": {"role": "viewer"},
}
PEOPLE = {"grace": ("Grace Hopper", "developer"), "alan": ("Alan Turing", "operator")}


async def filled(client: Client, outside: aiohttp.ClientSession) -> dict[str, str]:
    """Give a stack something to show; return the addresses of what was made, by names."""
    for path, code in FILES.items():
        await client.put_file(path, code)
    hub = await client.call("PUT", "/api/v1/sources/github", body={"adapter": "github", "settings": {"secret": SECRET}})
    made = {path: await client.call("PUT", f"/api/v1/{path}", body=body) for path, body in RESOURCES.items()}
    for name, (display, role) in PEOPLE.items():
        body = {"display_name": display, "email": f"{name}@shop.example", "roles": {"default": role}}
        await client.call("PUT", f"/api/v1/users/{name}", body=body)
    invited = {"role": "viewer", "name": "mary", "display_name": "Mary Shelley", "email": "mary@shop.example"}
    await client.call("POST", "/api/v1/orgs/default/invitations", body=invited)
    ids = await started(client)
    ids |= await delivered(client, hub["url"], partial(outside.post, made["sources/shop"]["url"]))
    return ids


async def started(client: Client) -> dict[str, str]:
    """Have runs of every status."""

    async def run(workflow: str, wait: int = 30, **given: Any) -> Any:
        path = f"/api/v1/workflows/{workflow}/runs" + (f"?wait={wait}" if wait else "")
        return await client.call("POST", path, body={"input": given})

    await asyncio.gather(*(run("sync_tickets", pages=1 + number % 4) for number in range(6)))
    for number, customer in enumerate(("acme", "globex", "initech", "umbrella", "acme", "hooli")):
        await run("charge_card", amount=20 + 23 * number, customer=customer)
    await asyncio.gather(run("weekly_report"), run("thumbnails"), run("sync_everything", wait=60))
    cancelled = await run("laptop", 0, name="Edsger")
    await client.run(cancelled["id"], "waiting")
    await client.call("POST", f"/api/v1/runs/{cancelled['id']}/cancel")
    await client.run(cancelled["id"], "cancelled")
    waiting = [await run(name, 0, **given) for name, given in WAITING]
    for one in waiting:
        await client.run(one["id"], "waiting")
    going = await run("rebuild_index", 0)
    await client.run(going["id"], "running")
    failed = await run("charge_card", amount=210, customer="hooli", card="0119")
    good = await run("sync_tickets", pages=4)
    parent = (await client.call("GET", "/api/v1/runs?workflow=sync_everything"))["items"][0]

    async def asked() -> Any:
        found = await client.available("/api/v1/approvals?status=open")
        return found and len(found["items"]) == 3 and found["items"]

    questions: Any = await eventually(asked)
    approval = next(one for one in questions if one["run"] == waiting[1]["id"])
    runs = {"run": good, "failed": failed, "waiting": waiting[0], "running": going, "parent": parent}
    return {name: f"runs/{one['id']}" for name, one in runs.items()} | {"approval": f"approvals/{approval['id']}"}


WAITING: tuple[tuple[str, dict[str, Any]], ...] = (
    ("onboard", {"name": "Barbara Liskov"}),
    ("refund", {"order": "A-1042", "amount": 80}),
    ("refund", {"order": "A-1077", "amount": 240}),
    ("laptop", {"name": "Barbara Liskov"}),
    ("ship", {"order": "A-1042"}),
)
ISSUES = ("Checkout is slow", "Cannot sign in with a passkey", "Why is the sky blue?", "Prices are off by one cent")


async def delivered(client: Client, github: str, shop: Callable[..., Any]) -> dict[str, str]:
    """Have deliveries of every outcome, and dead letters."""
    repository = {"full_name": "shop/website", "private": True, "default_branch": "main"}

    def push(ref: str, number: int) -> bytes:
        texts = ("Keep the cart when the session ends", "Test it")
        commits = [{"id": f"{number}{n}" * 20, "message": text, "author": {"name": "Grace"}} for n, text in enumerate(texts)]
        whole = {"ref": ref, "after": commits[-1]["id"], "repository": repository, "commits": commits, "pusher": {"name": "grace"}}
        return json.dumps(whole).encode()

    for number, ref in enumerate(("main", "main", "cart-redesign", "main", "passkeys")):
        await client.github(github, SECRET, push(f"refs/heads/{ref}", number))
    for number, title in enumerate(ISSUES):
        issue = {"action": "opened", "issue": {"number": 100 + number, "title": title}, "repository": repository}
        await client.github(github, SECRET, json.dumps(issue).encode(), event="issues")
    watch = {"action": "started", "repository": repository}
    await client.github(github, SECRET, json.dumps(watch).encode(), event="watch")
    for body in ({"kind": "order.paid", "order": "A-1042"}, {"order": "A-1077"}, {"order": "A-1078", "total": "19.90"}):
        async with shop(json=body) as response:
            assert response.status == 202, await response.text()
    _, sent = await client.github(github, SECRET, push("refs/heads/main", 7))
    await client.delivery(sent["id"], "routed")

    async def buried() -> Any:
        found = await client.available("/api/v1/dead-letters?status=open")
        return found and len(found["items"]) == 2 and found["items"]

    letters: Any = await eventually(buried)
    # Somebody has mended what labels issues, and the run that failed by it goes on.
    mended = FILES["repository.py"].replace(b'raise LookupError(f"no label fits {title!r}")', b'return "question"')
    await client.put_file("repository.py", mended)

    async def resumable() -> Any:
        found = await client.available("/api/v1/runs?workflow=triage&status=failed")
        return found and found["items"]

    broken: Any = await eventually(resumable)
    resumed = await client.call("POST", f"/api/v1/runs/{broken[0]['id']}/resume", body={"version": "latest"})
    await client.run(resumed["id"], "succeeded")
    return {"delivery": f"deliveries/{sent['id']}", "dead-letter": f"dead-letters/{letters[0]['id']}"}
