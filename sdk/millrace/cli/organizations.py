"""`orgs delete --erase`, `removals` and `quotas`: what is special about organizations."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import show
from millrace.cli.api import Refused
from millrace.cli.session import Session, asks


@click.command("delete")
@click.argument("name", metavar="NAME")
@click.option("--erase", is_flag=True, help="Remove everything that belongs to it as well, for good.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@asks
def delete_organization(session: Session, name: str, *, erase: bool, yes: bool) -> None:
    """Delete an organization that has nothing; with --erase one with everything that it has, once its name is typed.

    That goes on until it is done: `millrace removals NAME` tells how far it is.
    """
    place = ("/orgs", name)
    if not erase:
        try:
            session.api.call("DELETE", *place)
        except Refused as error:
            raise Refused(error.status, {"detail": str(error).replace("?erase=true", "--erase")}) from error
        return
    if not yes:
        typed = click.prompt(f"All of it is erased for good. Type the name of the organization, {show.plain(name)}", err=True)
        if typed != name:
            raise click.UsageError("That is another name: nothing is removed.")
    answer = session.api.call("DELETE", *place, query={"erase": "true"})
    if answer is not None:
        show.answer(answer, f"{name} is being removed: millrace removals {name}", is_json=session.is_json)


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@asks
def removals(session: Session, name: str | None) -> None:
    """List the organizations that were removed with everything, or are about to be; show how far one is."""
    if name is None:
        columns = [show.field("organization"), show.moment("began_at"), show.moment("ended_at"), show.field("actor")]
        show.listing(session.api.pages("/removals", limit=0), columns, is_json=session.is_json)
        return
    found = session.api.get("/removals", name)
    if session.is_json:
        show.document(found)
        return
    ended = "not ended" if found["ended_at"] is None else f"ended at {found['ended_at']}"
    show.said(show.plain(f"{name}: began at {found['began_at']}, {ended}"))
    columns = [show.field("owner"), show.field("step"), ("found", _found), show.field("error"), show.moment("at")]
    show.listing({"items": found["owners"], "next_cursor": None}, columns, is_json=False)
    show.said(show.plain(found["kept"]))


def _found(row: dict[str, Any]) -> str:
    return ", ".join(f"{kind}: {number}" for kind, number in row["found"].items())


@click.command()
@asks
def quotas(session: Session) -> None:
    """Show the quotas of an organization (--org), and how much of each is used."""
    found = session.api.get("/orgs", session.org or session.place.org or "default", "quotas")
    if session.is_json:
        show.document(found)
        return
    rows = [{"quota": name, **one} for name, one in found.items() if name != "org"]
    show.listing({"items": rows, "next_cursor": None}, [show.field(name) for name in ("quota", "used", "limit")], is_json=False)


COMMANDS: list[click.Command] = [removals, quotas]
