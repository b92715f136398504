"""`runs attempts`, `runs steps`, `runs signal`: what a run did so far, and the answer that it waits for."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import show
from millrace.cli.ids import whole
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.values import a_value

ATTEMPTS = [
    show.field("attempt"),
    show.field("status"),
    show.field("reason"),
    show.moment("started_at"),
    ("took", lambda attempt: show.milliseconds(attempt["duration_ms"])),
    ("error", lambda attempt: attempt["error"] and f"{attempt['error']['type']}: {attempt['error']['message']}"),
]
STEPS = [
    show.field("kind"),
    show.field("name"),
    show.field("ordinal"),
    ("attempt", lambda step: step["attempt"] or "taken over"),
    show.moment("completed_at"),
    show.field("bytes"),
    ("result", lambda step: _how(step) or show.compact(step["result"])[:200]),
]


def _how(step: dict[str, Any]) -> str | None:
    """Return how a wait ended that has no result."""
    return "timed out" if step["timed_out"] else "given up" if step.get("given_up") else None


@click.command("attempts")
@click.argument("id_", metavar="ID")
@LIMIT
@asks
def attempts(session: Session, id_: str, *, limit: int) -> None:
    """List the attempts of a run, the first one first."""
    show.listing(
        session.api.pages("/runs", whole(session.api, "/runs", id_), "attempts", limit=limit), ATTEMPTS, is_json=session.is_json
    )


@click.command("steps")
@click.argument("id_", metavar="ID")
@click.option("--results/--no-results", default=True, help="With the results, or only their sizes.")
@LIMIT
@asks
def steps(session: Session, id_: str, *, results: bool, limit: int) -> None:
    """List what is recorded of a run: steps that are done, waits that are over."""
    query = {"results": "true" if results else "false"}
    page = session.api.pages("/runs", whole(session.api, "/runs", id_), "steps", query=query, limit=limit)
    show.listing(page, STEPS if results else STEPS[:-1], is_json=session.is_json)


@click.command("signal")
@click.argument("id_", metavar="ID")
@click.argument("name")
@click.option("--data", metavar="JSON|@FILE|-", help="What the run is told; nothing: null.")
@asks
def signal(session: Session, id_: str, name: str, *, data: str | None) -> None:
    """Answer a `wait_for` of a run, now or before it comes to it."""
    given = None if data is None else a_value(data, "--data")
    answer = session.api.call("POST", "/runs", whole(session.api, "/runs", id_), "signals", name, body=given)
    show.answer(answer, f"{answer['run']} {show.plain(answer['name'])}", is_json=session.is_json)


COMMANDS: list[click.Command] = [attempts, steps, signal]
