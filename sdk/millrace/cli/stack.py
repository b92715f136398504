"""`up`, `demo`, `rebuild`, `backup`, `restore`, `doctor`: programs of `deploy`, each of which takes this process's place.

They are executed, not imported: the SDK stands on nothing but itself. So they have this terminal, these signals and this exit code.
"""

from __future__ import annotations

import os
import sys

import click

# Everything that follows the name belongs to the program, --help as well.
PASSED_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}


def program_of(name: str, module: str, said: str) -> click.Command:
    """Return the command that becomes `python -m module`."""

    @click.command(name, context_settings=PASSED_ON, help=said, add_help_option=False)
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def become(arguments: tuple[str, ...]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        # -P: a folder `deploy` in the current folder is not ours.
        os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])  # noqa: S606 - no shell is what is wanted

    return become


COMMANDS = [
    program_of("up", "deploy.local", "Start everything on this machine and keep it running."),
    program_of("demo", "deploy.demo", "Start everything, send a signed webhook and show what came of it."),
    program_of("rebuild", "deploy.rebuild", "Make the projections' rows anew, with the services stopped."),
    program_of("backup", "deploy.backup", "Write everything into a folder, while it works."),
    program_of("restore", "deploy.restore", "Make a new data folder of a backup."),
    program_of("doctor", "deploy.doctor", "Say what is wrong on this machine and what to do."),
]
