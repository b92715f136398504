"""The command with all that it has."""

from __future__ import annotations

import importlib.metadata
import json

import click

from millrace.cli import (
    applying,
    approvals,
    audit,
    data_providers,
    dead_letters,
    deliveries,
    dev,
    entities,
    environments,
    files,
    git,
    hooks,
    keys,
    login,
    organizations,
    replays,
    runs,
    search,
    stack,
    state,
    top,
    users,
    who,
    workspace,
)
from millrace.cli.packs import commands as packs
from millrace.cli.session import Session, asks


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def program() -> None:
    """Webhooks in, Python workflows out.

    Where: --profile NAME, else MILLRACE_URL and MILLRACE_KEY, else MILLRACE_PROFILE, else the profile in use, else
    ./.millrace/ready.json here or in a folder above. `millrace whoami` says which.
    """


@program.command()
@asks
def version(session: Session) -> None:
    """Print the version of this command."""
    said = importlib.metadata.version("millrace")
    click.echo(json.dumps({"version": said}) if session.is_json else f"millrace {said}")


for _module in (
    stack,
    workspace,
    files,
    dev,
    environments,
    data_providers,
    git,
    runs,
    state,
    approvals,
    hooks,
    entities,
    applying,
    packs,
    deliveries,
    dead_letters,
    replays,
    search,
    audit,
    keys,
    login,
    who,
    users,
    organizations,
    top,
):
    for _command in _module.COMMANDS:
        program.add_command(_command)
