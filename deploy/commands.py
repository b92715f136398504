"""How a command of this package that works on the stores ends: its exit code, and one sentence where it could not go on."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import asyncpg
import click
import structlog

from deploy.errors import StartError
from shared.errors import Unavailable
from shared.pull import StreamError

INTERRUPTED = 130


def run(name: str, work: Coroutine[Any, Any, bool]) -> None:
    """Run a command to its end, SIGTERM as SIGINT, and exit: 0 for True, 1 for False, 2 when it could not begin or go on."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    try:
        equal = asyncio.run(_until_terminated(work))
    except StartError as error:
        click.echo(f"{name}: {error}", err=True)
        sys.exit(2)
    except (Unavailable, StreamError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        click.echo(f"{name}: {type(error).__name__}: {error}; call it again to go on.", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo(f"{name}: interrupted; call it again to go on.", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(0 if equal else 1)


async def _until_terminated(work: Coroutine[Any, Any, bool]) -> bool:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - inside asyncio.run
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work
