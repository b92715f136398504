"""The further commands of forms."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from millrace.cli import show
from millrace.cli.session import Session, asks
from millrace.cli.times import ahead, understood


@click.command("link")
@click.argument("name", metavar="NAME")
@click.option("--for", "whom", metavar="PERSON", help="Who it is for: on record with what is sent by it.")
@click.option("--ends-at", metavar="TIME", help="Until when it is of use: +7d (from now), which it is unless given, or RFC 3339.")
@click.option("--many", is_flag=True, help="It is of use any number of times; else once.")
@asks
def link(session: Session, name: str, whom: str | None, ends_at: str | None, *, many: bool) -> None:
    """Make a link by which a form is opened without an account. It is a secret, and shown this once."""
    body: dict[str, Any] = {"once": not many} | ({} if whom is None else {"name": whom})
    if ends_at is not None:
        body["ends_at"] = understood(ahead(ends_at, datetime.now(UTC)), "--ends-at", "+7d (from now)")
    made = session.api.call("POST", "/forms", name, "links", body=body)
    show.answer(made, made["url"], is_json=session.is_json)
