"""The `millrace` command: a client of the HTTP API, and the way to the programs that run a stack.

Nothing here is imported by a workflow, and the sandbox leaves this package out of what a child sees.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from millrace.cli import codes
from millrace.cli.api import Refused, Unreachable
from millrace.cli.program import program
from millrace.cli.session import Session


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, of this process's arguments unless others are given; returns its exit code (`millrace.cli.codes`)."""
    try:
        returned = program.main(arguments, prog_name="millrace", standalone_mode=False, obj=Session())
        sys.stdout.flush()
    except click.Abort:
        return codes.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = "millrace" if context is None else context.command_path
        click.echo(f"{command}: {' '.join(error.format_message().split())}", err=True)
        return error.exit_code
    except Refused as error:
        click.echo(f"millrace: {error}", err=True)
        return codes.REFUSED
    except Unreachable as error:
        click.echo(f"millrace: {error}", err=True)
        return codes.UNREACHABLE
    except BrokenPipeError:
        # Whoever read has seen enough. What is left in the buffer must not complain at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.REFUSED
    except OSError as error:
        click.echo(f"millrace: {error.filename or 'the system'}: {error.strerror}", err=True)
        return codes.USAGE
    return returned if isinstance(returned, int) else codes.DONE
