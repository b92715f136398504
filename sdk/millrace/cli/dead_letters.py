"""`dead-letters`: messages that no handler could take."""

from __future__ import annotations

from collections.abc import Sequence

import click

from millrace.cli import codes, show
from millrace.cli.api import Refused
from millrace.cli.ids import whole
from millrace.cli.session import LIMIT, Session, asks

PATH = "/dead-letters"


@click.group("dead-letters")
def dead_letters() -> None:
    """Messages that no handler could take."""


@dead_letters.command("list")
@click.option("--status", type=click.Choice(["open", "replayed", "discarded", "all"]), default="open", show_default=True)
@click.option("--service", help="The service that gave them up.")
@LIMIT
@asks
def list_letters(session: Session, *, limit: int, status: str, service: str | None) -> None:
    """List dead letters, newest first."""
    columns = [
        show.field("id"),
        show.field("type"),
        show.field("status"),
        show.moment("received_at"),
        show.field("consumer"),
        show.field("error"),
    ]
    query = {"status": None if status == "all" else status, "service": service}
    show.listing(session.api.pages(PATH, query=query, limit=limit), columns, is_json=session.is_json)


@dead_letters.command("get")
@click.argument("id_", metavar="ID")
@asks
def get_letter(session: Session, id_: str) -> None:
    """Show one dead letter, with the message as it was."""
    show.entity(session.api.get(PATH, whole(session.api, PATH, id_)), is_json=session.is_json)


@dead_letters.command("replay")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@asks
def replay_letters(session: Session, ids: Sequence[str]) -> None:
    """Handle the messages of dead letters again: their deliveries are retried."""
    _each(session, ids, "replay")


@dead_letters.command("discard")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@asks
def discard_letters(session: Session, ids: Sequence[str]) -> None:
    """Put dead letters aside for good; they stay listed as discarded."""
    _each(session, ids, "discard")


def _each(session: Session, ids: Sequence[str], verb: str) -> None:
    """Do it to each; one that is refused keeps no other from it, and makes the exit code 1."""
    refused = 0
    for id_ in ids:
        try:
            answer = session.api.call("POST", PATH, whole(session.api, PATH, id_), verb)
        except Refused as error:
            refused += 1
            show.said(show.plain(f"{id_}: {error}"), "error")
        else:
            show.answer(answer, answer["id"], is_json=session.is_json)
    if refused:
        raise click.exceptions.Exit(codes.REFUSED)


COMMANDS: list[click.Command] = [dead_letters]
