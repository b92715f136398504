"""The order of a restore: look, database, streams, what waits, rows; the data folder gets its name when all is there."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.backup import manifest, streams
from deploy.backup.database import undump
from deploy.backup.manifest import DATABASE, FILES, Manifest, parts_of
from deploy.credentials import Credentials, load_or_create
from deploy.errors import StartError
from deploy.files import sync, write_private
from deploy.folder import IGNORED, DataFolder, claim, end_orphans, run_folder
from deploy.given import connect_database
from deploy.positions import administrator, mark_cut
from deploy.prepare import prepare_broker, prepare_database
from deploy.rebuild.display import Display
from deploy.rebuild.parts import PROJECTING, open_parts, replay
from deploy.stores import Stores
from shared.durables import bring
from shared.messages.log import SERVICES
from shared.messages.shards import VARIABLE
from shared.pull import api_request
from shared.runs import RUNS
from shared.sharding import differing, shards_in
from shared.streams import STREAMS, WORK


def check_empty(data: Path) -> None:
    """Raise `StartError` where `data` has content."""
    if data.exists() and (not data.is_dir() or {entry.name for entry in data.iterdir()} - IGNORED):
        raise StartError(f"{data} is not empty; name a new folder with --data.")


@contextmanager
def place(data: Path) -> Iterator[DataFolder]:
    """Give a claimed folder that takes the name `data` at the end of the block, if there was no error.

    One that an earlier call left unfinished is begun anew.
    """
    unfinished = data.with_name(f"{data.name}.restoring")
    with claim(unfinished) as folder:
        for left in unfinished.iterdir():
            if left.name not in {"lock", "version", "run"}:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield folder
        check_empty(data)
        if data.exists():
            shutil.rmtree(data)
        unfinished.rename(data)


async def check_vacant(stores: Stores) -> None:
    """Raise `StartError` where a store that is to be filled has anything of an installation."""
    async with administrator(stores.nats_url) as admin:
        ours = {stream.name for stream in STREAMS}
        if held := sorted(ours.intersection((await api_request(admin, "$JS.API.STREAM.NAMES", {})).get("streams") or ())):
            raise StartError(
                f"The NATS server holds the stream {held[0]} already: restore into one without any of an installation."
            )
    connection = await connect_database(stores.database_url)
    try:
        for service in SERVICES:
            if await connection.fetchval("SELECT to_regclass($1)", f"{service}.checkpoint") is not None:
                raise StartError(f"The Postgres database holds the schema {service} already: restore into an empty one.")
    finally:
        await connection.close()


class Restore:
    """One restore of the backup in `backup`, whose keys are in the file `keys`.

    `nats` and `postgres` are administrators' URLs of vacant stores to be filled instead of embedded ones.
    """

    def __init__(self, backup: Path, keys: Path, display: Display, *, nats: str | None = None, postgres: str | None = None) -> None:
        """Touch nothing yet."""
        self._backup = backup
        self._keys = keys
        self._display = display
        self._nats = nats
        self._postgres = postgres

    async def run(self, data: Path) -> None:
        """Make the data folder `data`. Raises `StartError`, `Unavailable`, `StreamError`, OSError."""
        check_empty(data)
        made = manifest.read(self._backup)
        for one in made.streams:
            if one.name == RUNS and (wrong := differing(shards_in(one.config))) is not None:
                raise StartError(f"{VARIABLE} {wrong}.")
        secrets = self._secrets(made)
        with self._display.progressing():
            if found := await asyncio.to_thread(manifest.damaged, self._backup, made, self._display.progress):
                raise StartError(" ".join(found))
        with ExitStack() as stack:
            folder = stack.enter_context(place(data))
            await end_orphans(folder)
            write_private(folder.credentials, secrets)
            credentials = load_or_create(folder.credentials, None)
            sockets = stack.enter_context(run_folder(folder))
            stores = Stores(
                folder=folder,
                sockets=sockets,
                credentials=credentials,
                nats=self._nats,
                postgres=self._postgres,
                unsynced=True,
            )
            try:
                await stores.start()
                await check_vacant(stores)
                await self._fill(stores, credentials, made)
            finally:
                await stores.stop()
            with tarfile.open(self._backup / FILES) as tar:
                tar.extractall(folder.path, filter="data")
            await asyncio.to_thread(sync, folder.path)
        self._display.say(f"{data} is in the state of {made.moment}; start it with millrace up --data {data}")

    def _secrets(self, made: Manifest) -> bytes:
        try:
            secrets = self._keys.read_bytes()
        except OSError as error:
            message = f"The keys cannot be read: {self._keys}: {error.strerror}; name their file with --keys."
            raise StartError(message) from error
        if hashlib.sha256(secrets).hexdigest() != made.keys:
            raise StartError(f"{self._keys} does not hold the keys of {self._backup}, or is damaged; name their file with --keys.")
        return secrets

    async def _fill(self, stores: Stores, credentials: Credentials, made: Manifest) -> None:
        # The services' roles, which the tables belong to; the tables themselves are replaced, and brought to this version.
        await prepare_database(stores.database_url, credentials)
        self._display.say("Postgres …")
        await undump(stores.database_url, self._backup / DATABASE)
        await prepare_database(stores.database_url, credentials)
        async with administrator(stores.nats_url) as admin:
            with self._display.progressing():
                for number, one in enumerate(made.streams, start=1):
                    # What is old must not age off before its rows are there.
                    config = one.config | ({"max_age": 0} if one.name in {stream.name for stream in STREAMS} else {})
                    if one.cut is not None and one.cut < one.state["last_seq"]:
                        mark_cut(config, one.cut, one.state["last_seq"])
                    await streams.load(admin, config, one.state, parts_of(self._backup / one.file, streams.CHUNK))
                    if one.cut is not None:
                        await streams.cut(admin, one.name, one.cut, one.state["last_seq"])
                    self._display.progress("streams", number, len(made.streams))
            # Behind what was acknowledged: what was done is not done again.
            for work in WORK:
                await bring(admin, work, after=made.floors.get(work.name, 0))
            await prepare_broker(stores.nats_url, aging=False)
            await stores.prepared()
            connection = await connect_database(stores.database_url)
            try:
                async with open_parts(stores, PROJECTING) as parts:
                    with self._display.progressing():
                        await replay(parts, admin, connection, self._display.progress)
            finally:
                await connection.close()
