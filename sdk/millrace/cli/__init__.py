"""The `millrace` command: a client of the HTTP API, and the way to the programs that run a stack.

Nothing here is imported by a workflow, and the sandbox hides this package from children.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from millrace.cli import codes
from millrace.cli.api import UNAUTHENTICATED, Refused, Unreachable
from millrace.cli.program import program
from millrace.cli.session import Session
from millrace.cli.show import plain


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, of this process's arguments unless others are given; returns its exit code (`millrace.cli.codes`).

    Every error, of any answer or file, is printed as a sentence; with MILLRACE_DEBUG set, with its traceback.
    """
    _prepare_output()
    session = Session()
    try:
        returned = program.main(arguments, prog_name="millrace", standalone_mode=False, obj=session)
        sys.stdout.flush()
    except click.Abort:
        return codes.INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = "millrace" if context is None else context.command_path
        # It may name a thing of somebody else's file.
        click.echo(f"{command}: {plain(' '.join(error.format_message().split()))}", err=True)
        return error.exit_code
    except Refused as error:
        click.echo(f"millrace: {error}{session.whence if error.status == UNAUTHENTICATED else ''}", err=True)
        return codes.REFUSED
    except Unreachable as error:
        click.echo(f"millrace: {error}", err=True)
        return codes.UNREACHABLE
    except BrokenPipeError:
        # The reader has seen enough.
        _forget_output()
        return codes.REFUSED
    except OSError as error:
        click.echo(f"millrace: {plain(error.filename or 'the system')}: {error.strerror or error}", err=True)
        if error.errno == errno.ENOSPC:
            _forget_output()
        return codes.USAGE
    except Exception as error:
        if os.environ.get("MILLRACE_DEBUG"):
            raise
        what = plain(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
        click.echo(f"millrace: what was answered or given is not what this command expects ({what})", err=True)
        return codes.REFUSED
    finally:
        session.close()
    return returned if isinstance(returned, int) else codes.DONE


def _forget_output() -> None:
    """Let what is left in the buffer not complain at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_output() -> None:
    """Make the two streams such that printing cannot fail: characters that a terminal lacks are spelled out."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
