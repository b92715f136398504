"""`state`: the small values that workflows share."""

from __future__ import annotations

import click

from millrace.cli import show
from millrace.cli.session import LIMIT, Session, asks
from millrace.cli.values import a_value

KEY = click.argument("key", metavar="KEY")
IF_VERSION = click.option("--if-version", type=click.IntRange(0), help="Only where this version is there; 0: where there is none.")


@click.group()
def state() -> None:
    """Small values that workflows share."""


@state.command("list")
@click.argument("prefix", default="", metavar="[PREFIX]")
@LIMIT
@asks
def list_state(session: Session, prefix: str, limit: int) -> None:
    """List values, of keys that begin with PREFIX."""
    columns = [
        show.field("key"),
        ("value", lambda row: show.compact(row["value"])[:60]),
        show.field("version"),
        show.moment("updated_at"),
        show.field("updated_by"),
        show.moment("expires_at"),
    ]
    show.listing(session.api.pages("/state", query={"prefix": prefix}, limit=limit), columns, is_json=session.is_json)


@state.command("get")
@KEY
@asks
def get_state(session: Session, key: str) -> None:
    """Show one value."""
    found = session.api.get("/state", *key.split("/"))
    show.answer(found, show.compact(found["value"]), is_json=session.is_json)


@state.command("put")
@KEY
@click.argument("value", metavar="JSON|@FILE|-")
@click.option("--ttl", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="It is not there any more after that.")
@IF_VERSION
@asks
def put_state(session: Session, key: str, value: str, ttl: float | None, if_version: int | None) -> None:
    """Give a key a value."""
    body = {"value": a_value(value, "JSON")} | ({} if ttl is None else {"ttl": ttl})
    found = session.api.call("PUT", "/state", *key.split("/"), body=body, headers=_condition(if_version))
    show.answer(found, str(found["version"]), is_json=session.is_json)


@state.command("delete")
@KEY
@IF_VERSION
@asks
def delete_state(session: Session, key: str, if_version: int | None) -> None:
    """Remove a key."""
    session.api.call("DELETE", "/state", *key.split("/"), headers=_condition(if_version))


def _condition(version: int | None) -> dict[str, str]:
    if version is None:
        return {}
    return {"If-Match": f'"{version}"'} if version else {"If-None-Match": "*"}


COMMANDS = [state]
