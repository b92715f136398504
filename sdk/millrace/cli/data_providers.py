"""`data-providers`: the options of forms."""

from __future__ import annotations

import json
from typing import Any

import click

from millrace.cli import show
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.values import an_object, pairs


@click.group("data-providers")
def data_providers() -> None:
    """What answers options for forms."""


@data_providers.command("list")
@LIMIT
@asks
def list_data_providers(session: Session, limit: int) -> None:
    """List data providers."""
    columns = [
        show.field("name"),
        ("fresh", lambda row: f"{row['policy']['options']['ttl']:g} s"),
        ("stale", lambda row: f"{row['policy']['options']['stale']:g} s"),
        ("where", lambda row: f"{row['path']}:{row['line']}"),
        ("input", lambda row: ", ".join(row["input_schema"].get("properties", {}))),
        ("says", lambda row: row["doc"].partition("\n")[0]),
    ]
    show.listing(session.api.pages("/data-providers", limit=limit), columns, is_json=session.is_json)


@data_providers.command("get")
@click.argument("name", metavar="NAME")
@click.option(
    "-i", "given", multiple=True, metavar="NAME=VALUE", help="One input; a number or JSON where it takes that. Repeatable."
)
@click.option("--input", "whole", metavar="JSON|@FILE|-", help="The whole input as a JSON object; -i adds to it.")
@click.option("--refresh", is_flag=True, help="Have them made now, though there are some.")
@click.option("--wait", type=click.FloatRange(0, 60), default=60, show_default=True, metavar="SECONDS")
@asks
def get_options(session: Session, name: str, *, given: tuple[str, ...], whole: str | None, refresh: bool, wait: float) -> None:
    """Show the options for an input. Their age is said on standard error."""
    wanted: dict[str, Any] = an_object(whole, "--input") if whole is not None else {}
    if given:
        wanted |= pairs(given, session.api.get("/workflows", name)["input_schema"], "-i")
    query: dict[str, str | float] = {"input": json.dumps(wanted), "refresh": json.dumps(refresh), "wait": wait}
    found = session.api.get("/data-providers", name, query=query)
    if session.is_json:
        show.document(found)
        return
    columns = [("value", lambda row: show.compact(row["value"])), show.field("label")]
    show.listing({"items": found["options"], "next_cursor": None}, columns, is_json=False)
    show.aside(f"{found['age']:.0f} s old{', stale' if found['stale'] else ''}, of run {found['run']}")
    if found["error"]:
        show.aside(show.plain(found["error"]), "warning")


COMMANDS = [data_providers]
