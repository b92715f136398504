"""`sources test`: what would happen to a request that was recorded in a file, as HTTP/1.1 has it."""

from __future__ import annotations

import base64
import re
from typing import Any

import click

from millrace.cli import show
from millrace.cli.session import Session, asks
from millrace.cli.values import content

_LINE = re.compile(r"([A-Z]{1,20}) (\S+)(?: HTTP/[0-9.]+)?")


def request_of(recorded: bytes) -> dict[str, Any]:
    """Return a recorded request as the API takes it: a request line, headers, an empty line, and the body as it came.

    Where Content-Length says how long the body is, blank lines behind it are no part of it: editors add one. Raises ValueError
    with a sentence that names what is wrong.
    """
    head, body = _parted(recorded)
    lines = head.decode("utf-8", "replace").splitlines()
    first = _LINE.fullmatch(lines[0].strip()) if lines else None
    if first is None:
        raise ValueError("The first line is a method and an address, such as POST /hooks/id HTTP/1.1.")
    headers: list[tuple[str, str]] = []
    for number, line in enumerate(lines[1:], 2):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"Line {number} is no header: it has no colon.")
        headers.append((name.strip(), value.strip()))
    named = {name.lower(): value for name, value in headers}
    if "chunked" in named.get("transfer-encoding", "").lower():
        raise ValueError("A chunked body is not read: record it as one, without Transfer-Encoding.")
    length = named.get("content-length", "")
    if length.isdigit() and not body[int(length) :].strip():
        body = body[: int(length)]
    return {
        "method": first[1],
        "query": first[2].partition("?")[2],
        "headers": [{"name": name, "value": value} for name, value in headers],
        "body_base64": base64.b64encode(body).decode(),
    }


def _parted(recorded: bytes) -> tuple[bytes, bytes]:
    """Return the head and the body, at the first empty line, whichever line ends the file has."""
    found = re.search(rb"\r?\n\r?\n", recorded)
    return (recorded, b"") if found is None else (recorded[: found.start()], recorded[found.end() :])


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
