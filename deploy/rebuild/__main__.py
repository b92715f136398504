"""`python -m deploy.rebuild`, which is `millrace rebuild`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import click
import structlog

from deploy.credentials import load_or_create
from deploy.errors import StartError
from deploy.folder import DataFolder, claim, end_orphans, run_folder
from deploy.positions import administrator
from deploy.prepare import prepare_broker, prepare_database
from deploy.rebuild.display import Display
from deploy.rebuild.memory import recall
from deploy.rebuild.parts import PROJECTING, open_parts
from deploy.rebuild.rebuild import Rebuild
from deploy.stores import Stores
from shared.errors import Unavailable
from shared.pull import StreamError

INTERRUPTED = 130


@click.command(name="rebuild", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--from", type=click.Choice(["bus"]), required=True, expose_value=False, help="Where the rows come from.")
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="The data folder.")
@click.option("--nats", help="Administrator URL of the NATS server, where it is not the embedded one.")
@click.option("--postgres", help="Administrator URL of the Postgres database, where it is not the embedded one.")
@click.option("--service", "services", multiple=True, type=click.Choice(list(PROJECTING)), help="Only this service's; repeatable.")
@click.option("--force", is_flag=True, help="Also drop rows whose messages are no longer on the bus.")
def main(*, data: Path, nats: str | None, postgres: str | None, services: tuple[str, ...], force: bool) -> None:
    """Drop the projections' rows and make them anew from the bus, with the services stopped; compare both.

    Exit code 0: all rows are what they were. 1: some are not, or were left alone. 2: it could not begin.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR), logger_factory=structlog.PrintLoggerFactory(sys.stderr)
    )
    try:
        equal = asyncio.run(_rebuild(data, nats, postgres, services or tuple(PROJECTING), force=force))
    except StartError as error:
        click.echo(f"millrace rebuild: {error}", err=True)
        sys.exit(2)
    except (Unavailable, StreamError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        click.echo(f"millrace rebuild: {type(error).__name__}: {error}; call it again to go on.", err=True)
        sys.exit(2)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("millrace rebuild: interrupted; call it again to go on.", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(0 if equal else 1)


async def _rebuild(data: Path, nats: str | None, postgres: str | None, services: tuple[str, ...], *, force: bool) -> bool:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - inside asyncio.run
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    if not (data / "credentials.json").exists():
        raise StartError(f"{data} is no data folder of Millrace; name one with --data.")
    with ExitStack() as held:
        folder = held.enter_context(claim(data))
        folder.ready.unlink(missing_ok=True)
        await end_orphans(folder)
        credentials = load_or_create(folder.credentials, None)
        sockets = held.enter_context(run_folder(folder))
        stores = Stores(folder=folder, sockets=sockets, credentials=credentials, nats=nats, postgres=postgres)
        try:
            await stores.start()
            under_way = recall(folder.rebuild)
            if under_way is not None and under_way.parts:
                services = tuple(name for name in PROJECTING if any(part.startswith(f"{name}.") for part in under_way.parts))
            if postgres is None:
                await prepare_database(stores.database_url, credentials)
            if nats is None and under_way is None:
                # Not while one is under way: it would bring the streams' age limits back.
                await prepare_broker(stores.nats_url)
            return await _with(stores, folder, services, force=force)
        finally:
            await stores.stop()


async def _with(stores: Stores, folder: DataFolder, services: tuple[str, ...], *, force: bool) -> bool:
    connection = await asyncpg.connect(stores.database_url, server_settings={"application_name": "millrace-rebuild"})
    try:
        await connection.execute("SET statement_timeout = 0")
        async with administrator(stores.nats_url) as admin, open_parts(stores, services) as parts:
            rebuild = Rebuild(path=folder.rebuild, admin=admin, connection=connection, parts=parts, display=Display())
            return await rebuild.run(force=force)
    finally:
        await connection.close()


if __name__ == "__main__":
    main(prog_name="millrace rebuild")
