"""`deliveries`: the story of every webhook that was admitted."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import show
from millrace.cli.session import Session, asks


@click.group()
def deliveries() -> None:
    """What came in, and what was made of it."""


@deliveries.command("list")
@click.option("--status", help="accepted, routed, filtered, unroutable, dead")
@click.option("--source", help="A source's name or id.")
@click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="At most so many; 0: all.")
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
    """Show one delivery with its runs."""
    show.entity(session.api.get("/deliveries", id_), is_json=session.is_json)


@deliveries.command("retry")
@click.argument("id_", metavar="ID")
@asks
def retry_delivery(session: Session, id_: str) -> None:
    """Route a delivery again, as new events with new runs."""
    show.entity(session.api.call("POST", "/deliveries", id_, "retry"), is_json=session.is_json)


def _runs(delivery: dict[str, Any]) -> str:
    return ", ".join(f"{run['workflow']} {run['status']}" for run in delivery["runs"])


COMMANDS: list[click.Command] = [deliveries]
