"""`approvals`: what runs ask people."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import show
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.values import a_value

STATUSES = click.Choice(["open", "approved", "refused", "timed_out", "withdrawn", "all"])
COLUMNS = [
    show.field("id"),
    show.field("status"),
    show.field("workflow"),
    ("to", lambda row: ", ".join(row["to"])),
    show.moment("opened_at"),
    show.moment("until"),
    ("prompt", lambda row: show.plain(row["prompt"])[:80]),
]


@click.group()
def approvals() -> None:
    """What runs ask people."""


@approvals.command("list")
@click.option("--status", type=STATUSES, default="open", show_default=True, help="Those in this state.")
@click.option("--to", metavar="NAME", help="Those asked of this role, user or name.")
@LIMIT
@asks
def list_approvals(session: Session, status: str, to: str | None, limit: int) -> None:
    """List questions, newest first: those without an answer, unless another status is asked for."""
    query: dict[str, Any] = ({} if status == "all" else {"status": status}) | ({} if to is None else {"to": to})
    show.listing(session.api.pages("/approvals", query=query, limit=limit), COLUMNS, is_json=session.is_json)


@approvals.command("get")
@click.argument("id_", metavar="ID")
@asks
def get_approval(session: Session, id_: str) -> None:
    """Show one question, its form, and its answer once there is one."""
    found = session.api.get("/approvals", id_)
    told = found if session.is_json else {name: value for name, value in found.items() if value not in (None, "", [])}
    show.entity(told, is_json=session.is_json)


@approvals.command("answer")
@click.argument("id_", metavar="ID")
@click.argument("decision", type=click.Choice(["approve", "refuse"]))
@click.option("--data", metavar="JSON|@FILE|-", help="What the form is filled in with.")
@click.option("--comment", default="", help="A sentence or two, which the run gets as well.")
@asks
def answer(session: Session, id_: str, decision: str, *, data: str | None, comment: str) -> None:
    """Answer a question, once and for good."""
    body = {"decision": decision, "comment": comment} | ({} if data is None else {"data": a_value(data, "--data")})
    found = session.api.call("POST", "/approvals", id_, body=body)
    show.answer(found, f"{found['id']} {found['status']}", is_json=session.is_json)


@approvals.command("link")
@click.argument("id_", metavar="ID")
@click.argument("name")
@asks
def link(session: Session, id_: str, name: str) -> None:
    """Make a link by which NAME answers a question without an account, once. It is a secret."""
    made = session.api.call("POST", "/approvals", id_, "links", body={"name": name})
    show.answer(made, made["url"], is_json=session.is_json)


COMMANDS: list[click.Command] = [approvals]
