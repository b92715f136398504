"""`replays`: many deliveries that are routed again, by filter and time, at a rate."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import click

from millrace.cli import show
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.times import moment, understood

PATH = "/replays"
ASKED_EVERY = 0.5
COLUMNS = [
    show.field("id"),
    show.field("status"),
    ("progress", lambda row: f"{row['replayed'] + row['skipped'] + row['failed']} of {row['total']}"),
    *map(show.field, ("replayed", "skipped", "failed", "rate")),
    show.moment("requested_at"),
    show.moment("ended_at"),
]


@click.group()
def replays() -> None:
    """Many deliveries that are routed again."""


@replays.command("start")
@click.option("--since", required=True, metavar="TIME", help="Those received from then on: `1h`, or a time.")
@click.option("--until", metavar="TIME", help="Those received before then, else before now.")
@click.option("--source", help="A source's name or id.")
@click.option("--status", help="accepted, deferred, held, routed, filtered, unroutable, dead")
@click.option("--type", "type_", metavar="TYPE", help="The type of the event.")
@click.option("--all", "everything", is_flag=True, help="Also to the subscriptions whose run has succeeded or goes on.")
@click.option("--rate", type=click.FloatRange(0.01, 500), default=10.0, show_default=True, help="Deliveries a second.")
@click.option("--wait", is_flag=True, help="Return when it has ended.")
@asks
def start_replay(
    session: Session,
    *,
    since: str,
    until: str | None,
    source: str | None,
    status: str | None,
    type_: str | None,
    everything: bool,
    rate: float,
    wait: bool,
) -> None:
    """Route many deliveries again, oldest first, at a rate."""
    narrowed = {"until": _time(until, "--until"), "source": source, "status": status, "type": type_}
    given = {"since": _time(since, "--since"), "all": everything, "rate": rate}
    body = given | {name: value for name, value in narrowed.items() if value is not None}
    replay: dict[str, Any] = session.api.call("POST", "/deliveries", "replay", body=body)
    while wait and replay["status"] == "running":
        time.sleep(ASKED_EVERY)
        replay = session.api.get(PATH, replay["id"])
    if session.is_json or not wait:
        show.answer(replay, replay["id"], is_json=session.is_json)
    else:
        show.listing({"items": [replay], "next_cursor": None}, COLUMNS, is_json=False)


@replays.command("list")
@LIMIT
@asks
def list_replays(session: Session, *, limit: int) -> None:
    """List replays, newest first, with their progress."""
    show.listing(session.api.pages(PATH, limit=limit), COLUMNS, is_json=session.is_json)


@replays.command("get")
@click.argument("id_", metavar="ID")
@asks
def get_replay(session: Session, id_: str) -> None:
    """Show how far a replay is."""
    show.entity(session.api.get(PATH, id_), is_json=session.is_json)


@replays.command("cancel")
@click.argument("id_", metavar="ID")
@asks
def cancel_replay(session: Session, id_: str) -> None:
    """Route no more deliveries of a replay again."""
    answer = session.api.call("POST", PATH, id_, "cancel")
    show.answer(answer, answer["id"], is_json=session.is_json)


def _time(text: str | None, option: str) -> str | None:
    return understood(moment(text, datetime.now(UTC)), option, "1h for an hour ago")


COMMANDS: list[click.Command] = [replays]
