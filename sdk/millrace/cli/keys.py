"""`keys`: the keys with which the services seal credentials."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.session import Session, asks

PATH = "/vault"


@click.group()
def keys() -> None:
    """Keys with which the services seal credentials."""


@keys.command("rotate")
@asks
def rotate_keys(session: Session) -> int:
    """Seal all that an older key seals with the first one, while everything goes on.

    May be stopped and begun anew at any time. Exits with 1 where something does not open: each is named.
    """
    part: dict[str, Any] = {"key": None, "next": ""}
    done, quarantined = 0, []
    while part["next"] is not None:
        part = session.api.call("POST", PATH, "rotate", body={"key": part["key"], "after": part["next"]})
        done += part["resealed"]
        quarantined += part["quarantined"]
        if not session.is_json and (done or part["left"]):
            click.echo(f"{done} done, {part['left']} left", err=True)
    found = {"key": part["key"], "resealed": done, "left": part["left"], "quarantined": quarantined}
    if session.is_json:
        show.document(found)
    elif not done and not part["left"]:
        show.said(f"nothing to do: the first key, {part['key']}, seals everything")
    else:
        show.said(f"the key {part['key']} seals all but {part['left']}" if part["left"] else f"the key {part['key']} seals all")
        for one in quarantined:
            show.aside(show.plain(f"{one['noun']} {one['name']} of {one['org']} is quarantined: {one['reason']}"), "error")
    return codes.REFUSED if part["left"] else codes.DONE


COMMANDS: list[click.Command] = [keys]
