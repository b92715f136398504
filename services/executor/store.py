"""SQL of the executor service: one method, one statement, one intention."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Executable,
    RowMapping,
    Subquery,
    Table,
    Text,
    any_,
    cast,
    delete,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.executor import tables
from services.executor.runs.run_state import RunState, StepId
from services.executor.runs.steps import Place, Step
from shared.db import Connection, transaction
from shared.envelope import rfc3339
from shared.messages.shards import shard_in_sql
from shared.questions.adapters import AdapterEntry
from shared.questions.workflows import WorkflowEntry
from shared.statements import Compiled, Filtered, Statement, inserted, overwriting, parameter
from shared.streams import DEFAULT_GROUP, PRIORITIES
from shared.tables import Moment

_REGISTERED = (tables.workflow, tables.adapter)
_ORG, _IDS = parameter("org"), parameter("ids", ARRAY(Text))
# As text, which is read into its struct at once.
_STATE = cast(tables.run.c.state, Text).label("state")
_RUN_OF = Compiled(select(tables.run.c.org, _STATE).where(tables.run.c.id == parameter("id")))
_OWNER_OF = Compiled(select(tables.run.c.org).where(tables.run.c.id == parameter("id")))
_REQUESTED = (tables.run.c.requested_at, tables.run.c.id)
_RUNS = Filtered(
    select(_STATE)
    .where(tables.run.c.org == _ORG)
    .order_by(*(column.desc() for column in _REQUESTED))
    .limit(parameter("limit", BigInteger)),
    status=tables.run.c.status == parameter("status"),
    workflow=tables.run.c.workflow == parameter("workflow"),
    prefix=func.starts_with(tables.run.c.id, parameter("prefix", Text)),
    since=tables.run.c.requested_at >= parameter("since"),
    until=tables.run.c.requested_at < parameter("until"),
    before=tuple_(*_REQUESTED) < tuple_(parameter("before", Moment), parameter("before_id", Text)),
)
_OF_CHAIN = (
    select(tables.run.c.id)
    .where(tables.run.c.org == _ORG, tables.run.c.chain == parameter("chain"))
    .limit(parameter("most", BigInteger))
    .subquery()
)
_LENGTH_OF_CHAIN = Compiled(select(func.count().label("n")).select_from(_OF_CHAIN))
_PARKED = Compiled(select(func.count().label("n")).select_from(tables.run).where(tables.IS_PARKED))
_WAITS_OVER = Compiled(
    select(tables.step.c.kind, tables.step.c.name, tables.step.c.ordinal).where(
        tables.step.c.id == parameter("run"), text("kind IN ('sleep', 'signal', 'ask', 'run', 'event')")
    )
)
_FILE = Compiled(select(tables.file).where(tables.file.c.org == _ORG, tables.file.c.path == parameter("path")))


def _defined(of: Table) -> Subquery:
    """Return the names of an organization's workflows or adapters by the file that defines them."""
    path = of.c.entry["path"].as_string().label("path")
    names = func.array_agg(aggregate_order_by(of.c.name, of.c.name)).label("names")
    return select(path, names).where(of.c.org == _ORG).group_by(path).subquery(f"defined_{of.name}")


_NO_NAMES = cast(literal_column("'{}'"), ARRAY(Text))
_SERVED, _ADAPTED = _defined(tables.workflow), _defined(tables.adapter)
_DESCRIBED = Filtered(
    select(
        tables.file,
        func.coalesce(_SERVED.c.names, _NO_NAMES).label("workflows"),
        func.coalesce(_ADAPTED.c.names, _NO_NAMES).label("adapters"),
    )
    .outerjoin(_SERVED, _SERVED.c.path == tables.file.c.path)
    .outerjoin(_ADAPTED, _ADAPTED.c.path == tables.file.c.path)
    .where(tables.file.c.org == _ORG, tables.file.c.path > parameter("after"))
    .order_by(tables.file.c.path)
    .limit(parameter("limit", BigInteger)),
    path=tables.file.c.path == parameter("path"),
    prefix=func.starts_with(tables.file.c.path, parameter("prefix", Text)),
)
_TREE = Compiled(select(tables.file.c.path, tables.file.c.sha256, tables.file.c.size).where(tables.file.c.org == _ORG))
_WORKFLOW = Compiled(
    select(tables.workflow.c.entry, tables.workflow.c.version).where(
        tables.workflow.c.org == _ORG, tables.workflow.c.name == parameter("name")
    )
)
_OF_ORG = union_all(
    *(select(one.c.entry["version"].as_string().label("newest"), one.c.version).where(one.c.org == _ORG) for one in _REGISTERED)
).subquery()
_NEWEST_VERSION = Compiled(select(_OF_ORG.c.newest).order_by(_OF_ORG.c.version.desc()).limit(1))
_ADAPTER = Compiled(
    select(tables.adapter.c.entry, tables.adapter.c.version).where(
        tables.adapter.c.org == _ORG, tables.adapter.c.name == parameter("name")
    )
)
_ADAPTERS = Compiled(select(tables.adapter.c.entry).where(tables.adapter.c.org == _ORG).order_by(tables.adapter.c.name))
# Those that are seen: of a name that several organizations have, that of the first.
_SEEN_WORKFLOWS = (
    select(tables.workflow.c.name, tables.workflow.c.entry)
    .ext(distinct_on(tables.workflow.c.name))
    .where(tables.workflow.c.org == any_(parameter("orgs", ARRAY(Text))), tables.workflow.c.name > parameter("after"))
    .order_by(tables.workflow.c.name, func.array_position(parameter("orgs", ARRAY(Text)), tables.workflow.c.org))
    .subquery()
)
_WORKFLOWS = Compiled(
    select(_SEEN_WORKFLOWS.c.entry)
    .where(
        or_(
            parameter("only", Text) == "",
            func.json_typeof(_SEEN_WORKFLOWS.c.entry["policy"][parameter("only", Text)]) == "object",
        )
    )
    .order_by(_SEEN_WORKFLOWS.c.name)
    .limit(parameter("limit", BigInteger))
)


class ExecutorStore:
    """Reads for questions and registration."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def run(self, org: str | None, id_: str) -> RunState | None:
        """Return a run as the projection knows it; of any organization for None."""
        rows = await self._all(_RUN_OF(id=id_))
        return _state(rows[0]["state"]) if rows and org in {None, rows[0]["org"]} else None

    async def has_run(self, org: str, id_: str) -> bool:
        """Return whether the projection knows this run, without reading its state."""
        return [row["org"] for row in await self._all(_OWNER_OF(id=id_))] == [org]

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
        moment, id_ = before or (None, "")
        wanted = {"status": status, "workflow": workflow, "prefix": prefix, "since": since, "until": until, "before": moment}
        return [_state(row["state"]) for row in await _RUNS(wanted, org=org, limit=limit, before_id=id_).read(self._engine)]

    async def lines(self, run_id: str, after: int, limit: int, room: int) -> list[RowMapping]:
        """Return lines of a run in order, after the line `after`: up to `limit`, of which all but the first have room."""
        statement = """
            SELECT n, attempt, line
              FROM (SELECT *, octet_length(CAST(line AS text)) AS bytes,
                           sum(octet_length(CAST(line AS text))) OVER (ORDER BY n) AS total
                      FROM line WHERE run = :run AND n > :after ORDER BY n LIMIT :limit) AS following
             WHERE total <= :room OR total = bytes ORDER BY n
        """
        return await self._all(text(statement), {"run": run_id, "after": after, "limit": limit, "room": room})

    async def steps(self, run_id: str, after: Place, limit: int, room: int, *, results: bool) -> list[Step]:
        """Return the records of a run in order, after a place: up to `limit`, of which all but the first have room."""
        statement = f"""
            SELECT seq, place, kind, name, ordinal, position, attempt, completed_at, timed_out, given_up, bytes,
                   {"result" if results else "NULL"} AS result
              FROM (SELECT *, sum(bytes) OVER (ORDER BY seq, place) AS total FROM step
                     WHERE id = :run AND (seq, place) > (:seq, :place) ORDER BY seq, place LIMIT :limit) AS following
             WHERE :results = false OR total <= :room OR total = bytes ORDER BY seq, place
        """
        given = {"run": run_id, "seq": after[0], "place": after[1], "limit": limit, "room": room, "results": results}
        return [_step(run_id, row) for row in await self._all(text(statement), given)]

    async def orgs_queued(self, groups: Sequence[str], limit: int = 100) -> list[str]:
        """Return organizations that have a run of these worker groups queued, however many each has."""
        statement = """
            WITH RECURSIVE found AS (
                SELECT worker_group, (SELECT org FROM run WHERE status = 'queued' AND run.worker_group = served.worker_group
                                       ORDER BY org LIMIT 1) AS org
                  FROM unnest(CAST(:groups AS text[])) AS served (worker_group)
                UNION ALL
                SELECT worker_group, (SELECT run.org FROM run WHERE status = 'queued' AND run.worker_group = found.worker_group
                                         AND run.org > found.org ORDER BY run.org LIMIT 1)
                  FROM found WHERE found.org IS NOT NULL)
            SELECT DISTINCT org FROM found WHERE org IS NOT NULL LIMIT :limit
        """
        return [row["org"] for row in await self._all(text(statement), {"limit": limit, "groups": list(groups)})]

    async def queued_in_groups(self) -> dict[str, int]:
        """Return how many runs of each worker group but the default one are queued."""
        statement = "SELECT worker_group, count(*) AS n FROM run WHERE status = 'queued' AND worker_group {} :default GROUP BY 1"
        both = f"{statement.format('<')} UNION ALL {statement.format('>')}"  # the index leads past the default one
        return {row["worker_group"]: int(row["n"]) for row in await self._all(text(both), {"default": DEFAULT_GROUP})}

    async def parked(self) -> int:
        """Return how many runs are parked."""
        (counted,) = await self._all(_PARKED())
        return int(counted["n"])

    async def length_of_chain(self, org: str, chain: str, most: int) -> int:
        """Return how many runs of a chain were started by other runs of it, counting up to `most`."""
        (counted,) = await self._all(_LENGTH_OF_CHAIN(org=org, chain=chain, most=most))
        return int(counted["n"])

    async def waits_over(self, run_id: str) -> set[StepId]:
        """Return the waits of a run that its rows know to be over."""
        return {(row["kind"], row["name"], row["ordinal"]) for row in await self._all(_WAITS_OVER(run=run_id))}

    async def file(self, org: str, path: str) -> RowMapping | None:
        """Return one file."""
        rows = await self._all(_FILE(org=org, path=path))
        return rows[0] if rows else None

    async def files_at(self, org: str, paths: Sequence[str]) -> dict[str, RowMapping]:
        """Return those of these files that are there, by path."""
        rows = await self._all(select(tables.file).where(tables.file.c.org == org, tables.file.c.path.in_(paths)))
        return {row["path"]: row for row in rows}

    async def files(self, org: str, prefix: str, after: str, limit: int) -> list[RowMapping]:
        """Return files below a prefix, by path, after a path."""
        wanted = (tables.file.c.org == org, tables.file.c.path > after, func.starts_with(tables.file.c.path, prefix))
        return await self._all(select(tables.file).where(*wanted).order_by(tables.file.c.path).limit(limit))

    async def described(
        self, org: str, *, path: str | None = None, prefix: str | None = None, after: str = "", limit: int = 1
    ) -> list[RowMapping]:
        """Return files by path, after a path, each with the names of the `workflows` and `adapters` that it defines."""
        wanted = {"path": path, "prefix": prefix}
        return await self._all(_DESCRIBED(wanted, org=org, after=after, limit=limit))

    async def tree(self, org: str) -> tuple[dict[str, str], dict[str, int]]:
        """Return the SHA-256 of every file of a workspace, and its size in bytes, by path."""
        rows = await self._all(_TREE(org=org))
        return {row["path"]: row["sha256"] for row in rows}, {row["path"]: row["size"] for row in rows}

    async def workflow(self, org: str, name: str) -> tuple[WorkflowEntry, int] | None:
        """Return a workflow and the sequence that it reflects."""
        rows = await self._all(_WORKFLOW(org=org, name=name))
        return (_entry(rows[0]["entry"]), rows[0]["version"]) if rows else None

    async def organizations_with(self, paths: Sequence[str]) -> list[str]:
        """Return the organizations whose workspaces have a file of one of these paths."""
        rows = await self._all(select(tables.file.c.org).where(tables.file.c.path.in_(paths)).distinct())
        return [row["org"] for row in rows]

    async def newest_version(self, org: str) -> str | None:
        """Return the version of the workflow or adapter that was registered last; None where nothing is served."""
        rows = await self._all(_NEWEST_VERSION(org=org))
        return rows[0]["newest"] if rows else None

    async def files_below(self, org: str, prefix: str, limit: int) -> list[str]:
        """Return paths of files below a prefix."""
        statement = text("SELECT path FROM file WHERE org = :org AND starts_with(path, :prefix) ORDER BY path LIMIT :limit")
        return [row["path"] for row in await self._all(statement, {"org": org, "prefix": prefix, "limit": limit})]

    async def artifacts_of_ended(self, before: datetime, limit: int) -> list[RowMapping]:
        """Return artifacts, by organization and path, of runs that ended before a time; or that there are none of since then."""
        statement = """
            SELECT file.org, file.path FROM file LEFT JOIN run ON run.id = split_part(file.path, '/', 2) AND run.org = file.org
             WHERE starts_with(file.path, 'artifacts/') AND file.path ~ '^artifacts/[0-9a-f-]{36}/'
               AND (run.finished_at < :before OR (run.id IS NULL AND file.updated_at < :before)) ORDER BY 1, 2 LIMIT :limit
        """
        return await self._all(text(statement), {"before": before, "limit": limit})

    async def versions_in_use(self) -> set[str]:
        """Return the versions of all code that is served, and that runs which have not ended were asked for with."""
        statement = """
            SELECT entry ->> 'version' AS version FROM workflow UNION SELECT entry ->> 'version' FROM adapter
            UNION SELECT state ->> 'version' FROM run WHERE finished_at IS NULL
        """
        return {row["version"] for row in await self._all(text(statement)) if row["version"]}

    async def adapter(self, org: str, name: str) -> tuple[AdapterEntry, int] | None:
        """Return an adapter and the sequence that it reflects."""
        rows = await self._all(_ADAPTER(org=org, name=name))
        return (msgspec.convert(rows[0]["entry"], AdapterEntry), rows[0]["version"]) if rows else None

    async def adapters(self, org: str) -> list[AdapterEntry]:
        """Return the adapters of an organization by name."""
        return [msgspec.convert(row["entry"], AdapterEntry) for row in await self._all(_ADAPTERS(org=org))]

    async def workflows(self, orgs: Iterable[str], after: str = "", limit: int = 10_000, *, only: str = "") -> list[WorkflowEntry]:
        """Return workflows by name, of a name that several have that of the first; `only` those whose policy has this part."""
        found = await self._all(_WORKFLOWS(orgs=list(orgs), after=after, limit=limit, only=only))
        return [_entry(row["entry"]) for row in found]

    async def _all(self, statement: Statement | Executable, parameters: dict[str, Any] | None = None) -> list[RowMapping]:
        if isinstance(statement, Statement):
            return await statement.read(self._engine)
        async with transaction(self._engine) as connection:
            return list((await connection.execute(statement, parameters)).mappings().all())


_RANKS: dict[str, int] = {priority: rank for rank, priority in enumerate(PRIORITIES)}


# -- writes, by the projections -----------------------------------------------------------------------------------------------


_STATES = Compiled(select(tables.run.c.id, tables.run.c.state).where(tables.run.c.id == any_(_IDS)))
_LAST_LINES = Compiled(
    select(tables.line.c.run, func.max(tables.line.c.n).label("n"))
    .where(tables.line.c.run == any_(_IDS))
    .group_by(tables.line.c.run)
)
_RUN = inserted(
    tables.run,
    *("id", "org", "workflow", "status", "requested_at", "finished_at", "last_seq", "state"),
    *("blocked_on", "concurrency_key", "rank", "due_at", "expires_at", "chain", "worker_group"),
)
_PUT_STATES = Compiled(
    overwriting(
        _RUN,
        *("status", "finished_at", "last_seq", "state", "blocked_on", "concurrency_key", "due_at", "expires_at"),
        # Something came after all was purged: it is to be purged too.
        on_bus=text("CASE run.on_bus WHEN 'gone' THEN 'going' ELSE run.on_bus END"),
    )
)
_PUT_STEPS = Compiled(inserted(tables.step, *tables.step.c.keys()).on_conflict_do_nothing())
_PUT_LINES = Compiled(inserted(tables.line, *tables.line.c.keys()))
_PUT_FILE = Compiled(overwriting(insert(tables.file), "sha256", "size", "updated_at", "version"))
_PUT_WORKFLOW = Compiled(overwriting(insert(tables.workflow), "entry", "version"))
_PUT_ADAPTER = Compiled(overwriting(insert(tables.adapter), "entry", "version"))
_REMOVE_FILE = Compiled(delete(tables.file).where(tables.file.c.org == _ORG, tables.file.c.path == parameter("path")))
_REMOVE_WORKFLOW = Compiled(
    delete(tables.workflow).where(tables.workflow.c.org == _ORG, tables.workflow.c.name == parameter("name"))
)
_REMOVE_ADAPTER = Compiled(delete(tables.adapter).where(tables.adapter.c.org == _ORG, tables.adapter.c.name == parameter("name")))


async def states(connection: Connection, ids: list[str]) -> dict[str, RunState]:
    """Return the projection's rows of these runs."""
    rows = await _STATES(ids=ids).fetch(connection)
    return {row["id"]: _state_decoder.decode(row["state"]) for row in rows}


def put_states(changed: list[RunState]) -> Statement:
    """Write runs; one statement for all of them."""
    return _PUT_STATES.of(
        {
            "id": state.id,
            "org": state.org,
            "workflow": state.workflow,
            "status": state.status,
            "requested_at": datetime.fromisoformat(state.requested_at),
            "finished_at": None if state.finished_at is None else datetime.fromisoformat(state.finished_at),
            "last_seq": state.last_seq,
            "state": _json(state),
            "blocked_on": state.blocked_on,
            "concurrency_key": state.slot and state.slot.key,
            "rank": _RANKS.get(state.priority, 1),
            "due_at": None if state.until is None else datetime.fromisoformat(state.until),
            "expires_at": None if state.attempt or state.ended else state.expires_at,
            "chain": state.correlation_id if state.hops else None,
            "worker_group": state.group or DEFAULT_GROUP,
        }
        for state in changed
    )


def put_steps(steps: list[Step]) -> Statement:
    """Write the recorded steps of runs; one statement for all of them."""
    return _PUT_STEPS.of(
        {
            **msgspec.structs.asdict(step),
            "id": step.run,
            "seq": step.place[0],
            "place": step.place[1],
            "kind": _text(step.kind),
            "name": _text(step.name),
            "completed_at": datetime.fromisoformat(step.at),
            "result": _json(step.result),
        }
        for step in steps
    )


async def last_lines(connection: Connection, runs: list[str]) -> dict[str, int]:
    """Return the number of the last line of each run that has any."""
    return {row["run"]: row["n"] for row in await _LAST_LINES(ids=runs).fetch(connection)}


def put_lines(lines: list[tuple[str, int, int, Any]]) -> Statement:
    """Write lines as (run, n, attempt, line); one statement for all of them."""
    return _PUT_LINES.of({"run": run, "n": n, "attempt": attempt, "line": _json(line)} for run, n, attempt, line in lines)


def put_file(org: str, path: str, sha256: str, size: int, at: datetime, version: int) -> Statement:
    """Bring the row of a file to its last message."""
    return _PUT_FILE(org=org, path=path, sha256=sha256, size=size, updated_at=at, version=version)


def remove_file(org: str, path: str) -> Statement:
    """Forget a file."""
    return _REMOVE_FILE(org=org, path=path)


def put_workflow(entry: WorkflowEntry, version: int) -> Statement:
    """Bring the row of a workflow to its last message."""
    return _PUT_WORKFLOW(org=entry.org, name=entry.name, entry=_json(entry), version=version)


def remove_workflow(org: str, name: str) -> Statement:
    """Forget a workflow."""
    return _REMOVE_WORKFLOW(org=org, name=name)


def put_adapter(entry: AdapterEntry, version: int) -> Statement:
    """Bring the row of an adapter to its last message."""
    return _PUT_ADAPTER(org=entry.org, name=entry.name, entry=_json(entry), version=version)


def remove_adapter(org: str, name: str) -> Statement:
    """Forget an adapter."""
    return _REMOVE_ADAPTER(org=org, name=name)


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


async def begin_purge(connection: AsyncConnection, *, before: datetime, up_to: list[int], limit: int) -> list[tuple[str, int]]:
    """Mark runs that ended before a time, with no message beyond `up_to` of their shard, as going; return them with their last_seq.

    From now on their rows are not to be made anew from the bus. Those whose purge was begun and not ended come again.
    """
    statement = f"""
        UPDATE run SET on_bus = 'going' WHERE id IN (
            SELECT id FROM run WHERE on_bus <> 'gone' AND finished_at < :before
               AND last_seq <= (CAST(:up_to AS bigint[]))[1 + {shard_in_sql("id", len(up_to))}]
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


# -- writes, by erasing --------------------------------------------------------------------------------------------------------


async def states_to_erase(connection: AsyncConnection, ids: Collection[str]) -> dict[str, tuple[RunState, datetime | None]]:
    """Return these runs, as far as there are rows of them, and when they ended."""
    columns = (tables.run.c.id, _STATE, tables.run.c.finished_at)
    found = await connection.execute(select(*columns).where(tables.run.c.id.in_(ids)))
    return {row.id: (_state(row.state), row.finished_at) for row in found}


async def unended(connection: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Return those of these runs that have not ended."""
    going = select(tables.run.c.id).where(tables.run.c.id.in_(ids), tables.run.c.finished_at.is_(None))
    return set((await connection.execute(going)).scalars())


async def erase_runs(connection: AsyncConnection, erased: Sequence[RunState]) -> None:
    """Write runs without their content; from now on their rows are not to be made anew from the bus."""
    for state in erased:
        document = _json(state)
        values = {"state": text("CAST(:document AS json)"), "on_bus": "going"}
        here = (tables.run.c.id == state.id, tables.run.c.last_seq == state.last_seq)
        await connection.execute(update(tables.run).where(*here).values(values), {"document": document})
    for beside in (tables.step, tables.approval):
        await connection.execute(delete(beside).where(beside.c.id.in_([state.id for state in erased])))


async def erase_lines(connection: AsyncConnection, runs: Collection[str]) -> None:
    """Remove the lines of runs; the archive has those that are not erased."""
    await connection.execute(delete(tables.line).where(tables.line.c.run.in_(runs)))


def _json(value: Any) -> str:
    """Return JSON that Postgres takes: it refuses U+0000, which is kept as its replacement here and exactly on the bus."""
    return msgspec.json.encode(value).decode().replace("\\u0000", "\\ufffd")


def _text(value: str) -> str:
    return value.replace("\0", "\ufffd")


_state_decoder = msgspec.json.Decoder(RunState)


def _state(stored: str) -> RunState:
    return _state_decoder.decode(stored)


def _step(run: str, row: RowMapping) -> Step:
    kept = dict(row)
    return Step(run=run, place=(kept.pop("seq"), kept.pop("place")), at=rfc3339(kept.pop("completed_at")), **kept)


def _entry(stored: Any) -> WorkflowEntry:
    return msgspec.convert(stored, WorkflowEntry)
