"""What servers of the operator's own must be and allow, and the sentences that say what they are not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import asyncpg
import nats.errors
from nats.aio.client import Client

from deploy.credentials import SERVICES, Credentials
from deploy.errors import StartError
from shared.addresses import tls_of, user_of, with_user, without_password, writable
from shared.client import connect
from shared.errors import Unavailable
from shared.pull import StreamError, api_request

OLDEST_POSTGRES = 150000  # server_version_num; partitioning and MERGE as used
# nats-server server/errors.json: what an account without JetStream, or with too little of it, answers.
_NO_JETSTREAM = {10035, 10039, 10076}
_TOO_FEW_SERVERS = {10005, 10074}
_LIMITED = {10023, 10026, 10027, 10028, 10047}
# Seconds in which the servers of a cluster say what they are.
TOLD_WITHIN = 1.0
PRINT = "python -m deploy.prepare --print-nats-config"


async def check_jetstream(client: Client) -> None:
    """Raise `StartError` when the broker, or the account of this user, has no JetStream."""
    try:
        await api_request(client, "$JS.API.INFO", None)
    except StreamError as error:
        if error.code in _NO_JETSTREAM:
            raise StartError(
                f"The NATS server has no JetStream for this account ({error}): {PRINT} prints a configuration that has."
            ) from error
        raise
    except Unavailable as error:
        if isinstance(error.__cause__, nats.errors.NoRespondersError):
            raise StartError(f"The NATS server runs without JetStream: {PRINT} prints a configuration that has it.") from error
        raise


def refused(error: Exception, said: list[Exception], replicas: int | None) -> str:
    """Return why the broker did not make or change a stream, as a sentence; `said` is what it told the client besides."""
    denied = [str(one) for one in said if "permissions violation" in str(one).lower()]
    if denied:
        # The broker does not answer what it does not permit.
        return f"The NATS user may not make streams ({denied[0]}): give the URL of the account's administrator."
    if isinstance(error, StreamError) and error.code in _TOO_FEW_SERVERS:
        return (
            f"NATS has no place for {replicas} copies of each stream ({error}): start more servers with JetStream, or set "
            "MILLRACE_NATS_REPLICAS."
        )
    if isinstance(error, StreamError) and error.code in _LIMITED:
        return f"The NATS account allows too little ({error}): raise the limits of its JetStream."
    return f"The NATS server refused: {error}."


def unreached(url: str, errors: list[Exception]) -> str:
    """Return why there is no connection to the broker, as a sentence without a secret."""
    if any("authorization" in str(one).lower() for one in errors):
        user = user_of(url)
        return f"The NATS server does not take the user {user[0]!r} with its password." if user else "The NATS server wants a user."
    # Where every server was tried, the last word is that there is none.
    told = next((one for one in errors if not isinstance(one, nats.errors.NoServersError)), errors[0])
    why = f"{type(told).__name__}: {told}".rstrip(": .")
    return f"The NATS server {without_password(url)} cannot be reached: {why}."


def check_files(url: str) -> None:
    """Raise `StartError` when a database's address names files for TLS that cannot be used: the driver does not say which."""
    try:
        tls_of(url)
    except ValueError as error:
        raise StartError(f"The address of the Postgres server {error}.") from error


async def connect_database(url: str, *, name: str | None = None, within: float = 60.0) -> asyncpg.Connection[Any]:
    """Connect with the rights that `url` gives, to the server that writes where it names several; the server knows us as `name`.

    Raises what asyncpg raises, TimeoutError after `within` seconds.
    """
    settings = None if name is None else {"application_name": name}
    return await asyncpg.connect(url, timeout=within, server_settings=settings, **writable(url))


def without_secret(error: Exception, url: str) -> str:
    """Return what the database's driver said, without the password."""
    user = user_of(url)
    text = str(error) or type(error).__name__
    return text if user is None or not user[1] else text.replace(user[1], "…")


async def check_users(url: str, credentials: Credentials) -> None:
    """Raise `StartError` that names the services whose users the broker does not take: it is told of them by its configuration."""
    found = await asyncio.gather(*(_is_taken(with_user(url, service, credentials.nats[service])) for service in SERVICES))
    unknown = [service for service, taken in zip(SERVICES, found, strict=True) if not taken]
    if unknown:
        raise StartError(
            f"The NATS server does not take the users {', '.join(unknown)} with the passwords of this installation: its "
            f"configuration must have them, as {PRINT} --credentials FILE prints it; FILE is credentials.json of the data folder."
        )


async def _is_taken(url: str) -> bool:
    heard: list[Exception] = []
    try:
        client = await _connected(url, heard)
    except (nats.errors.Error, OSError, TimeoutError) as error:
        if any("authorization" in str(one).lower() for one in (error, *heard)):
            return False
        raise StartError(unreached(url, [error, *heard])) from error
    await client.close()
    return True


async def check_database(connection: asyncpg.Connection[Any]) -> None:
    """Raise `StartError` when a database cannot be used: too old, a standby, or not of Unicode."""
    number = int(await connection.fetchval("SHOW server_version_num"))
    if number < OLDEST_POSTGRES:
        raise StartError(f"The Postgres server is {number // 10000}; Millrace needs {OLDEST_POSTGRES // 10000} or newer.")
    if await connection.fetchval("SELECT pg_is_in_recovery()"):
        raise StartError("The Postgres server is a standby, which cannot be written to: give the URL of the primary, or of all.")
    encoding = await connection.fetchval("SHOW server_encoding")
    if encoding != "UTF8":
        raise StartError(f"The Postgres database has the encoding {encoding}; Millrace needs UTF8.")


async def doubts_of_broker(url: str, credentials: Credentials) -> list[str]:
    """Return what a given broker should be and is not, or does not let be known, a sentence each."""
    user = user_of(url)
    told: list[dict[str, Any]] = []
    for password in (credentials.nats_admin, user[1] if user else ""):
        told = told or await _servers(with_user(url, "sys", password))
    if not told:
        return ["Whether NATS syncs each message is not known: its system account has no user `sys` with the password of `admin`."]
    late = [one["server"]["name"] for one in told if not _syncs(one)]
    if late:
        return [
            f"NATS loses what it has acknowledged in a power cut: set `jetstream {{ sync_interval: always }}` on {', '.join(late)}."
        ]
    return []


def _syncs(told: dict[str, Any]) -> bool:
    jetstream = told.get("data", {}).get("jetstream") or {}
    # A server of the cluster without JetStream stores nothing.
    return not jetstream.get("config") or bool(jetstream["config"].get("sync_always"))


async def _servers(url: str) -> list[dict[str, Any]]:
    """Return what every server of the cluster says of itself; nothing where this user is not one of the system's."""
    found: list[dict[str, Any]] = []
    try:
        client = await _connected(url, [])
    except (nats.errors.Error, OSError, TimeoutError):
        return found
    try:
        inbox = client.new_inbox()
        answers = await client.subscribe(inbox)
        await client.publish("$SYS.REQ.SERVER.PING.VARZ", b"", inbox)
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            while True:
                found.append(json.loads((await answers.next_msg(TOLD_WITHIN)).data))
    finally:
        await client.close()
    return [one for one in found if "server" in one]


async def doubts_of_database(url: str) -> list[str]:
    """Return what a given database should be and is not, a sentence each."""
    connection = await connect_database(url, within=10)
    try:
        settings = {name: await connection.fetchval(f"SHOW {name}") for name in ("fsync", "full_page_writes", "synchronous_commit")}
    finally:
        await connection.close()
    off = [name for name, value in settings.items() if value == "off"]
    return [f"Postgres loses what it has acknowledged in a power cut: {' and '.join(off)} is off."] if off else []


async def _connected(url: str, heard: list[Exception]) -> Client:
    async def hear(error: Exception) -> None:
        heard.append(error)

    return await connect(
        url, connect_timeout=5, allow_reconnect=False, max_reconnect_attempts=1, reconnect_time_wait=0, error_cb=hear
    )
