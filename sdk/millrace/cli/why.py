"""`runs why`: what led to a run and what came of it, as a tree of causes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from millrace.cli import show
from millrace.cli.session import Session, asks

Row = dict[str, Any]
# How far before a run its chain is looked for, where the chain's id does not say when it began.
BEFORE = timedelta(days=1)
# Clocks of two machines differ; a row of a chain may look older than the chain.
SLACK = timedelta(minutes=5)


@click.command("why")
@click.argument("id_", metavar="ID")
@click.option("--limit", type=click.IntRange(0), default=1000, show_default=True, help="At most so many messages; 0: all.")
@asks
def why(session: Session, id_: str, *, limit: int) -> None:
    """Show why there is this run: each message of its chain under the one that caused it; those that led to the run have a `*`."""
    run = session.api.get("/runs", id_)
    query = {"q": f"correlation_id:{run['correlation_id']}", "from": _text(beginning(run)), "order": "asc"}
    page = session.api.pages("/logs", query=query, limit=limit)
    path = path_to(run["id"], page["items"])
    if session.is_json:
        show.document({"run": run["id"], "path": path, **page})
        return
    by = f", requested by {show.plain(run['requested_by'])}" if run.get("requested_by") else ""
    show.said(f"run {run['id']} {show.plain(run['workflow'])} {run['status']}{by}")
    for row, text in drawn(page["items"], set(path)):
        show.said(show.plain(text), row["level"])
    if not path:
        show.aside("what asked for this run is not among these messages: the archive has not got it yet, or no longer", "warning")
    if page["next_cursor"] is not None:
        show.aside(f"the first {len(page['items'])}; there are more: --limit N, 0 for all")


def beginning(run: Row) -> datetime:
    """Return a time before which nothing of a run's chain happened. A chain's id is its first message's, which holds the time."""
    requested = datetime.fromisoformat(run["requested_at"])
    try:
        id_ = uuid.UUID(run["correlation_id"])
        began = datetime.fromtimestamp((id_.int >> 80) / 1000, UTC) if id_.version == 7 else requested - BEFORE
    except ValueError:
        began = requested - BEFORE
    return min(began, requested) - SLACK


def path_to(run: str, rows: list[Row]) -> list[str]:
    """Return the ids of the messages that led to a run, from the chain's first to the request; empty where that is not there."""
    by_id = {row["id"]: row for row in rows}
    row = next((row for row in rows if row["run"] == run and row["type"] == "run.requested"), None)
    path: list[str] = []
    while row is not None and row["id"] not in path:
        path.insert(0, row["id"])
        row = by_id.get(row["causation_id"] or "")
    return path


def drawn(rows: list[Row], path: set[str]) -> Iterator[tuple[Row, str]]:
    """Yield each row with its line of the tree, causes above what they caused, in the order of time."""
    rows = sorted(rows, key=lambda row: row["time"])
    by_id = {row["id"]: row for row in rows}
    caused: dict[str, list[Row]] = {}
    for row in rows:
        cause = row["causation_id"]
        caused.setdefault(cause if cause in by_id and cause != row["id"] else "", []).append(row)
    left = [(row, "", "") for row in reversed(caused.pop("", []))]
    while left:
        row, before, below = left.pop()
        mark = "*" if row["id"] in path else " "
        since = _since(row, by_id.get(row["causation_id"] or ""))
        yield row, f"{row['time'][11:23]} {since:>10} {mark} {before}{row['type']}  {row['message']}".rstrip()
        children = caused.pop(row["id"], [])
        last = len(children) - 1
        left.extend(
            (child, below + ("└ " if number == last else "├ "), below + ("  " if number == last else "│ "))
            for number, child in reversed(list(enumerate(children)))
        )


def _since(row: Row, cause: Row | None) -> str:
    if cause is None:
        return ""
    passed = datetime.fromisoformat(row["time"]) - datetime.fromisoformat(cause["time"])
    return f"+{show.milliseconds(max(0.0, passed.total_seconds() * 1000))}"


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
