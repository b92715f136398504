"""The states of a stopped installation: what every table and every stream holds, by digest."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import asyncpg
from nats.aio.client import Client

from deploy.credentials import load_or_create
from deploy.folder import claim, run_folder
from deploy.positions import administrator
from deploy.rebuild.parts import PROJECTING, open_parts, replay
from deploy.stores import Stores
from shared.messages.log import SERVICES
from shared.ordered_reader import OrderedReader
from shared.pull import api_request


@asynccontextmanager
async def stores_of(data: Path) -> AsyncIterator[Stores]:
    """Run the broker and the database of a folder, and nothing else, for the block."""
    with claim(data) as folder, run_folder(folder) as sockets:
        credentials = load_or_create(folder.credentials, None)
        stores = Stores(folder=folder, sockets=sockets, credentials=credentials, nats=None, postgres=None)
        try:
            await stores.start()
            yield stores
        finally:
            await stores.stop()


@asynccontextmanager
async def opened(data: Path) -> AsyncIterator[tuple[Stores, Client, asyncpg.Connection[Any]]]:
    """Run the stores of a folder for the block, with an administrator's connection to each."""
    async with stores_of(data) as stores, administrator(stores.nats_url) as admin:
        connection = await asyncpg.connect(stores.database_url)
        try:
            yield stores, admin, connection
        finally:
            await connection.close()


async def catch_up(stores: Stores, admin: Client, connection: asyncpg.Connection[Any]) -> None:
    """Bring every projection up to its stream's end, as services do before long."""
    async with open_parts(stores, PROJECTING) as parts:
        await replay(parts, admin, connection, lambda *_: None)


async def rows(connection: asyncpg.Connection[Any], where: Mapping[str, str] = MappingProxyType({})) -> dict[str, tuple[int, str]]:
    """Return the number and a digest of the rows of every table; of checkpoints without the time of their last move.

    `where` narrows tables to some of their rows.
    """
    found = {}
    # Partitions are read with their table.
    named = """
        SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = ANY($1) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    """
    for table in await connection.fetch(named, list(SERVICES)):
        name, row = table["name"], "(to_jsonb(t) - 'updated_at')::text"
        digest = f"md5(string_agg({row}, '|' ORDER BY {row}))"
        asked = f"SELECT count(*), coalesce({digest}, '') FROM {name} t WHERE {where.get(name, 'true')}"
        found[name] = tuple(await connection.fetchrow(asked))
    return found


async def positions(admin: Client) -> dict[str, tuple[int, int, int]]:
    """Return the first and last sequence and the number of messages of every stream, and how much waits at every consumer."""
    found = {}
    for stream in (await api_request(admin, "$JS.API.STREAM.LIST", {}))["streams"]:
        name, state = stream["config"]["name"], stream["state"]
        found[name] = (max(1, state["first_seq"]), state["last_seq"], state["messages"])
        for consumer in (await api_request(admin, f"$JS.API.CONSUMER.LIST.{name}", {}))["consumers"]:
            found[consumer["name"]] = (0, 0, consumer["num_pending"])
    return found


async def content(admin: Client, stream: str, first: int | None = None) -> tuple[int, str]:
    """Return the number and a digest of a stream's messages, or of its `first` ones.

    Of each it is the sequence, the subject, the bytes and the time of the first storing.
    """
    count, digest = 0, hashlib.sha256()
    wanted = (await api_request(admin, f"$JS.API.STREAM.INFO.{stream}", None))["state"]["messages"] if first is None else first
    batches = OrderedReader(admin, stream).batches()
    while count < wanted:
        for one in (await anext(batches))[: wanted - count]:
            digest.update(repr((one.sequence, one.subject, one.data, one.time)).encode())
            count += 1
    await batches.aclose()
    return count, digest.hexdigest()
