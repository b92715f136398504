"""The page of commands: each with its arguments and options, as `--help` has them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from deploy import demo, local
from deploy.backup import __main__ as backup
from deploy.doctor import __main__ as doctor
from deploy.rebuild import __main__ as rebuild
from deploy.restore import __main__ as restore
from millrace.cli.program import program
from tests.reference.markdown import code, table

HEAD = """\
# Commands

Made of the command's own declarations by `python -m tests.reference`: what `millrace COMMAND --help` says. [The
command](cli.md) shows how they are used. Every command that speaks to a server has `--profile`, `--org` and `--output` besides.

"""
# Those of every command that speaks to a server.
SHARED = {"--profile", "--org", "--output", "--help"}
# Programs of their own, which the command becomes.
BECOMES: dict[str, click.Command] = {
    "up": local.main,
    "demo": demo.main,
    "rebuild": rebuild.main,
    "backup": backup.main,
    "restore": restore.main,
    "doctor": doctor.main,
}


def page() -> str:
    """Return the page in Markdown."""
    made = HEAD
    for name, declared in program.commands.items():
        command = BECOMES.get(name, declared)
        made += f"## {name}\n\n"
        if isinstance(command, click.Group) and command.help:
            made += _text(command.help) + "\n\n"
        made += table(("command", "does", "options"), (_row(*one) for one in _leaves(command, name)))
    return made


def _leaves(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    if command.invoke_without_command:
        yield path, command
    for name, inner in command.commands.items():
        yield from _leaves(inner, f"{path} {name}")


def _text(text: str) -> str:
    return inspect.cleandoc(text).replace("\b\n", "").replace("<", "&lt;")


def _row(path: str, command: click.Command) -> Iterator[str]:
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    yield code(" ".join([path, *(_argument(one) for one in arguments)]))
    yield _text(command.help or command.short_help or "").partition("\n\n")[0]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden and not SHARED & {*one.opts}]
    yield "<br>".join(_option(one) for one in options)


def _argument(argument: click.Argument) -> str:
    name = (argument.metavar or str(argument.name)).upper()
    many = f"{name}…" if argument.nargs == -1 and not name.endswith("…") else name
    return many if argument.required or many.startswith("[") else f"[{many}]"


def _option(option: click.Option) -> str:
    names = ", ".join(code(one) for one in (*option.opts, *option.secondary_opts))
    required = " (required)" if option.required else ""
    return f"{names}{required} {_text(option.help or '')}".strip()
