"""`keys`: what is special about keys of the API, and the keys with which the services seal credentials."""

from __future__ import annotations

import sys
from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.entities import GROUPS, changing, deleting
from millrace.cli.kinds import kinds
from millrace.cli.session import Session, asks

PATH = "/vault"
KIND = kinds()["key"]
keys = GROUPS[KIND.noun]
keys.help = "Keys of the API; and those with which the services seal credentials (`reseal`)."
keys.add_command(changing(KIND, "post", "create"))
keys.add_command(deleting(KIND, "revoke"))


@keys.command("rotate")
@click.argument("name", metavar="[NAME]", required=False)
@click.option(
    "--overlap", type=click.IntRange(0), help="Seconds for which the present value of NAME goes on; 0, the default: none."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@asks
def rotate(session: Session, name: str | None, overlap: int | None, *, yes: bool) -> int:
    """Give the key NAME another value, which is shown once.

    Without a name it is `keys reseal`, and at a terminal asks whether that is meant.
    """
    if name is None:
        if overlap is not None:
            raise click.UsageError("--overlap is for a key of the API: NAME is missing.")
        if at_terminal() and not yes:
            said = "Without NAME this seals all secrets anew, as `millrace keys reseal`, and gives no key another value. Go on?"
            click.confirm(said, abort=True, err=True)
        return rotate_sealing(session)
    shown = session.api.call("POST", "/keys", name, "rotate", body={"overlap": overlap or 0})
    show.entity(shown, is_json=session.is_json)
    return codes.DONE


@keys.command("reseal")
@asks
def reseal(session: Session) -> int:
    """Seal all that an older key of the services seals with the first one, while everything goes on.

    May be stopped and begun anew at any time. Exits with 1 where something does not open: each is named.
    """
    return rotate_sealing(session)


def at_terminal() -> bool:
    """Return whether somebody is there who can be asked."""
    return sys.stdin.isatty()


def rotate_sealing(session: Session) -> int:
    """Seal everything with the first key of the services."""
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


# `keys` itself is one of the commands of resources.
COMMANDS: list[click.Command] = []
