"""`runs why`: the causes and effects of a run, as a tree."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from millrace.cli import show
from millrace.cli.ids import whole
from millrace.cli.lines import written
from millrace.cli.session import Session, asks
from millrace.cli.workspace import ending

Node = dict[str, Any]
_LEVELS = {"failed": "error", "timed_out": "error", "crashed": "error", "cancelled": "warning", "expired": "warning"}


@click.command("why")
@click.argument("id_", metavar="ID")
@click.option(
    "--limit", type=click.IntRange(1, 2000), default=1000, show_default=True, help="At most so many messages are looked at."
)
@asks
def why(session: Session, id_: str, *, limit: int) -> None:
    """Show why there is this run: each thing under the one that caused it; those that led to the run have a `*`."""
    run = whole(session.api, "/runs", id_)
    found = session.api.get("/runs", run, "why", query={"limit": limit})
    if session.is_json:
        show.document(found)
        return
    for node, text in drawn(found["items"]):
        level = "warning" if node["type"] == "unroutable" else _LEVELS.get(node["status"] or "", "info")
        show.said(show.plain(text), level)
    if not found["path"]:
        show.aside("what asked for this run is not among these: the archive has not got it yet, or no longer", "warning")
    if found["cut"]:
        show.aside(f"the first {limit} messages of the chain; there are more: --limit N")
    if found.get("status"):
        _tell_end(found)
    else:
        waiting = session.api.get("/runs", run)
        if waiting.get("blocked_on"):
            show.said(ending(waiting), "warning")
            for wait in waiting.get("waits", ()):
                show.said(show.plain(_awaited(wait)), "warning")


def _tell_end(found: Node) -> None:
    """Print how a run ended that did not end well: its last lines, then the error."""
    for line in found["lines"]:
        show.said(written({"line": line}), line["level"])
    reason = f" ({found['reason']})" if found["reason"] else ""
    show.said(show.plain(f"{found['run']} {found['status']}{reason}"), _LEVELS.get(found["status"], "error"))
    if found["error"]:
        show.said(error_of(found["error"]), "error")


def _awaited(wait: Node) -> str:
    until = f", until {wait['until']}" if wait.get("until") else ""
    values = f" for {show.compact(wait['values'])}" if wait.get("values") else ""
    where = f" where {wait['where']}{values}" if wait.get("where") else ""
    return f"  {wait['kind']} {wait['name']}{where}{until}"


def error_of(error: Node) -> str:
    """Return an error as people read it: with the author's frames where there are any."""
    return show.plain((error.get("traceback") or "").rstrip() or f"{error['type']}: {error['message']}")


def drawn(roots: list[Node]) -> Iterator[tuple[Node, str]]:
    """Yield each thing with its line of the tree: when, how long after its cause, what, and for a run how it goes."""
    left: list[tuple[Node, Node | None, str, str]] = [(root, None, "", "") for root in reversed(roots)]
    while left:
        node, cause, before, below = left.pop()
        mark = "*" if node["leads_here"] else " "
        said = " ".join(part for part in (node["type"], node["id"], node["status"], f" {node['what']}") if part)
        yield node, f"{node['time'][11:23]} {_since(node, cause):>10} {mark} {before}{said}"
        last = len(node["led_to"]) - 1
        left.extend(
            (one, node, below + ("└ " if number == last else "├ "), below + ("  " if number == last else "│ "))
            for number, one in reversed(list(enumerate(node["led_to"])))
        )


def _since(node: Node, cause: Node | None) -> str:
    if cause is None:
        return ""
    passed = datetime.fromisoformat(node["time"]) - datetime.fromisoformat(cause["time"])
    return f"+{show.milliseconds(max(0.0, passed.total_seconds() * 1000))}"
