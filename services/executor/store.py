"""SQL of the executor service: one method, one statement, one intention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.executor.runs.run_state import RunState, StepId
from services.executor.runs.steps import Place, Step
from shared.db import Connection, transaction
from shared.envelope import rfc3339
from shared.questions.executor import WorkflowEntry
from shared.statements import Statement
from shared.streams import PRIORITIES


class ExecutorStore:
    """Reads for questions and registration."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def run(self, org: str | None, id_: str) -> RunState | None:
        """Return a run as the projection knows it; of any organization for None."""
        rows = await self._all("SELECT org, state FROM run WHERE id = :id", {"id": id_})
        return _state(rows[0]["state"]) if rows and org in {None, rows[0]["org"]} else None

    async def runs(
        self,
        org: str,
        *,
        status: str | None,
        workflow: str | None,
        prefix: str | None,
        since: datetime | None,
        until: datetime | None,
        before: tuple[datetime, str] | None,
        limit: int,
    ) -> list[RunState]:
        """Return runs, newest first, before (requested_at, id)."""
        conditions, parameters = ["org = :org"], {"org": org, "limit": limit}
        given: dict[str, tuple[str, Any]] = {
            "status": ("status = :status", status),
            "workflow": ("workflow = :workflow", workflow),
            "prefix": ("starts_with(id, :prefix)", prefix),
            "since": ("requested_at >= :since", since),
            "until": ("requested_at < :until", until),
        }
        for name, (condition, value) in given.items():
            if value is not None:
                conditions.append(condition)
                parameters[name] = value
        if before is not None:
            conditions.append("(requested_at, id) < (:at, :id)")
            parameters |= {"at": before[0], "id": before[1]}
        statement = f"SELECT state FROM run WHERE {' AND '.join(conditions)} ORDER BY requested_at DESC, id DESC LIMIT :limit"
        return [_state(row["state"]) for row in await self._all(statement, parameters)]

    async def lines(self, run: str, after: int, limit: int, room: int) -> list[RowMapping]:
        """Return lines of a run in order, after the line `after`: up to `limit`, of which all but the first have room."""
        statement = """
            SELECT n, attempt, line
              FROM (SELECT *, octet_length(CAST(line AS text)) AS bytes,
                           sum(octet_length(CAST(line AS text))) OVER (ORDER BY n) AS total
                      FROM line WHERE run = :run AND n > :after ORDER BY n LIMIT :limit) AS following
             WHERE total <= :room OR total = bytes ORDER BY n
        """
        return await self._all(statement, {"run": run, "after": after, "limit": limit, "room": room})

    async def steps(self, run: str, after: Place, limit: int, room: int, *, results: bool) -> list[Step]:
        """Return what is recorded of a run in order, after a place: up to `limit`, of which all but the first have room."""
        statement = f"""
            SELECT seq, place, kind, name, ordinal, position, attempt, completed_at, timed_out, given_up, bytes,
                   {"result" if results else "NULL"} AS result
              FROM (SELECT *, sum(bytes) OVER (ORDER BY seq, place) AS total FROM step
                     WHERE id = :run AND (seq, place) > (:seq, :place) ORDER BY seq, place LIMIT :limit) AS following
             WHERE :results = false OR total <= :room OR total = bytes ORDER BY seq, place
        """
        given = {"run": run, "seq": after[0], "place": after[1], "limit": limit, "room": room, "results": results}
        return [_step(run, row) for row in await self._all(statement, given)]

    async def orgs_queued(self, limit: int = 100) -> list[str]:
        """Return organizations that have a run queued, however many each has."""
        statement = """
            WITH RECURSIVE found AS (
                (SELECT org FROM run WHERE status = 'queued' ORDER BY org LIMIT 1)
                UNION ALL
                SELECT (SELECT run.org FROM run WHERE status = 'queued' AND run.org > found.org ORDER BY run.org LIMIT 1)
                  FROM found WHERE found.org IS NOT NULL)
            SELECT org FROM found WHERE org IS NOT NULL LIMIT :limit
        """
        return [row["org"] for row in await self._all(statement, {"limit": limit})]

    async def length_of_chain(self, org: str, chain: str, most: int) -> int:
        """Return how many runs of a chain were started by other runs of it, counting up to `most`."""
        statement = "SELECT count(*) AS n FROM (SELECT FROM run WHERE org = :org AND chain = :chain LIMIT :most) AS counted"
        return int((await self._all(statement, {"org": org, "chain": chain, "most": most}))[0]["n"])

    async def waits_over(self, run: str) -> set[StepId]:
        """Return the waits of a run that its rows know to be over."""
        statement = "SELECT kind, name, ordinal FROM step WHERE id = :run AND kind IN ('sleep', 'signal', 'run')"
        return {(row["kind"], row["name"], row["ordinal"]) for row in await self._all(statement, {"run": run})}

    async def file(self, org: str, path: str) -> RowMapping | None:
        """Return one file."""
        rows = await self._all("SELECT * FROM file WHERE org = :org AND path = :path", {"org": org, "path": path})
        return rows[0] if rows else None

    async def files(self, org: str, prefix: str, after: str, limit: int) -> list[RowMapping]:
        """Return files below a prefix, by path, after a path."""
        statement = """
            SELECT * FROM file WHERE org = :org AND path > :after AND starts_with(path, :prefix) ORDER BY path LIMIT :limit
        """
        return await self._all(statement, {"org": org, "prefix": prefix, "after": after, "limit": limit})

    async def tree(self, org: str) -> dict[str, str]:
        """Return the SHA-256 of every file of a workspace by path."""
        rows = await self._all("SELECT path, sha256 FROM file WHERE org = :org", {"org": org})
        return {row["path"]: row["sha256"] for row in rows}

    async def in_the_way(self, org: str, path: str, gone: Sequence[str] = ()) -> str | None:
        """Return a file, none of `gone`, that may not be beside one of this path: as its folder, below it, or of the other case."""
        parents = ["/".join(path.split("/")[:count]) for count in range(1, path.count("/") + 1)]
        statement = """
            SELECT path FROM file WHERE org = :org AND path <> :path AND path <> ALL(:gone)
            AND (path = ANY(:parents) OR starts_with(path, :below) OR lower(path) = lower(:path)) ORDER BY path LIMIT 1
        """
        rows = await self._all(statement, {"org": org, "path": path, "parents": parents, "below": f"{path}/", "gone": list(gone)})
        return rows[0]["path"] if rows else None

    async def workflow(self, org: str, name: str) -> tuple[WorkflowEntry, int] | None:
        """Return a workflow and the sequence that it reflects."""
        statement = "SELECT entry, version FROM workflow WHERE org = :org AND name = :name"
        rows = await self._all(statement, {"org": org, "name": name})
        return (_entry(rows[0]["entry"]), rows[0]["version"]) if rows else None

    async def newest_version(self, org: str) -> str | None:
        """Return the version of the workflow that was registered last; None where nothing is served."""
        statement = "SELECT entry ->> 'version' AS newest FROM workflow WHERE org = :org ORDER BY version DESC LIMIT 1"
        rows = await self._all(statement, {"org": org})
        return rows[0]["newest"] if rows else None

    async def workflows(self, orgs: Iterable[str], after: str = "", limit: int = 10_000) -> list[WorkflowEntry]:
        """Return workflows of these organizations by name."""
        statement = "SELECT entry FROM workflow WHERE org = ANY(:orgs) AND name > :after ORDER BY name, org LIMIT :limit"
        rows = await self._all(statement, {"orgs": list(orgs), "after": after, "limit": limit})
        return [_entry(row["entry"]) for row in rows]

    async def _all(self, statement: str, parameters: dict[str, Any]) -> list[RowMapping]:
        async with transaction(self._engine) as connection:
            return list((await connection.execute(text(statement), parameters)).mappings().all())


_RANKS: dict[str, int] = {priority: rank for rank, priority in enumerate(PRIORITIES)}


# -- writes, by the projections -----------------------------------------------------------------------------------------------


async def states(connection: Connection, ids: list[str]) -> dict[str, RunState]:
    """Return what the projection knows of these runs."""
    rows = await connection.fetch("SELECT id, state FROM run WHERE id = ANY($1)", ids)
    return {row["id"]: _state_decoder.decode(row["state"]) for row in rows}


def put_states(changed: list[RunState]) -> Statement:
    """Write runs; one statement for all of them."""
    statement = """
        INSERT INTO run (id, org, workflow, status, requested_at, finished_at, last_seq, state,
                         blocked_on, concurrency_key, rank, due_at, expires_at, chain)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                             $7::bigint[], $8::json[],
                             $9::text[], $10::text[], $11::smallint[], $12::timestamptz[], $13::timestamptz[],
                             $14::text[])
        ON CONFLICT (id) DO UPDATE SET status = excluded.status, finished_at = excluded.finished_at,
            last_seq = excluded.last_seq, state = excluded.state,
            blocked_on = excluded.blocked_on, concurrency_key = excluded.concurrency_key, due_at = excluded.due_at,
            expires_at = excluded.expires_at,
            -- Something came after all was purged: it is to be purged too.
            on_bus = CASE run.on_bus WHEN 'gone' THEN 'going' ELSE run.on_bus END
    """
    columns = (
        [state.id for state in changed],
        [state.org for state in changed],
        [state.workflow for state in changed],
        [state.status for state in changed],
        [datetime.fromisoformat(state.requested_at) for state in changed],
        [None if state.finished_at is None else datetime.fromisoformat(state.finished_at) for state in changed],
        [state.last_seq for state in changed],
        [_json(state) for state in changed],
        [state.blocked_on for state in changed],
        [state.slot and state.slot.key for state in changed],
        [_RANKS.get(state.priority, 1) for state in changed],
        [None if state.until is None else datetime.fromisoformat(state.until) for state in changed],
        [None if state.attempt or state.ended else state.expires_at for state in changed],
        [state.correlation_id if state.hops else None for state in changed],
    )
    return Statement(statement, columns)


def put_steps(steps: list[Step]) -> Statement:
    """Write what runs recorded; one statement for all of it."""
    statement = """
        INSERT INTO step (id, seq, place, kind, name, ordinal, position, attempt, completed_at, timed_out, given_up, bytes,
                          result)
        SELECT * FROM unnest($1::text[], $2::bigint[], $3::integer[], $4::text[], $5::text[], $6::integer[], $7::integer[],
                             $8::integer[], $9::timestamptz[], $10::boolean[], $11::boolean[], $12::integer[], $13::json[])
        ON CONFLICT DO NOTHING
    """
    columns = (
        [step.run for step in steps],
        [step.place[0] for step in steps],
        [step.place[1] for step in steps],
        [_text(step.kind) for step in steps],
        [_text(step.name) for step in steps],
        [step.ordinal for step in steps],
        [step.position for step in steps],
        [step.attempt for step in steps],
        [datetime.fromisoformat(step.at) for step in steps],
        [step.timed_out for step in steps],
        [step.given_up for step in steps],
        [step.bytes for step in steps],
        [_json(step.result) for step in steps],
    )
    return Statement(statement, columns)


async def last_lines(connection: Connection, runs: list[str]) -> dict[str, int]:
    """Return the number of the last line of each run that has any."""
    rows = await connection.fetch("SELECT run, max(n) AS n FROM line WHERE run = ANY($1) GROUP BY run", runs)
    return {row["run"]: row["n"] for row in rows}


def put_lines(lines: list[tuple[str, int, int, Any]]) -> Statement:
    """Write lines as (run, n, attempt, line); one statement for all of them."""
    statement = """
        INSERT INTO line (run, n, attempt, line) SELECT * FROM unnest($1::text[], $2::bigint[], $3::integer[], $4::json[])
    """
    runs, numbers, attempts, values = zip(*lines, strict=True)
    return Statement(
        statement,
        (
            runs,
            numbers,
            attempts,
            [_json(value) for value in values],
        ),
    )


def put_file(org: str, path: str, sha256: str, size: int, at: datetime, version: int) -> Statement:
    """Make the row of a file what its last message says."""
    statement = """
        INSERT INTO file (org, path, sha256, size, updated_at, version) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (org, path) DO UPDATE SET sha256 = excluded.sha256, size = excluded.size,
            updated_at = excluded.updated_at, version = excluded.version
    """
    return Statement(
        statement,
        (
            org,
            path,
            sha256,
            size,
            at,
            version,
        ),
    )


def remove_file(org: str, path: str) -> Statement:
    """Forget a file."""
    return Statement(
        "DELETE FROM file WHERE org = $1 AND path = $2",
        (
            org,
            path,
        ),
    )


def put_workflow(entry: WorkflowEntry, version: int) -> Statement:
    """Make the row of a workflow what its last message says."""
    statement = """
        INSERT INTO workflow (org, name, entry, version) VALUES ($1, $2, $3, $4)
        ON CONFLICT (org, name) DO UPDATE SET entry = excluded.entry, version = excluded.version
    """
    return Statement(
        statement,
        (
            entry.org,
            entry.name,
            _json(entry),
            version,
        ),
    )


def remove_workflow(org: str, name: str) -> Statement:
    """Forget a workflow."""
    return Statement(
        "DELETE FROM workflow WHERE org = $1 AND name = $2",
        (
            org,
            name,
        ),
    )


# -- writes, by the purge ------------------------------------------------------------------------------------------------------


async def overdue(connection: AsyncConnection, now: datetime, late: float, limit: int) -> list[str]:
    """Return runs that are to be looked at: due, or expired, for `late` seconds, or to be stopped while waiting."""
    statement = """
        (SELECT id FROM run WHERE due_at < :due LIMIT :limit)
        UNION (SELECT id FROM run WHERE expires_at < :due LIMIT :limit)
        UNION (SELECT id FROM run WHERE status = 'cancelling' AND blocked_on IS NOT NULL LIMIT :limit)
    """
    rows = await connection.execute(text(statement), {"due": now - timedelta(seconds=late), "limit": limit})
    return [row.id for row in rows]


async def begin_purge(connection: AsyncConnection, *, before: datetime, up_to: int, limit: int) -> list[tuple[str, int]]:
    """Mark runs that ended before a time, with no message beyond `up_to`, as going from the bus; return them with their last_seq.

    From now on their rows are not to be made anew of what the bus holds. Those whose purge was begun and not ended come again.
    """
    statement = """
        UPDATE run SET on_bus = 'going' WHERE id IN (
            SELECT id FROM run WHERE on_bus <> 'gone' AND finished_at < :before AND last_seq <= :up_to
             ORDER BY finished_at LIMIT :limit FOR UPDATE)
        RETURNING id, last_seq
    """
    rows = await connection.execute(text(statement), {"before": before, "up_to": up_to, "limit": limit})
    return [(row.id, row.last_seq) for row in rows]


async def end_purge(connection: AsyncConnection, purged: list[tuple[str, int]]) -> None:
    """Mark runs as gone from the bus up to the sequence beside each; one of which more came in the meantime stays `going`."""
    statement = """
        UPDATE run SET on_bus = 'gone'
          FROM unnest(CAST(:id AS text[]), CAST(:last_seq AS bigint[])) AS purged (id, last_seq)
         WHERE run.id = purged.id AND run.last_seq = purged.last_seq
    """
    columns = {"id": [id_ for id_, _ in purged], "last_seq": [last_seq for _, last_seq in purged]}
    await connection.execute(text(statement), columns)


def _json(value: Any) -> str:
    """Return JSON that Postgres takes: it refuses U+0000, which is kept as its replacement here and exactly on the bus."""
    return msgspec.json.encode(value).decode().replace("\\u0000", "\\ufffd")


def _text(value: str) -> str:
    return value.replace("\0", "\ufffd")


_state_decoder = msgspec.json.Decoder(RunState)


def _state(stored: Any) -> RunState:
    return msgspec.convert(stored, RunState)


def _step(run: str, row: RowMapping) -> Step:
    return Step(
        run=run,
        place=(row["seq"], row["place"]),
        kind=row["kind"],
        name=row["name"],
        ordinal=row["ordinal"],
        position=row["position"],
        attempt=row["attempt"],
        at=rfc3339(row["completed_at"]),
        timed_out=row["timed_out"],
        given_up=row["given_up"],
        bytes=row["bytes"],
        result=row["result"],
    )


def _entry(stored: Any) -> WorkflowEntry:
    return msgspec.convert(stored, WorkflowEntry)
