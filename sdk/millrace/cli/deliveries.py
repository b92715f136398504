"""`deliveries`: the story of every webhook that was admitted."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import show
from millrace.cli.api import Refused
from millrace.cli.ids import whole
from millrace.cli.session import LIMIT, Session, asks

TAKEN = [
    ("subscription", lambda row: row["name"] or row["subscription"]),
    *map(show.field, ("workflow", "status", "run", "reason")),
]


@click.group()
def deliveries() -> None:
    """Received webhooks and events, and their runs."""


@deliveries.command("list")
@click.option("--status", help="accepted, routed, filtered, unroutable, dead")
@click.option("--source", help="A source's name or id.")
@LIMIT
@asks
def list_deliveries(session: Session, *, limit: int, **narrowed: str | None) -> None:
    """List deliveries, newest first."""
    columns = [
        show.field("id"),
        show.field("type"),
        show.field("status"),
        show.moment("received_at"),
        ("runs", _runs),
        show.field("reason"),
    ]
    show.listing(session.api.pages("/deliveries", query=narrowed, limit=limit), columns, is_json=session.is_json)


@deliveries.command("get")
@click.argument("id_", metavar="ID")
@asks
def get_delivery(session: Session, id_: str) -> None:
    """Show one delivery: what became of each subscription, and its runs."""
    found = session.api.get("/deliveries", whole(session.api, "/deliveries", id_))
    if session.is_json:
        show.document(found)
        return
    taken = found.pop("subscriptions", [])
    show.entity(found, is_json=False)
    if taken:
        show.listing({"items": taken, "next_cursor": None}, TAKEN, is_json=False)


@deliveries.command("retry")
@click.argument("id_", metavar="ID")
@click.option("--all", "everything", is_flag=True, help="Also to the subscriptions whose run has succeeded or goes on.")
@asks
def retry_delivery(session: Session, id_: str, *, everything: bool) -> None:
    """Route a delivery again, with new runs for the subscriptions whose run has not succeeded and does not go on."""
    query = {"all": "true"} if everything else None
    try:
        answer = session.api.call("POST", "/deliveries", whole(session.api, "/deliveries", id_), "retry", query=query)
    except Refused as error:
        raise Refused(error.status, {"detail": str(error).replace("all=true", "--all")}) from error
    show.answer(answer, answer["id"], is_json=session.is_json)


def _runs(delivery: dict[str, Any]) -> str:
    return ", ".join(f"{run['workflow']} {run['status']}" for run in delivery["runs"])


COMMANDS: list[click.Command] = [deliveries]
