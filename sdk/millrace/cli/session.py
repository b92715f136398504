"""The settings of every command that calls the API: the address, the organization, and the output."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click

from millrace.cli.api import Api
from millrace.cli.place import Place, find

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Session:
    """One call of the command."""

    profile: str | None = None
    org: str | None = None
    output: str = "table"

    @property
    def is_json(self) -> bool:
        """Whether documents are printed as they came."""
        return self.output == "json"

    @cached_property
    def place(self) -> Place:
        """The address and the key. `click.UsageError` when none is given."""
        return find(self.profile, os.environ, Path.cwd())

    @cached_property
    def api(self) -> Api:
        """The API there, for the organization that is meant."""
        org = self.org or self.place.org
        if org is not None and not (org.isascii() and org.isprintable()):
            raise click.UsageError(f"{org!r} is no name of an organization.")
        return Api(self.place.url, key=self.place.key, org=org)

    @property
    def whence(self) -> str:
        """What named the key, in brackets, where one was looked for."""
        place = self.__dict__.get("place")
        return "" if place is None else f" (the key is that of {place.source})"

    def close(self) -> None:
        """Give up the connection, if there is one."""
        if "api" in self.__dict__:
            self.api.close()


def _keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        setattr(context.ensure_object(Session), str(parameter.name), value)


OPTIONS = [
    click.option("--profile", expose_value=False, callback=_keep, metavar="NAME", help="A profile: `millrace profiles list`."),
    click.option(
        "--org",
        expose_value=False,
        callback=_keep,
        metavar="NAME",
        help="The organization; else MILLRACE_ORG, the profile's, or `default`.",
    ),
    click.option(
        "--output",
        expose_value=False,
        callback=_keep,
        type=click.Choice(["table", "json"]),
        help="table (default), or json: what the API answered.",
    ),
]


LIMIT = click.option("--limit", type=click.IntRange(0), default=100, show_default=True, help="At most so many; 0: all.")


def asks(command: F) -> F:
    """Give the command below its `Session` as first argument, and the options that say where, for whom and how."""
    return _given(command, OPTIONS)


def shown(command: F) -> F:
    """Give the command below its `Session` as first argument, and the option that says how: it asks no server."""
    return _given(command, OPTIONS[-1:])


def _given(command: F, options: Sequence[Any]) -> F:
    decorated: Any = click.make_pass_decorator(Session, ensure=True)(command)
    for option in reversed(options):
        decorated = option(decorated)
    made: F = decorated
    return made
