"""`run` and `runs`: asking for runs, and looking at them."""

from __future__ import annotations

import math
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.api import Api, Unreachable
from millrace.cli.ids import whole
from millrace.cli.lines import lines_of, written
from millrace.cli.many import COMMANDS as MANY
from millrace.cli.recorded import COMMANDS as RECORDED
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.stream import followed
from millrace.cli.times import ahead, moment, understood
from millrace.cli.values import an_object, pairs
from millrace.cli.why import error_of, why
from millrace.cli.workspace import ending

# Seconds: the longest that the API waits in one request.
LONGEST_WAIT = 60.0
# Columns of a list of runs.
COLUMNS = [
    show.field("id"),
    show.field("workflow"),
    show.field("status"),
    show.field("reason"),
    show.field("blocked_on"),
    show.field("attempt"),
    show.moment("requested_at"),
    ("took", lambda run: show.milliseconds(run["duration_ms"])),
]


@click.command()
@click.argument("workflow")
@click.option(
    "-i",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="One input; a number or JSON where the workflow takes that. Repeatable.",
)
@click.option("--input", "whole", metavar="JSON|@FILE|-", help="The whole input as a JSON object; -i adds to it.")
@click.option("--timeout", type=float, help="Seconds, instead of the workflow's own.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]))
@click.option("--at", "run_at", metavar="TIME", help="Begin then: `+1h` from now, or RFC 3339.")
@click.option("--deadline", type=float, metavar="SECONDS", help="Expire when it has not begun so long after that, or after now.")
@click.option("--concurrency-key", help="Take turns with the runs of this key, instead of the workflow's own.")
@click.option("--key", help="The same key, the same run: a script that is run again starts nothing twice.")
@click.option(
    "--wait",
    is_flag=False,
    flag_value=math.inf,
    default=None,
    type=click.FloatRange(min=0),
    metavar="[SECONDS]",
    help="Wait for the end, for so long or for ever.",
)
@click.option("--logs", is_flag=True, help="Show the run's lines on standard error while waiting; without --wait, to the end.")
@asks
def run(
    session: Session,
    workflow: str,
    *,
    given: tuple[str, ...],
    whole: str | None,
    wait: float | None,
    logs: bool,
    key: str | None,
    run_at: str | None,
    **asked: float | str | None,
) -> int:
    """Start a run. Prints its id, or, having waited, its result.

    The exit code is how it ended: 0 succeeded, 10 failed, 11 timed out, 12 crashed, 13 cancelled, 14 expired; 15 when the wait was
    over first.
    """
    body: dict[str, Any] = {"input": an_object(whole, "--input") if whole is not None else {}}
    if given:
        schema = session.api.get("/workflows", workflow)["input_schema"]
        body["input"] |= pairs(given, schema, "-i")
    body |= {name: value for name, value in asked.items() if value is not None}
    if run_at is not None:
        body["run_at"] = understood(ahead(run_at, datetime.now(UTC)), "--at", "+1h (from now)")
    seconds = (math.inf if logs else 0.0) if wait is None else wait
    began = time.monotonic()
    query = {"wait": 0 if logs else min(seconds, LONGEST_WAIT)}
    started = _started(session.api, workflow, query, body, key or str(uuid.uuid4()))
    if not seconds:
        show.answer(started, started["id"], is_json=session.is_json)
        return codes.DONE
    if "finished_at" not in started:
        shown = (lambda item: show.aside(written(item), item["line"]["level"])) if logs else None
        started = followed(session.api, started["id"], began + seconds, shown)
    _tell(session, started)
    return codes.of_run(started)


@click.group()
def runs() -> None:
    """Runs: what ran, what came of it, what it said."""


@runs.command("list")
@click.option("--status", help="queued, running, succeeded, failed, timed_out, cancelled, crashed, …")
@click.option("--workflow", help="Only of this workflow.")
@click.option("--since", metavar="TIME", help="Requested then or later: `1h` ago, or RFC 3339.")
@click.option("--until", metavar="TIME", help="Requested then or earlier.")
@LIMIT
@asks
def list_runs(session: Session, *, limit: int, since: str | None, until: str | None, **narrowed: str | None) -> None:
    """List runs, newest first."""
    now = datetime.now(UTC)
    narrowed |= {
        name: understood(moment(given, now), f"--{name}", "1h (ago)") for name, given in (("since", since), ("until", until))
    }
    show.listing(session.api.pages("/runs", query=narrowed, limit=limit), COLUMNS, is_json=session.is_json)


@runs.command("get")
@click.argument("id_", metavar="ID")
@asks
def get_run(session: Session, id_: str) -> None:
    """Show one run with its result or its error."""
    found = session.api.get("/runs", whole(session.api, "/runs", id_))
    if session.is_json:
        show.document(found)
        return
    error = found.pop("error")
    show.entity(found, is_json=False)
    if error:
        show.said(error_of(error), "error")


@runs.command("result")
@click.argument("id_", metavar="ID")
@asks
def run_result(session: Session, id_: str) -> None:
    """Print the result of a run that succeeded, however large, as the JSON that it is."""
    for part in session.api.parts("/runs", whole(session.api, "/runs", id_), "result"):
        click.echo(part, nl=False)
    click.echo()


@runs.command("artifacts")
@click.argument("id_", metavar="ID")
@click.argument("path", required=False)
@LIMIT
@asks
def run_artifacts(session: Session, id_: str, path: str | None, limit: int) -> None:
    """List the files that a run has left, or print the one at PATH."""
    where = ("/runs", whole(session.api, "/runs", id_), "artifacts")
    if path is None:
        columns = [show.field("path"), show.field("size"), show.moment("updated_at")]
        show.listing(session.api.pages(*where, limit=limit), columns, is_json=session.is_json)
        return
    for part in session.api.parts(*where, *path.split("/")):
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


@runs.command("logs")
@click.argument("id_", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@asks
def run_logs(session: Session, id_: str, *, follow: bool) -> None:
    """Print what a run logged and printed."""
    id_ = whole(session.api, "/runs", id_)
    if follow:
        followed(session.api, id_, math.inf, lambda item: _line(session, item))
        return
    items = list(lines_of(session.api, id_))
    if session.is_json:
        show.document({"items": items, "next_cursor": None})
        return
    for item in items:
        _line(session, item)


for _command in (why, *RECORDED, *MANY):
    runs.add_command(_command)


def _started(api: Api, workflow: str, query: dict[str, float], body: dict[str, Any], key: str) -> dict[str, Any]:
    """Ask for a run; once more when the answer was lost, which the key makes the same run."""
    headers = {"Idempotency-Key": key}
    try:
        return dict(api.call("POST", "/workflows", workflow, "runs", query=query, body=body, headers=headers))
    except Unreachable:
        return dict(api.call("POST", "/workflows", workflow, "runs", query=query, body=body, headers=headers))


def _tell(session: Session, ended: dict[str, Any]) -> None:
    if session.is_json:
        show.document(ended)
        return
    show.aside(ending(ended), "info" if ended["status"] == "succeeded" else "error")
    error = ended.get("error")
    if error:
        show.aside(error_of(error), "error")
    if ended["status"] == "succeeded":
        if ended.get("result_ref") is None:
            show.document(ended["result"])
        else:
            show.aside(f"its result has {ended['result_bytes']} bytes: `millrace runs result {ended['id']}` prints it")


def _line(session: Session, item: dict[str, Any]) -> None:
    if session.is_json:
        show.line(item)
    else:
        show.said(written(item), item["line"]["level"])


COMMANDS: list[click.Command] = [run, runs]
