"""Who the command is, and where it goes: `whoami`, and the profiles."""

from __future__ import annotations

import os
from typing import Any

import click

from millrace.cli import show
from millrace.cli.place import address_of
from millrace.cli.profiles import Profiles, config_file
from millrace.cli.session import Session, asks, shown

PLATFORM = "global"
# From the least to the most.
ROLES = ["viewer", "operator", "developer", "admin"]
NAME = click.argument("name", metavar="NAME")


@click.command()
@asks
def whoami(session: Session) -> None:
    """Show who calls, in which organization and role, at which address, and what said so; never the key."""
    place = session.place
    me = session.api.get("/me")
    org = session.org or place.org or ("default" if me["org"] == PLATFORM else me["org"])
    roles = [me["roles"][one] for one in (org, PLATFORM) if one in me["roles"]]
    told = {"actor": me["actor"], "org": org, "role": max(roles, key=ROLES.index, default=None)}
    whence = {"url": place.url, "source": place.source, "profile": place.profile}
    show.entity(told | {name: me[name] for name in ("roles", "scopes", "until")} | whence, is_json=session.is_json)


@click.group()
def profiles() -> None:
    """Addresses with their keys, as `millrace login` stores them. Which one counts says `millrace whoami`."""


@profiles.command("list")
@shown
def list_profiles(session: Session) -> None:
    """List the profiles, and which one is in use; never their keys."""
    read = Profiles(config_file(os.environ)).read()
    rows: list[dict[str, Any]] = [
        {"name": name, "url": one.get("url"), "org": one.get("org"), "used": name == read.used}
        for name, one in sorted(read.profiles.items())
        if isinstance(one, dict)
    ]
    columns = [("", lambda row: "*" if row["used"] else ""), *map(show.field, ("name", "url", "org"))]
    show.listing({"items": rows, "next_cursor": None}, columns, is_json=session.is_json)


@profiles.command("use")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--none", "no_one", is_flag=True, help="Use none: the stack that runs here is found again.")
def use_profile(name: str | None, *, no_one: bool) -> None:
    """Have every command use a profile where neither an option nor the environment says otherwise."""
    if (name is None) != no_one:
        raise click.UsageError("Give either NAME or --none.")
    kept = Profiles(config_file(os.environ))
    if name is not None:
        chosen = kept.read().chosen(name)
        address_of(chosen["url"], f"{kept.file}: profiles.{name}.url")
    kept.use(name)


@profiles.command("remove")
@NAME
def remove_profile(name: str) -> None:
    """Remove a profile. Its key goes on: `millrace logout` ends that too."""
    Profiles(config_file(os.environ)).remove(name)


COMMANDS: list[click.Command] = [whoami, profiles]
