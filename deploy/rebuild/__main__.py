"""`python -m deploy.rebuild`, which is `millrace rebuild`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import click
from nats.aio.client import Client

from deploy.commands import run
from deploy.credentials import load_or_create
from deploy.errors import StartError
from deploy.folder import DataFolder, claim, end_orphans, run_folder
from deploy.given import connect_database
from deploy.positions import administrator
from deploy.prepare import prepare_broker, prepare_database
from deploy.rebuild import lost
from deploy.rebuild.derived import registries, timers
from deploy.rebuild.display import Display
from deploy.rebuild.memory import recall
from deploy.rebuild.parts import PROJECTING, open_parts, replay
from deploy.rebuild.rebuild import Rebuild
from deploy.rebuild.refill import Refill
from deploy.stores import Stores


@click.command(name="rebuild", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--from", "source", type=click.Choice(["bus", "archive"]), required=True, help="Where it all comes from.")
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="The data folder.")
@click.option("--nats", help="Administrator URL of the NATS server, where it is not the embedded one.")
@click.option("--postgres", help="Administrator URL of the Postgres database, where it is not the embedded one.")
@click.option("--service", "services", multiple=True, type=click.Choice(list(PROJECTING)), help="Only this service's; repeatable.")
@click.option("--force", is_flag=True, help="Also drop rows whose messages are no longer on the bus.")
def main(*, source: str, data: Path, nats: str | None, postgres: str | None, services: tuple[str, ...], force: bool) -> None:
    """Drop the projections' rows and make them anew from the bus, with the services stopped; compare both.

    From the archive: refill the streams that the bus has lost, then registries and timers. Exit code 0: all rows are what they
    were, or all lost streams are there again, and nothing else is lost. 1: some are not, were left alone, or secrets or objects
    are lost, which are named. 2: it could not begin.
    """
    if source == "archive":
        run("millrace rebuild", _rebuild(data, nats, postgres, tuple(PROJECTING), force=force, refills=True))
    run("millrace rebuild", _rebuild(data, nats, postgres, services or tuple(PROJECTING), force=force))


async def _rebuild(
    data: Path, nats: str | None, postgres: str | None, services: tuple[str, ...], *, force: bool, refills: bool = False
) -> bool:
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
            # Also where the database is elsewhere: a lost one is empty.
            await prepare_database(stores.database_url, credentials)
            if refills:
                return await _refill(stores)
            under_way = recall(folder.rebuild)
            if under_way is not None and under_way.parts:
                services = tuple(name for name in PROJECTING if any(part.startswith(f"{name}.") for part in under_way.parts))
            if nats is None and under_way is None:
                # Not while one is under way: it would bring the streams' age limits back.
                await prepare_broker(stores.nats_url)
            return await _with(stores, folder, services, force=force)
        finally:
            await stores.stop()


async def _refill(stores: Stores) -> bool:
    display = Display()
    connection = await connect_database(stores.database_url, name="millrace-rebuild")
    try:
        await connection.execute("SET statement_timeout = 0")
        async with administrator(stores.nats_url) as admin:
            refill = Refill(admin, connection, display)
            done = await refill.run()
            await prepare_broker(stores.nats_url, aging=False)
            await stores.prepared()
            async with open_parts(stores, PROJECTING) as parts:
                with display.progressing():
                    await replay(parts, admin, connection, display.progress)
                entries = await registries(parts, admin, connection)
            set_anew = await timers(admin, connection) if refill.timers_lost else 0
            offered = await refill.offer(done)
            whole = await _whole(admin, connection, display)
    finally:
        await connection.close()
    for sentence in refill.refused:
        display.say(sentence)
    display.say(f"Registries: {entries} entries looked at. Timers set: {set_anew}.")
    display.say(f"Refilled: {', '.join(sorted(done)) or 'nothing, since no stream is missing'}. Offered again: {offered} runs.")
    return not refill.refused and whole


async def _whole(admin: Client, connection: asyncpg.Connection[Any], display: Display) -> bool:
    """Name what is lost and on no stream; return whether nothing is."""
    kept = await lost.secrets(admin, connection)
    if kept:
        display.say(lost.told("the secrets", kept, "No message holds them: give them again, or restore a backup."))
    missing = await lost.objects(admin, connection)
    for bucket, names in missing.items():
        display.say(
            lost.told(f"the objects in {bucket}", names, "They were in the broker alone: bring them again, or restore a backup.")
        )
    return not kept and not missing


async def _with(stores: Stores, folder: DataFolder, services: tuple[str, ...], *, force: bool) -> bool:
    connection = await connect_database(stores.database_url, name="millrace-rebuild")
    try:
        await connection.execute("SET statement_timeout = 0")
        async with administrator(stores.nats_url) as admin, open_parts(stores, services) as parts:
            display = Display()
            rebuild = Rebuild(path=folder.rebuild, admin=admin, connection=connection, parts=parts, display=display)
            equal = await rebuild.run(force=force)
            return await _whole(admin, connection, display) and equal
    finally:
        await connection.close()


if __name__ == "__main__":
    main(prog_name="millrace rebuild")
