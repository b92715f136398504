"""`packs check`, `diff`, `apply`, `remove`, beside `list` and `get`; what they do is loaded when it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from millrace.cli.entities import GROUPS, NAME
from millrace.cli.session import Session, asks

F = TypeVar("F", bound=Callable[..., Any])
FORCE = click.option("--force", is_flag=True, help="Take the pack's side in what was changed here, and in what is no pack's.")
DRY = click.option("--dry-run", is_flag=True, help="Check everything, change nothing, and say what would be done.")
_VALUE = "A value that the pack needs, from a file, `-` for standard input; without one it is asked for. Repeatable."
_SOURCE = [
    click.argument("source", metavar="DIR|URL"),
    click.option("--ref", metavar="NAME", help="The branch, tag or commit of the repository; its default branch unless given."),
    click.option("--folder", metavar="PATH", help="The folder with millrace.yaml, within DIR or the repository."),
    click.option("--value", "given", multiple=True, metavar="NAME[=FILE]", help=_VALUE),
]

packs = GROUPS["pack"]
packs.help = "Packs: code, resources and needs that are applied, upgraded and removed as one."
# A record is not written by hand.
for _verb in ("put", "patch", "delete"):
    del packs.commands[_verb]


def of_source(command: F) -> F:
    """Give the command below the options that say which pack is meant."""
    for option in reversed(_SOURCE):
        command = option(command)
    return asks(command)


@packs.command("check")
@of_source
def check(session: Session, **of: Any) -> int:
    """Say what a pack lacks before it can be applied, and what is left to do after, with the command or the link for each.

    Exit code 1 where something is missing or wrong.
    """
    from millrace.cli.packs import doing

    return doing.check(session, doing.Source(**of))


@packs.command("diff")
@FORCE
@of_source
def diff(session: Session, *, force: bool, **of: Any) -> int:
    """Show what applying a pack would change, field by field and line by line. Exit code 1 where something stands in the way."""
    from millrace.cli.packs import doing

    return doing.diff(session, doing.Source(**of), force=force)


@packs.command("apply")
@DRY
@FORCE
@click.option("--incomplete", is_flag=True, help="Go on although something is missing that the pack needs.")
@of_source
def apply(session: Session, *, dry_run: bool, force: bool, incomplete: bool, **of: Any) -> int:
    """Apply a pack, or another version of it. Everything is checked first: where anything is missing or wrong nothing is changed.

    What was interrupted is completed by the same command. Exit code 1 where it was refused, or could not be completed.
    """
    from millrace.cli.packs import doing

    return doing.apply(session, doing.Source(**of), dry_run=dry_run, force=force, incomplete=incomplete)


@packs.command("remove")
@NAME
@DRY
@FORCE
@asks
def remove(session: Session, name: str, *, dry_run: bool, force: bool) -> int:
    """Remove all that a pack has brought, and nothing else. What was changed here since is named, and goes only with --force.

    Runs that have begun go on with the code that they have. Exit code 1 where it was refused, or could not be completed.
    """
    from millrace.cli.packs import doing

    return doing.remove(session, name, dry_run=dry_run, force=force)


# `packs` itself is one of the commands of resources.
COMMANDS: list[click.Command] = []
