"""`python -m deploy.backup`, which is `millrace backup`."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from deploy.backup import manifest
from deploy.backup.backup import Backup, alone, told
from deploy.backup.backup import place as placed
from deploy.backup.remote import Remote, is_remote
from deploy.commands import run
from deploy.credentials import load_or_create
from deploy.errors import StartError
from deploy.files import write_private
from deploy.folder import DataFolder, claim, end_orphans, is_claimed, run_folder
from deploy.given import check_files, connect_database
from deploy.local import Ready
from deploy.positions import administrator
from deploy.rebuild.display import Display
from deploy.stores import Stores

# In the folder of a backup that is on its way elsewhere: where to.
TARGET = "target"


@click.command(name="backup", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("place")
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="The data folder.")
@click.option("--keys", type=click.Path(path_type=Path), help="The file of the keys.  [default, of a folder: FOLDER.keys.json]")
@click.option(
    "--staging", type=click.Path(path_type=Path), help="For a URL: the folder it is made in first.  [default: DATA.staging]"
)
@click.option("--nats", help="Administrator URL of the NATS server, where it is not the embedded one.")
@click.option("--postgres", help="Administrator URL of the Postgres database, where it is not the embedded one.")
@click.option("--verify", is_flag=True, help="Make none: read the backup in FOLDER and name what is damaged.")
def main(
    *, place: str, data: Path, keys: Path | None, staging: Path | None, nats: str | None, postgres: str | None, verify: bool
) -> None:
    """Write a backup of everything into PLACE, while all works or while it is stopped, and read it again.

    PLACE is a new folder, or the URL of an empty place in an object store (s3://BUCKET/PREFIX, gs://…, az://…, file:///FOLDER). The
    keys go into a file of their own. Exit code 0: the backup is whole. 1: --verify found damage. 2: there is no backup.
    """
    if verify:
        run("millrace backup", _verify(place))
    elif is_remote(place):
        folder = staging or data.absolute().with_name(f"{data.absolute().name}.staging")
        run("millrace backup", _noted(_upload(place, folder, data, keys, nats, postgres), data))
    else:
        folder = Path(place).expanduser().absolute()
        named = keys or folder.with_name(f"{folder.name}.keys.json")
        run("millrace backup", _noted(_backup(folder, data, named, nats, postgres), data))


async def _noted(making: Coroutine[Any, Any, bool], data: Path) -> bool:
    """Make a backup, and leave in the data folder that there is one: its age is watched."""
    made = await making
    DataFolder(data).last_backup.touch(0o600)
    return made


async def _verify(target: str) -> bool:
    display = Display()
    with display.progressing():
        if is_remote(target):
            with tempfile.TemporaryDirectory() as folder:
                made, found = await Remote(target).damaged(Path(folder), display.progress)
        else:
            made = manifest.read(Path(target).expanduser().absolute())
            found = manifest.damaged(Path(target).expanduser().absolute(), made, display.progress)
    for sentence in found or [f"All {len(made.files)} files of {target} are as they were written; state of {made.moment}."]:
        display.say(sentence)
    return not found


async def _upload(url: str, staging: Path, data: Path, keys: Path | None, nats: str | None, postgres: str | None) -> bool:
    """Make a backup in the folder `staging` and copy it; one that an earlier call made there for this place is copied on."""
    if keys is None:
        raise StartError("The keys are not put beside a backup elsewhere: name a file for them with --keys.")
    remote, display = Remote(url), Display()
    target = staging / TARGET
    if not (target.exists() and target.read_text("utf-8") == url and (staging / manifest.NAME).exists()):
        if (staging / manifest.NAME).exists():
            display.say(f"{staging} held a backup for another place, which was never finished: it is removed.")
            shutil.rmtree(staging)
        await remote.check_empty()
        await _backup(staging, data, keys, nats, postgres)
        write_private(target, url.encode())
    with alone(staging):
        made = manifest.read(staging)
        with display.progressing():
            await remote.upload(staging, made, display.progress)
        shutil.rmtree(staging)
    display.say(f"{url} holds the state of {made.moment}, and was read again.")
    return True


async def _backup(folder: Path, data: Path, keys: Path, nats: str | None, postgres: str | None) -> bool:
    began = time.monotonic()
    if not (data / "credentials.json").exists():
        raise StartError(f"{data} is no data folder of Millrace; name one with --data.")
    async with _addresses(data, nats, postgres) as (nats_url, database_url, working), administrator(nats_url) as client:
        check_files(database_url)
        connection = await connect_database(database_url, name="millrace-backup")
        try:
            await connection.execute("SET statement_timeout = 0")
            display = Display()
            with placed(folder) as unfinished:
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
