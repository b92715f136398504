"""`python -m deploy.backup`, which is `millrace backup`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import click
import msgspec

from deploy.backup import manifest
from deploy.backup.backup import Backup, place, told
from deploy.commands import run
from deploy.credentials import load_or_create
from deploy.errors import StartError
from deploy.folder import claim, end_orphans, is_claimed, run_folder
from deploy.local import Ready
from deploy.positions import administrator
from deploy.rebuild.display import Display
from deploy.stores import Stores


@click.command(name="backup", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="The data folder.")
@click.option("--keys", type=click.Path(path_type=Path), help="The file of the keys.  [default: FOLDER.keys.json]")
@click.option("--nats", help="Administrator URL of the NATS server, where it is not the embedded one.")
@click.option("--postgres", help="Administrator URL of the Postgres database, where it is not the embedded one.")
@click.option("--verify", is_flag=True, help="Make none: read the backup in FOLDER and name what is damaged.")
def main(*, folder: Path, data: Path, keys: Path | None, nats: str | None, postgres: str | None, verify: bool) -> None:
    """Write a backup of everything into FOLDER, while all works or while it is stopped, and read it again.

    The keys go into a file of their own. Exit code 0: the backup is whole. 1: --verify found damage. 2: there is no backup.
    """
    folder = folder.expanduser().absolute()
    if verify:
        run("millrace backup", _verify(folder))
    else:
        run("millrace backup", _backup(folder, data, keys or folder.with_name(f"{folder.name}.keys.json"), nats, postgres))


async def _verify(folder: Path) -> bool:
    display = Display()
    made = manifest.read(folder)
    with display.progressing():
        found = manifest.damaged(folder, made, display.progress)
    for sentence in found or [f"All {len(made.files)} files of {folder} are as they were written; state of {made.moment}."]:
        display.say(sentence)
    return not found


async def _backup(folder: Path, data: Path, keys: Path, nats: str | None, postgres: str | None) -> bool:
    began = time.monotonic()
    if not (data / "credentials.json").exists():
        raise StartError(f"{data} is no data folder of Millrace; name one with --data.")
    async with _addresses(data, nats, postgres) as (nats_url, database_url, working), administrator(nats_url) as client:
        connection = await asyncpg.connect(database_url, server_settings={"application_name": "millrace-backup"})
        try:
            await connection.execute("SET statement_timeout = 0")
            display = Display()
            with place(folder) as unfinished:
                backup = Backup(data=data, client=client, connection=connection, url=database_url, display=display)
                made = await backup.run(unfinished, keys, working=working)
        finally:
            await connection.close()
    display.say(f"{folder}: {told(made, began)}")
    display.say(f"The keys are in {keys}, and nowhere in {folder}: keep them elsewhere. Without them no secret can be read again.")
    return True


@asynccontextmanager
async def _addresses(data: Path, nats: str | None, postgres: str | None) -> AsyncIterator[tuple[str, str, bool]]:
    """Give the administrator's addresses of broker and database, and whether services work: of the running stack, or started."""
    if is_claimed(data):
        try:
            ready = msgspec.json.decode((data / "ready.json").read_bytes(), type=Ready)
        except (OSError, msgspec.DecodeError) as error:
            raise StartError(f"Millrace on {data} is starting or stopping: call it again when that is over.") from error
        yield nats or ready.nats_url, postgres or ready.database_url, True
        return
    with ExitStack() as stack:
        folder = stack.enter_context(claim(data))
        folder.ready.unlink(missing_ok=True)
        await end_orphans(folder)
        sockets = stack.enter_context(run_folder(folder))
        credentials = load_or_create(folder.credentials, None)
        stores = Stores(folder=folder, sockets=sockets, credentials=credentials, nats=nats, postgres=postgres)
        try:
            await stores.start()
            # Of stores elsewhere nobody knows here who else uses them.
            yield stores.nats_url, stores.database_url, nats is not None
        finally:
            await stores.stop()


if __name__ == "__main__":
    main(prog_name="millrace backup")
