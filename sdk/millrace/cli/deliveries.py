"""`deliveries`: the story of every webhook that was admitted."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import show
from millrace.cli.api import Refused
from millrace.cli.ids import whole
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.values import a_value

TAKEN = [
    ("subscription", lambda row: row["name"] or row["subscription"]),
    *map(show.field, ("workflow", "status", "run", "reason")),
    show.moment("retry_at"),
]
# The tables of a story.
PARTS = {
    "events": [*map(show.field, ("number", "type", "id"))],
    "subscriptions": [show.field("event"), *TAKEN],
    "woken": [*map(show.field, ("run", "wait", "event")), show.moment("at")],
    "runs": [("run", lambda row: row["id"]), *map(show.field, ("workflow", "status", "error")), show.moment("ended_at")],
}


@click.group()
def deliveries() -> None:
    """Received webhooks and events, and their runs."""


@deliveries.command("list")
@click.option("--status", help="accepted, deferred, held, routed, filtered, unroutable, dead")
@click.option("--source", help="A source's name or id.")
@click.option("--overdue", is_flag=True, help="Only those that should have an end by now and have none.")
@LIMIT
@asks
def list_deliveries(session: Session, *, limit: int, overdue: bool, **narrowed: str | None) -> None:
    """List deliveries, newest first."""
    columns = [
        show.field("id"),
        show.field("type"),
        show.field("status"),
        show.moment("received_at"),
        ("runs", runs_of),
        show.field("reason"),
    ]
    query = narrowed | ({"overdue": "true"} if overdue else {})
    show.listing(session.api.pages("/deliveries", query=query, limit=limit), columns, is_json=session.is_json)


@deliveries.command("get")
@click.argument("id_", metavar="ID")
@asks
def get_delivery(session: Session, id_: str) -> None:
    """Show one delivery's story: its webhook, what became of each subscription, and how its runs ended."""
    found = session.api.get("/deliveries", whole(session.api, "/deliveries", id_))
    if session.is_json:
        show.document(found)
        return
    parts = {title: found.pop(title, None) for title in PARTS}
    request = found.pop("request", None) or {}
    if (named := found.pop("source_name", None)) is not None:
        found["source"] = f"{named} ({found['source']})"
    show.entity({name: value for name, value in (found | request).items() if value not in (None, [])}, is_json=False)
    for title, columns in PARTS.items():
        if parts[title]:
            show.listing({"items": parts[title], "next_cursor": None}, columns, is_json=False)


@deliveries.command("retry")
@click.argument("id_", metavar="ID")
@click.option("--all", "everything", is_flag=True, help="Also to the subscriptions whose run has succeeded or goes on.")
@click.option("--data", metavar="JSON|@FILE|-", help="Other data for the event, recorded as such; routed to all.")
@click.option("--type", "type_", metavar="TYPE", help="With --data: another type.")
@click.option("--number", type=click.IntRange(0), default=0, help="With --data: which event of several.")
@asks
def retry_delivery(session: Session, id_: str, *, everything: bool, data: str | None, type_: str | None, number: int) -> None:
    """Route a delivery again, with new runs for the subscriptions whose run has not succeeded and does not go on."""
    if data is None and (type_ is not None or number):
        raise click.UsageError("--type and --number go with --data.")
    query = {"all": "true"} if everything else None
    body = (
        None if data is None else {"edit": {"data": a_value(data, "--data"), "number": number} | ({"type": type_} if type_ else {})}
    )
    try:
        answer = session.api.call("POST", "/deliveries", whole(session.api, "/deliveries", id_), "retry", query=query, body=body)
    except Refused as error:
        raise Refused(error.status, {"detail": _as_options(str(error))}) from error
    show.answer(answer, answer["id"], is_json=session.is_json)


def _as_options(detail: str) -> str:
    """Return the API's sentence with the options of this command in place of the API's fields."""
    return detail.replace("all=true", "--all").replace("the edit needs a `type` beside its `data`", "--data needs --type")


def runs_of(delivery: dict[str, Any]) -> str:
    """Return what the runs of a delivery came to, one that was resumed by what resumed it; and the waiting runs that it woke."""
    resumed = {run.get("resumes") for run in delivery["runs"]}
    shown = (run for run in delivery["runs"] if run["id"] not in resumed)
    said = [f"{run['workflow']} {run['status']}{' (resumed)' if run.get('resumes') else ''}" for run in shown]
    return ", ".join([*said, *(f"woke {one['run']}" for one in delivery.get("woken", ()))])


COMMANDS: list[click.Command] = [deliveries]
