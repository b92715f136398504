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
    done: dict[str, int] = {}
    left: dict[str, int] = {}
    quarantined = []
    while part["next"] is not None:
        part = session.api.call("POST", PATH, "rotate", body={"key": part["key"], "after": part["next"]})
        service = part["service"]
        done[service] = done.get(service, 0) + part["resealed"]
        left[service] = part["left"]
        quarantined += part["quarantined"]
        if not session.is_json and (done[service] or part["left"]):
            click.echo(f"{service}: {done[service]} done, {part['left']} left", err=True)
    remains = sum(left.values())
    if session.is_json:
        services = {name: {"resealed": done[name], "left": left[name]} for name in left}
        whole = {"key": part["key"], "resealed": sum(done.values()), "left": remains}
        show.document(whole | {"quarantined": quarantined, "services": services})
    elif not any(done.values()) and not remains:
        show.said(f"nothing to do: the first key, {part['key']}, seals everything")
    else:
        show.said(f"the key {part['key']} seals all but {remains}" if remains else f"the key {part['key']} seals all")
        for one in quarantined:
            show.aside(show.plain(f"{one['noun']} {one['name']} of {one['org']} is quarantined: {one['reason']}"), "error")
    return codes.REFUSED if remains else codes.DONE


COMMANDS: list[click.Command] = [keys]
