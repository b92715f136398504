"""The only creator of streams, consumers, registries, buckets, roles, schemas and tables.

Idempotent, and safe to run by several at once: a lock in Postgres lets one work at a time. Existing streams are brought to the
table of `shared.streams`; nothing that holds data is ever deleted here.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import click
import nats.errors
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from nats.aio.client import Client
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from deploy import given, service_env
from deploy.credentials import Credentials, load_or_create
from deploy.errors import StartError
from deploy.sharding import WITHIN, check_shards, info_of, metadata_of
from shared.addresses import writable
from shared.client import cluster_of, connect
from shared.durables import bring
from shared.envelope import new_id
from shared.errors import Unavailable
from shared.messages.log import SERVICES
from shared.projection import INCARNATION
from shared.pull import StreamError, api_request
from shared.streams import (
    BUCKETS,
    CACHE,
    CACHED_BYTES,
    DAY,
    DIGESTS,
    DUPLICATE_WINDOW,
    LOCKS,
    REGISTRIES,
    STREAMS,
    SUSPECTS,
    WORK,
    Stream,
)

ROOT = Path(__file__).resolve().parent.parent
_NANO = 1_000_000_000
_NAME_IN_USE = 10058  # nats-server server/errors.json
# In a stream's metadata while `millrace rebuild` refills it; its value is the first sequence.
REFILLING = "millrace_refilling"
OLDEST_NATS = (2, 12)  # atomic batches and schedules
# Copies of each stream in a cluster: one server of three may be away.
IN_A_CLUSTER = 3
# A statement of a service that runs longer than this is a mistake; searches set a shorter one themselves.
STATEMENT_TIMEOUT = "30s"


async def prepare(*, nats_url: str, database_url: str, credentials: Credentials, replicas: int | None = None) -> int:
    """Bring the broker and the database to the needs of this version; `credentials` name the passwords of the services.

    Both URLs are an administrator's. Returns how many copies of each stream there are. Raises `StartError` when a server is too
    old, cannot be reached, or does not allow it.
    """
    await prepare_database(database_url, credentials)
    return await prepare_broker(nats_url, replicas=replicas)


# -- the broker -----------------------------------------------------------------------------------------------------------


async def prepare_broker(url: str, *, replicas: int | None = None, aging: bool = True) -> int:
    """Make every stream, consumer, registry and bucket of `shared.streams` that is missing, and update the others.

    Without `replicas` there are three copies of each stream where the server belongs to a cluster, one where it stands alone, and
    never fewer than there are. Not `aging`: streams that are there keep the age limits that they have. Returns how many copies.
    """
    said: list[Exception] = []

    async def hear(error: Exception) -> None:
        said.append(error)

    try:
        client = await connect(
            url,
            name="millrace-prepare",
            connect_timeout=5,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            error_cb=hear,
        )
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise StartError(given.unreached(url, [error, *said])) from error
    try:
        version = client.connected_server_version
        if (version.major, version.minor) < OLDEST_NATS:
            found = f"{version.major}.{version.minor}.{version.patch}"
            raise StartError(f"The NATS server is {found}; Millrace needs {'.'.join(map(str, OLDEST_NATS))} or newer.")
        await given.check_jetstream(client)
        asked, replicas = replicas, replicas or (IN_A_CLUSTER if cluster_of(client) else 1)
        if asked is None:
            replicas = max(replicas, await _copies(client))
        await check_shards(client)
        await asyncio.gather(*(_stream(client, stream_config(stream, replicas), aging=aging) for stream in STREAMS))
        await asyncio.gather(
            *(bring(client, work) for work in WORK),
            *(_stream(client, _registry_config(registry.bucket, replicas)) for registry in REGISTRIES),
            _stream(client, _registry_config(DIGESTS, replicas)),
            _stream(client, _registry_config(SUSPECTS, replicas) | {"max_age": int(7 * DAY * _NANO)}),
            _stream(client, _registry_config(LOCKS, replicas) | {"discard": "old", "allow_msg_ttl": True}),
            _stream(
                client,
                _registry_config(CACHE, replicas) | {"discard": "old", "allow_msg_ttl": True, "max_bytes": CACHED_BYTES},
            ),
            *(_stream(client, _bucket_config(bucket.name, bucket.max_age, replicas)) for bucket in BUCKETS),
        )
        return replicas
    except (StreamError, Unavailable) as error:
        raise StartError(given.refused(error, said, replicas)) from error
    finally:
        await client.close()


async def _copies(client: Client) -> int:
    """Return how many copies the stream with the most has; 0 without streams."""
    found = [await info_of(client, stream.name) for stream in STREAMS]
    return max((int(info["config"]["num_replicas"]) for info in found if info is not None), default=0)


def stream_config(stream: Stream, replicas: int) -> dict[str, Any]:
    """Return the JetStream configuration of one of our streams."""
    return {
        "name": stream.name,
        "subjects": stream.subjects,
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_age": int((stream.max_age or 0) * _NANO),
        "duplicate_window": int(DUPLICATE_WINDOW * _NANO),
        "num_replicas": replicas,
        "allow_direct": True,
        "allow_atomic": True,
        "allow_msg_schedules": stream.schedules,
        "allow_msg_ttl": stream.schedules,
    }


def _registry_config(bucket: str, replicas: int) -> dict[str, Any]:
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "max_msgs_per_subject": 1,
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }


def _bucket_config(bucket: str, max_age: float | None, replicas: int) -> dict[str, Any]:
    return {
        "name": f"OBJ_{bucket}",
        "subjects": [f"$O.{bucket}.C.>", f"$O.{bucket}.M.>"],
        "storage": "file",
        "discard": "new",
        "max_age": int((max_age or 0) * _NANO),
        "num_replicas": replicas,
        "allow_rollup_hdrs": True,
        "allow_direct": True,
    }


async def _stream(client: Client, config: dict[str, Any], *, aging: bool = True) -> None:
    name = config["name"]
    info = await info_of(client, name)
    if info is None:
        created = {**config, "metadata": {INCARNATION: new_id()} | metadata_of(name)}
        try:
            await api_request(client, f"$JS.API.STREAM.CREATE.{name}", created, wait=WITHIN)
        except StreamError as racing:
            if racing.code != _NAME_IN_USE:
                raise
            # Another process made it in the meantime, with an incarnation of its own, which counts.
            await _stream(client, config, aging=aging)
        return
    existing: dict[str, Any] = info["config"]
    if REFILLING in (existing.get("metadata") or {}):
        raise StartError(f"The stream {name} has been refilled in part only: call millrace rebuild --from archive again.")
    wanted = existing | config | ({} if aging else {"max_age": existing.get("max_age", 0)})
    wanted["metadata"] = {INCARNATION: new_id()} | (existing.get("metadata") or {}) | metadata_of(name)
    if wanted != existing:
        await api_request(client, f"$JS.API.STREAM.UPDATE.{name}", wanted, wait=WITHIN)


# -- the database -----------------------------------------------------------------------------------------------------------


async def prepare_database(url: str, credentials: Credentials, *, until: Mapping[str, str] | None = None) -> None:
    """Make the services' roles and schemas in the database of `url` and bring their tables to this version.

    Or, where a service is named in `until`, to a migration of it.
    """
    given.check_files(url)
    try:
        connection = await given.connect_database(url, name="millrace-prepare", within=10)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        raise StartError(f"The Postgres server cannot be reached: {given.without_secret(error, url)}.") from error
    try:
        await given.check_database(connection)
        await connection.execute("SELECT pg_advisory_lock(hashtextextended('millrace prepare', 0))")
        for service in SERVICES:
            await _role(connection, service, credentials.postgres[service])
        await _migrate_all(url, until or {})
    except asyncpg.InsufficientPrivilegeError as error:
        user = await connection.fetchval("SELECT current_user")
        raise StartError(
            f"The Postgres user {user} may not do what is needed ({error}): give the URL of an administrator."
        ) from error
    finally:
        await connection.close()


async def _role(connection: asyncpg.Connection[Any], service: str, password: str) -> None:
    """Make the role and the schema of a service; the role may do nothing outside its schema."""
    role, schema = f"millrace_{service}", service
    database = await connection.fetchval("SELECT quote_ident(current_database())")
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOINHERIT")
    # A verifier instead of the password, so that no server log can hold the password.
    await connection.execute(f"ALTER ROLE {role} PASSWORD '{scram_verifier(password)}'")
    await connection.execute(f"GRANT {role} TO CURRENT_USER")
    await connection.execute(f"REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {role}")
    await connection.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
    await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {role}")
    await connection.execute(f"REVOKE ALL ON SCHEMA {schema} FROM PUBLIC")
    await connection.execute(f"ALTER ROLE {role} IN DATABASE {database} SET search_path = {schema}")
    await connection.execute(f"ALTER ROLE {role} IN DATABASE {database} SET statement_timeout = '{STATEMENT_TIMEOUT}'")
    await connection.execute(f"ALTER ROLE {role} IN DATABASE {database} SET timezone = 'UTC'")


def scram_verifier(password: str, *, salt: bytes | None = None, iterations: int = 4096) -> str:
    """Return the SCRAM-SHA-256 verifier of a password as Postgres stores it (RFC 5803; the default of 4096 iterations)."""
    made = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), made, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (made, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


async def _migrate_all(url: str, until: Mapping[str, str]) -> None:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=partial(asyncpg.connect, url, **writable(url)))
    try:
        for service in SERVICES:
            versions = ROOT / "services" / service / "migrations"
            if not versions.is_dir():
                continue
            async with engine.begin() as connection:
                await connection.execute(text(f"SET LOCAL ROLE millrace_{service}"))
                await connection.execute(text(f"SET LOCAL search_path = {service}"))
                await connection.run_sync(_migrate, service, versions, until.get(service, "head"))
    finally:
        await engine.dispose()


def _migrate(connection: Connection, service: str, versions: Path, until: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(versions.parent).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    script = ScriptDirectory(str(versions.parent), version_locations=[str(versions)])

    def upgrade(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs(until, revision)  # noqa: SLF001 - what alembic.command.upgrade itself calls

    with EnvironmentContext(config, script, fn=upgrade, destination_rev=until) as environment:
        environment.configure(connection=connection, version_table="migration", version_table_schema=service)
        environment.run_migrations()


# -- by hand ----------------------------------------------------------------------------------------------------------------


@click.command()
@click.option("--nats", "nats_url", envvar="MILLRACE_ADMIN_NATS_URL", help="Administrator URL of NATS.")
@click.option("--postgres", "database_url", envvar="MILLRACE_ADMIN_DATABASE_URL", help="Administrator URL of Postgres.")
@click.option("--credentials", "path", type=click.Path(path_type=Path), required=True, help="File of the secrets, made once.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    envvar="MILLRACE_NATS_REPLICAS",
    help="Copies of each stream; unless given 3 in a cluster, else 1.",
)
@click.option(
    "--write-env",
    "env",
    type=click.Path(path_type=Path),
    help="Write a file of variables for each service there instead of connecting.",
)
@click.option("--public-url", help="The address under which senders reach the gateways; for --write-env.")
@click.option("--print-nats-config", is_flag=True, help="Print the server's configuration with users instead of connecting.")
def main(
    nats_url: str | None,
    database_url: str | None,
    path: Path,
    replicas: int | None,
    *,
    env: Path | None,
    public_url: str | None,
    print_nats_config: bool,
) -> None:
    """Prepare an external NATS and Postgres; writes each service's credentials to a file of mode 0600."""
    try:
        credentials = load_or_create(path, os.environ.get("MILLRACE_ADMIN_KEY"))
        if print_nats_config:
            click.echo(service_env.nats_config_of(credentials, nats_url or "nats://localhost:4222"))
            return
        if not nats_url or not database_url:
            raise click.UsageError("--nats and --postgres are needed.")
        if env is not None:
            if not public_url:
                raise click.UsageError("--write-env needs --public-url.")
            urls = {"nats_url": nats_url, "database_url": database_url, "public_url": public_url}
            for file in service_env.write(env, credentials, **urls):
                click.echo(file)
            return
        copies, warnings = asyncio.run(_prepared(nats_url, database_url, credentials, replicas))
    except StartError as error:
        click.echo(f"prepare: {error}", err=True)
        sys.exit(2)
    for warning in warnings:
        click.echo(f"WARNING: {warning}", err=True)
    click.echo(f"prepared, with {copies} of each stream; the services' credentials are in {path}")


async def _prepared(nats_url: str, database_url: str, credentials: Credentials, replicas: int | None) -> tuple[int, list[str]]:
    await given.check_users(nats_url, credentials)
    copies = await prepare(nats_url=nats_url, database_url=database_url, credentials=credentials, replicas=replicas)
    return copies, [*await given.doubts_of_broker(nats_url, credentials), *await given.doubts_of_database(database_url)]


if __name__ == "__main__":
    main()
