"""`sources test`: what would happen to a request that was recorded in a file, as HTTP/1.1 has it."""

from __future__ import annotations

import base64
from typing import Any

import click

from millrace._recorded import parsed
from millrace.cli import show
from millrace.cli.session import Session, asks
from millrace.cli.values import content


def request_of(recorded: bytes) -> dict[str, Any]:
    """Return a recorded request as the API takes it. Raises ValueError with a sentence that names what is wrong."""
    read = parsed(recorded)
    return {
        "method": read.method,
        "query": read.target.partition("?")[2],
        "headers": [{"name": name, "value": value} for name, value in read.headers],
        "body_base64": base64.b64encode(read.body).decode(),
    }


@click.command("test")
@click.argument("name", metavar="NAME")
@click.option("--file", "file", metavar="FILE", required=True, help="The recorded request: its first line, headers and body.")
@click.option("--at", metavar="TIME", help="When it came, in RFC 3339.  [default: now]")
@asks
def test_source(session: Session, name: str, file: str, at: str | None) -> None:
    """Say step by step what would happen to a recorded request. Exits with 1 where a step fails."""
    try:
        body = request_of(content(file))
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    tested = session.api.call("POST", "/sources", name, "test", body=body if at is None else body | {"at": at})
    if session.is_json:
        show.document(tested)
    else:
        _show(tested)
    if not all(step["passes"] for step in tested["steps"]):
        raise SystemExit(1)


def _show(tested: dict[str, Any]) -> None:
    columns: list[show.Column] = [
        show.field("step"),
        ("", lambda row: "passes" if row["passes"] else "FAILS"),
        show.field("detail"),
    ]
    show.listing({"items": tested["steps"], "next_cursor": None}, columns, is_json=False)
    rows = [{"event": event["type"], **outcome} for event in tested["events"] for outcome in event["outcomes"]]
    if rows:
        if tested["status"] >= 400:
            show.said("if it were taken:")
        outcomes: list[show.Column] = [show.field(one) for one in ("event", "outcome", "subscription", "workflow", "reason")]
        show.listing({"items": rows, "next_cursor": None}, outcomes, is_json=False)
    show.said(f"the sender would be answered {tested['status']}")
