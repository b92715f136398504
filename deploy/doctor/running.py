"""Checks a running stack from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import aiohttp
import asyncpg
import msgspec
import nats.errors
from nats.aio.client import Client

from deploy.credentials import SERVICES
from deploy.doctor.finding import Finding, Verdict
from deploy.errors import StartError
from deploy.local import Ready
from deploy.positions import administrator, held, pending
from deploy.rebuild.parts import PROJECTING
from deploy.supervise import State
from services.executor.sandbox.probing import better
from shared.durables import backlog_of
from shared.errors import Unavailable
from shared.pull import StreamError
from shared.streams import WORK

ASKING_TAKES = 5.0
# Seconds for which an end is worth a word, although the program runs again.
DIED_LATELY = 600.0
# Work or rows that have waited for this long are not waiting for their turn.
TOO_LATE = 60.0

# What each service keeps sealed.
SEALING = {
    "oauth": "connections, tokens, secrets or providers",
    "events": "sources or mappings with secret settings",
}


class Told(msgspec.Struct, frozen=True):
    """The supervisor's state in run/state.json."""

    pid: int
    processes: dict[str, State]


def supervised(path: Path, logs: Path, now: datetime) -> Iterator[Finding]:
    """Look at the supervisor's report of its processes."""
    try:
        told = msgspec.json.decode(path.read_bytes(), type=Told)
    except (OSError, msgspec.DecodeError) as error:
        yield Finding("processes", "note", f"the supervisor says nothing ({error})", "It is starting, or of an older version.")
        return
    for name, state in told.processes.items():
        last = "" if state.last_exit is None else f", the last exit was {state.last_exit.how}"
        lately = state.last_exit is not None and (now - state.last_exit.at).total_seconds() < DIED_LATELY
        do = f"The end of {logs / f'{name}.log'} says why."
        if state.is_failing:
            since = _since(state.failing_since or state.since)
            verdict, said = "wrong", f"dies again and again: {state.failures} times in a row{last}; {since}"
        elif state.pid is None:
            verdict, said = "wrong", f"is down and waits to be started again{last}; {_since(state.since)}"
        elif state.silent_since is not None:
            verdict, said = "wrong", f"hangs: pid {state.pid} does not answer, {_since(state.silent_since)}"
            ended = (
                "Its supervisor ends it and starts it again" if name in SERVICES else f"`kill -9 {state.pid}` ends it if it stays"
            )
            do = f"{ended}; {logs / f'{name}.log'} may say what holds it up."
        else:
            verdict, said = "note" if lately else "well", f"pid {state.pid}, {_restarted(state.restarts)}{last}"
        yield Finding(f"process {name}", cast("Verdict", verdict), said, do)


def _restarted(times: int) -> str:
    return "never started again" if not times else "started again once" if times == 1 else f"started again {times} times"


async def served(url: str) -> Finding:
    """Ask the gateway as every load balancer does, and give its answer as it is: nothing here judges anew."""
    about = "readiness"
    try:
        timeout = aiohttp.ClientTimeout(total=ASKING_TAKES)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/readyz") as response:
            document: dict[str, Any] = await response.json(content_type=None)
    except (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError):  # noqa: UP041 - both names, one in 3.11
        return Finding(about, "wrong", f"the gateway does not answer at {url}/readyz", "No webhook is taken: see logs/gateway.log.")
    if document.get("status") == "ready":
        return Finding(about, "well", "all that is taken is served")
    accepting = document.get("accepting") or {}
    taken = "webhooks are taken and stored" if accepting.get("webhooks") else f"no webhook is taken: {accepting.get('reason')}"
    problems = [f"{why['detail']} since {why['since']}: {why['effect']}" for why in (document.get("unserved") or {}).values()]
    problems += [f"{part}: {one['detail']}, since {one['since']}" for part, one in document["parts"].items() if not one["ready"]]
    degraded = document.get("degraded") or []
    problems += [f"{name} is not well in every part" for name in degraded if name not in {"backlog", "quarantined"}]
    problems += [f"backlog: {document['backlog']['problem']}" for name in degraded if name == "backlog"]
    problems += [f"{rows} rows of {name} do not open" for name, rows in (document.get("quarantined") or {}).items()]
    unserved = ", ".join(f"logs/{name}.log" for name in document.get("unserved") or {})
    do = (
        f"Read the end of {unserved} in the data folder: it says why."
        if unserved
        else "What each part waits for is named at its service."
    )
    return Finding(about, "wrong", f"{document.get('status')}: {'; '.join(problems)}; {taken}", do)


async def healthy(sockets: Path, services: list[str]) -> AsyncIterator[Finding]:
    """Ask every service whether it is ready; the executor also for its sandbox, the gateway and events for what waits."""
    for name in services:
        document = await _readyz(sockets / "health" / f"{name}.sock")
        if document is None:
            yield Finding(f"service {name}", "wrong", "does not answer", f"Its log is logs/{name}.log in the data folder.")
            continue
        parts: dict[str, dict[str, Any]] = document.get("parts") or {}
        problems = [f"{part}: {told.get('detail')}" for part, told in parts.items() if not told.get("ready")]
        verdict: Verdict = "well" if document.get("ready") else "wrong"
        said = "; ".join(problems) or f"ready, {len(parts)} parts"
        yield Finding(f"service {name}", verdict, said, "What it waits for is named; its log says more.")
        if name == "executor":
            yield _sandbox(document.get("sandbox"))
            yield _environments(document.get("environments"))
            yield _groups(document.get("groups") or {})
        if name == "gateway" and "backlog" in document:
            yield _backlog(document["backlog"])
        if name == "events" and "queued_runs" in document:
            yield _queued(document["queued_runs"])
        if name in SEALING and "quarantined" in document:
            yield _quarantined(name, document["quarantined"])


async def stores(ready: Ready) -> AsyncIterator[Finding]:
    """Look at the broker and the database, their queues, and the dead letters. One that is down hides no other."""
    connection = None
    try:
        connection = await asyncpg.connect(ready.database_url, timeout=ASKING_TAKES, command_timeout=ASKING_TAKES)
        yield await _database(connection)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
        yield Finding("database", "wrong", f"cannot be reached: {type(error).__name__}", "logs/postgres.log says why.")
    try:
        async with administrator(ready.nats_url) as client:
            found = client.connected_server_version
            yield Finding("broker", "well", f"NATS {found.major}.{found.minor}.{found.patch}")
            async for finding in _waiting(client):
                yield finding
            if connection is not None:
                async for finding in _behind(client, connection):
                    yield finding
            # The broker knows of their letters, the database which of them are open.
            dead = (await held(client, "DEAD")).messages
            if dead and connection is not None:
                dead = await connection.fetchval("SELECT count(*) FROM events.dead_letter WHERE status = 'open'")
            said = f"{dead} messages were given up" if dead else "none"
            yield Finding("dead letters", "note" if dead else "well", said, "`millrace dead-letters list` shows them and why.")
    except (StartError, StreamError, Unavailable, nats.errors.Error, TimeoutError) as error:
        yield Finding("broker", "wrong", f"cannot be reached or does not answer: {error}", "logs/nats.log says why.")
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        yield Finding("database", "wrong", f"does not answer: {type(error).__name__}", "logs/postgres.log says why.")
    finally:
        if connection is not None:
            connection.terminate()


async def _database(connection: asyncpg.Connection) -> Finding:
    version = await connection.fetchval("SHOW server_version")
    used = await connection.fetchval("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
    limit = int(await connection.fetchval("SHOW max_connections"))
    said = f"Postgres {version}, {used} of {limit} connections"
    return Finding("database", "wrong" if used > 0.9 * limit else "well", said, "Raise max_connections.")


async def _waiting(client: Client) -> AsyncIterator[Finding]:
    """Look at the durable consumers: the messages that wait for a handler, and since when."""
    for work in WORK:
        found = await backlog_of(client, work)
        age = 0.0 if found.since is None else (datetime.now(UTC) - found.since).total_seconds()
        oldest = f"; the oldest since {age:.0f} s" if found.undelivered else ""
        said = f"{found.undelivered} wait, {found.in_work} in work{oldest}"
        do = f"The {work.service} service does not keep up, or has stopped taking work: see its health above."
        yield Finding(f"work {work.name}", "wrong" if age > TOO_LATE else "well", said, do)


async def _behind(client: Client, connection: asyncpg.Connection) -> AsyncIterator[Finding]:
    """Look at how far the rows are behind the streams."""
    for service, projections in PROJECTING.items():
        rows = await connection.fetch(f'SELECT projection, last_seq, now() - updated_at AS idle FROM "{service}".checkpoint')  # noqa: S608
        at = {row["projection"]: row for row in rows}
        late, total = [], 0
        for one in projections(client):
            row = at.get(one.name)
            left = await pending(client, one.stream, one.filters, 0 if row is None else row["last_seq"])
            total += left
            if left and (row is None or row["idle"].total_seconds() > TOO_LATE):
                late.append(f"{one.name} by {left}")
        said = f"behind: {', '.join(late)}" if late else f"up to date ({total} on their way)"
        do = f"The {service} service does not write its rows: see its health above."
        yield Finding(f"rows of {service}", "wrong" if late else "well", said, do)


def _backlog(told: dict[str, Any]) -> Finding:
    bounds = f"the bounds are {told['max_messages']} messages and {told['max_age_s']:.0f} s"
    if told["problem"] is not None:
        do = "Consumption is slower than acceptance: see the work below for which, and docs/limits.md for the bounds."
        return Finding("backlog", "wrong", f"{told['problem']}; {told['refused']} were refused since its start", do)
    return Finding("backlog", "well", f"{told['messages']} webhooks wait, the oldest for {told['age_s']:.0f} s; {bounds}")


def _queued(told: dict[str, Any]) -> Finding:
    said = f"{told['messages']} runs wait; floods of webhooks are held back from {told['max_messages']} on"
    do = "Runs are asked for faster than they run: see the work below, and docs/limits.md for the bound."
    return Finding("queued runs", "note" if told["holds_back"] else "well", said, do)


def _groups(told: dict[str, Any]) -> Finding:
    served = ", ".join(f"{group} by {count}" for group, count in sorted((told.get("executors") or {}).items())) or "none"
    unserved = ", ".join(f"{count} of {group}" for group, count in sorted((told.get("unserved") or {}).items()))
    said = f"executors serve: {served}" + (f"; runs wait for an executor that serves their group: {unserved}" if unserved else "")
    do = "Start an executor with the group in MILLRACE_WORKER_GROUPS; `millrace runs list --status queued` shows the runs."
    return Finding("worker groups", "wrong" if unserved else "well", said, do)


def _quarantined(service: str, told: dict[str, Any]) -> Finding:
    rows = told["rows"]
    said = (
        f"{rows} {SEALING[service]} do not open, which fail for their organizations alone" if rows else "all that is sealed opens"
    )
    do = (
        "Give the services the key again that sealed them (docs/connections.md, Keys), or put them again: "
        f"`millrace keys rotate` names each, and so does logs/{service}.log in the data folder."
    )
    return Finding(f"keys of {service}", "wrong" if rows else "well", "not looked through yet" if rows is None else said, do)


def _sandbox(told: Any) -> Finding:
    tier = told.get("tier") if isinstance(told, dict) else None
    bounds = bounded(told.get("held") or (), told.get("unheld") or {}) if tier is not None else ""
    if tier == "A":
        return Finding("sandbox", "well", f"tier A, {bounds}")
    refused = told.get("refused") or {} if isinstance(told, dict) else {}
    because = "; ".join(f"tier {name}: {reason}" for name, reason in refused.items()) or "no reason is known"
    if tier == "B":
        do = (
            f"docs/security.md says what it lets through. Why not tier A: {refused.get('A', 'it was not tried')}. {better(refused)}"
        )
        return Finding("sandbox", "note", f"tier B, {bounds}", do.rstrip())
    if tier == "none":
        return Finding("sandbox", "note", "runs are not isolated (tier none)", f"Run only code that you trust. {because}")
    return Finding("sandbox", "wrong", "no run is taken: there is no sandbox", because)


def _environments(told: Any) -> Finding:
    """Return how many packages are installed, and the room that they have."""
    if not isinstance(told, dict):
        return Finding("environments", "note", "the executor does not say what is installed")
    used, most = told["bytes"], told["most_bytes"]
    said = f"{told['built']} environments of {told['wheels']} packages, {used >> 20} MB of {most >> 20}"
    if used > most * 0.9:
        return Finding("environments", "note", said, "give it more by MILLRACE_ENVIRONMENT_BYTES")
    return Finding("environments", "well", said)


def bounded(held: Iterable[str], unheld: Mapping[str, str]) -> str:
    """Report which of memory, processes and CPU of a run the kernel limits by control groups, and why not the others."""
    said = f"control groups hold {', '.join(sorted(held)) or 'nothing'} of each run"
    return said + "".join(f"; not {name}: {reason}" for name, reason in sorted(unheld.items()))


async def _readyz(socket: Path) -> dict[str, Any] | None:
    connector = aiohttp.UnixConnector(str(socket))
    timeout = aiohttp.ClientTimeout(total=ASKING_TAKES)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get("http://service/readyz") as response,
        ):
            document: dict[str, Any] = await response.json(content_type=None)
            return document
    except (aiohttp.ClientError, OSError, ValueError, asyncio.TimeoutError):  # noqa: UP041 - both names, one in 3.11
        return None


def _since(moment: datetime) -> str:
    return f"since {moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
