"""`runs cancel`, `rerun`, `resume`: for one run, or for all that a query finds, at a rate."""

from __future__ import annotations

import shlex
import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from millrace.cli import codes, show
from millrace.cli.api import TOO_MANY, Refused, Unreachable
from millrace.cli.ids import whole
from millrace.cli.session import Session, asks
from millrace.cli.times import moment, understood
from millrace.cli.values import an_object

F = TypeVar("F", bound=Callable[..., Any])

FIELDS = ("workflow", "status", "since", "until", "id")
CONFLICT = 409
# Times that one run is asked for while a part of the other side is away, and seconds between them.
TRIES, PAUSE = 10, 1.0
COLUMNS = [show.field(name) for name in ("id", "outcome", "run", "detail")]
FOUND = [*map(show.field, ("id", "workflow", "status", "reason")), show.moment("requested_at")]

_OPTIONS = [
    click.argument("id_", metavar="[ID]", required=False),
    click.option(
        "--query",
        metavar="'FIELD:VALUE …'",
        help="All runs that it finds: workflow, status (several with commas), since and until (`2h` ago, or RFC 3339), id.",
    ),
    click.option("--dry-run", is_flag=True, help="Only list the runs that would be meant."),
    click.option("--rate", type=click.FloatRange(0.01, 1000), default=20.0, show_default=True, help="Runs a second."),
]


def one_or_many(command: F) -> F:
    """Give the command below the options that say which runs are meant."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return asks(command)


@click.command("cancel")
@one_or_many
def cancel_run(session: Session, **which: Any) -> int:
    """Ask a run to stop, or all that a query finds."""
    return _each(session, "cancel", {}, **which)


@click.command("rerun")
@click.option("--key", help="The same key, the same new runs: a command that is given again starts nothing twice.")
@one_or_many
def rerun_run(session: Session, *, key: str | None, **which: Any) -> int:
    """Start a new run with the same input, of the workflow as it is now; or one for each that a query finds."""
    key = key or str(uuid.uuid4())
    return _each(session, "rerun", {"headers": {"Idempotency-Key": key}}, **which)


@click.command("resume")
@click.option("--version", type=click.Choice(["latest", "same"]), default="latest", help="The workflow as it is now, or as it was.")
@click.option("--forget", multiple=True, metavar="NAME", help="A step or wait that is to be done again. Repeatable.")
@click.option("--input", "changes", metavar="JSON|@FILE|-", help="Changes of the input: a JSON merge patch.")
@one_or_many
def resume_run(session: Session, *, version: str, forget: tuple[str, ...], changes: str | None, **which: Any) -> int:
    """Go on with a run that failed, in a new one that repeats no step that is done; or with all that a query finds."""
    body = {"version": version, "forget": list(forget), "input": {} if changes is None else an_object(changes, "--input")}
    return _each(session, "resume", {"body": body}, **which)


def _each(
    session: Session,
    verb: str,
    given: dict[str, Any],
    *,
    id_: str | None,
    query: str | None,
    dry_run: bool,
    rate: float,
) -> int:
    if (id_ is None) == (query is None):
        raise click.UsageError("Name one run by its ID, or several by --query.")
    if query is None:
        answer = session.api.call("POST", "/runs", whole(session.api, "/runs", str(id_)), verb, **given)
        show.answer(answer, f"{answer['id']} {answer['status']}", is_json=session.is_json)
        return codes.DONE
    runs = found(session, query)
    if dry_run:
        show.listing({"items": runs, "next_cursor": None}, FOUND, is_json=session.is_json)
        show.aside(f"{show.counted(len(runs), 'run')} would be meant; nothing was done")
        return codes.DONE
    done = []
    began = time.monotonic()
    for number, run in enumerate(runs):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        done.append({"id": run["id"], **_asked(session, verb, run["id"], given)})
        if not session.is_json and (number + 1) % max(1, int(rate * 5)) == 0:
            show.aside(f"{number + 1} of {len(runs)}")
    failed = [row for row in done if row["outcome"] == "failed"]
    show.listing({"items": done, "next_cursor": None}, COLUMNS, is_json=session.is_json)
    counts = Counter(row["outcome"] for row in done)
    show.aside(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or "no run was found")
    return codes.REFUSED if failed else codes.DONE


def found(session: Session, query: str) -> list[dict[str, Any]]:
    """Return the runs that a query finds, oldest first. `click.UsageError` for one that is not understood."""
    try:
        terms = shlex.split(query)
    except ValueError as error:
        raise click.UsageError(f"--query has a quote that does not end: {query!r}") from error
    wanted: dict[str, str] = {}
    for term in terms:
        name, colon, value = term.partition(":")
        if not colon or not value or name not in FIELDS:
            raise click.UsageError(f"--query takes FIELD:VALUE, with one of {', '.join(FIELDS)}; {term!r} is none.")
        if name in wanted:
            raise click.UsageError(f"--query names {name} twice.")
        wanted[name] = value
    if not wanted:
        raise click.UsageError("--query is empty: it would mean every run.")
    now = datetime.now(UTC)
    for name in wanted.keys() & {"since", "until"}:
        wanted[name] = str(understood(moment(wanted[name], now), f"{name}: of --query", "1h (ago)"))
    runs: dict[str, dict[str, Any]] = {}
    for status in wanted.pop("status", "").split(","):
        page = session.api.pages("/runs", query=wanted | ({"status": status} if status else {}))
        runs |= {run["id"]: run for run in page["items"]}
    return sorted(runs.values(), key=lambda run: (run["requested_at"], run["id"]))


def _asked(session: Session, verb: str, run: str, given: dict[str, Any]) -> dict[str, Any]:
    """Ask for one of many; returns what came of it."""
    for left in reversed(range(TRIES)):
        try:
            answer = session.api.call("POST", "/runs", run, verb, **given)
        except Refused as error:
            if error.status == CONFLICT:
                return {"outcome": "skipped", "run": None, "detail": str(error)}
            if not left or not (error.is_passing or error.status == TOO_MANY):
                return {"outcome": "failed", "run": None, "detail": str(error)}
        except Unreachable as error:
            if not left:
                return {"outcome": "failed", "run": None, "detail": str(error)}
        else:
            outcome = "asked for before" if answer.get("repeated") else "asked for"
            return {"outcome": outcome, "run": answer["id"], "detail": None}
        time.sleep(PAUSE)
    raise AssertionError(run)


COMMANDS: list[click.Command] = [cancel_run, rerun_run, resume_run]
