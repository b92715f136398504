"""`users`: what is special about people who sign in: links by which they become users, or sign in anew."""

from __future__ import annotations

from typing import Any

import click

from millrace.cli import show
from millrace.cli.entities import GROUPS, org_of
from millrace.cli.session import LIMIT, Session, asks

ROLES = ("viewer", "operator", "developer", "admin")
users = GROUPS["user"]
users.help = "People who sign in, each with a role by organization."


@users.command("invite")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--role", type=click.Choice(ROLES), required=True, help="The role in the organization; in `global`: in every one.")
@click.option("--display-name", help="What the user is called by people.")
@click.option("--email", help="Where the user gets letters.")
@click.option("--days", type=click.IntRange(1, 30), help="For how many days the link is of use; 7 unless given.")
@asks
def invite(session: Session, **given: Any) -> None:
    """Make a link, shown once and of use once, by which somebody becomes a user with a role in the organization.

    NAME is the login to be had; without it who is invited chooses one. Nothing is sent: give the link to whom it is for.
    """
    body = {field: value for field, value in given.items() if value is not None}
    _show(session, session.api.call("POST", "/orgs", org_of(session), "invitations", body=body))


@users.command("reset")
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 30), help="For how many days the link is of use; 1 unless given.")
@asks
def reset(session: Session, name: str, days: int | None) -> None:
    """Make a link, shown once and of use once, by which the user NAME sets a password or a passkey anew."""
    body = {} if days is None else {"days": days}
    _show(session, session.api.call("POST", "/users", name, "invitation", body=body))


def _show(session: Session, shown: dict[str, Any]) -> None:
    show.entity(shown, is_json=session.is_json)


@click.group()
def members() -> None:
    """The users with a role in an organization (--org), as its administrators see them."""


@members.command("list")
@LIMIT
@asks
def list_members(session: Session, limit: int) -> None:
    """List the users with a role in the organization."""
    columns = [*map(show.field, ("name", "display_name", "email", "role", "enabled")), show.moment("created_at")]
    show.listing(session.api.pages("/orgs", org_of(session), "members", limit=limit), columns, is_json=session.is_json)


@members.command("patch")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="The role in the organization.")
@asks
def patch_member(session: Session, name: str, role: str) -> None:
    """Give a member another role. Its sessions end."""
    _show(session, session.api.call("PATCH", "/orgs", org_of(session), "members", name, body={"role": role}))


@members.command("delete")
@click.argument("name")
@asks
def delete_member(session: Session, name: str) -> None:
    """Take a member's role in the organization away. Its sessions end, and the user goes on elsewhere."""
    session.api.call("DELETE", "/orgs", org_of(session), "members", name)


@click.group()
def invitations() -> None:
    """The links of an organization (--org) that nobody has used yet; `users invite` makes one."""


@invitations.command("list")
@LIMIT
@asks
def list_invitations(session: Session, limit: int) -> None:
    """List the open invitations, oldest first. Their links are shown only when they are made."""
    columns = [*map(show.field, ("id", "role", "name", "email", "invited_by")), *map(show.moment, ("created_at", "ends_at"))]
    show.listing(session.api.pages("/orgs", org_of(session), "invitations", limit=limit), columns, is_json=session.is_json)


@invitations.command("delete")
@click.argument("id")
@asks
def delete_invitation(session: Session, id: str) -> None:  # noqa: A002 - what it is called outside
    """Take an invitation back: its link is of no use any more."""
    session.api.call("DELETE", "/orgs", org_of(session), "invitations", id)


# The group `users` is one of those of the resources.
COMMANDS: list[click.Command] = [members, invitations]
