"""The history of workspace files as rows: each version of each file with who made it, when and by which commit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db import Connection, transaction
from shared.messages import FileChanged, FileRemoved, HistoryTrimmed
from shared.projected import Recorded
from shared.statements import Statement, written

Change = tuple[Recorded, FileChanged | FileRemoved]
# Paths that a commit shows in a list.
SHOWN = 10

_PUT_VERSIONS = """
    INSERT INTO file_version (org, path, version, id, "commit", actor, at, until, sha256, size, note, moved_from)
    SELECT * FROM unnest(:orgs::text[], :paths::text[], :versions::bigint[], :ids::text[], :commits::text[], :actors::text[],
                         :ats::timestamptz[], :untils::timestamptz[], :hashes::text[], :sizes::bigint[], :notes::text[],
                         :moves::text[])
    ON CONFLICT DO NOTHING
"""
_CLOSE = """
    UPDATE file_version SET until = ended.at
      FROM unnest(:orgs::text[], :paths::text[], :ats::timestamptz[], :versions::bigint[]) AS ended (org, path, at, version)
     WHERE file_version.org = ended.org AND file_version.path = ended.path AND file_version.until IS NULL
       AND file_version.version < ended.version
"""
_PUT_COMMITS = """
    INSERT INTO file_commit (org, id, version, at, actor, note, changes)
    SELECT * FROM unnest(:orgs::text[], :ids::text[], :versions::bigint[], :ats::timestamptz[], :actors::text[], :notes::text[],
                         :counts::integer[])
    ON CONFLICT (org, id) DO UPDATE SET changes = file_commit.changes + excluded.changes
"""
# Of each file the oldest ones go: the first that stays says so. That a file was deleted is forgotten as well.
_TRIM = """
    WITH ranked AS (
        SELECT path, version, until, sha256, at, row_number() OVER (PARTITION BY path ORDER BY version DESC) AS place
          FROM file_version WHERE org = :org),
    last AS (
        SELECT path, max(version) AS version FROM ranked
         WHERE until < :before OR place > :most OR (until IS NULL AND sha256 IS NULL AND at < :before) GROUP BY path),
    gone AS (
        DELETE FROM file_version USING last
         WHERE file_version.org = :org AND file_version.path = last.path AND file_version.version <= last.version)
    UPDATE file_version SET gap = true FROM last
     WHERE file_version.org = :org AND file_version.path = last.path
       AND file_version.version = (
           SELECT min(kept.version) FROM file_version AS kept
            WHERE kept.org = :org AND kept.path = last.path AND kept.version > last.version)
"""
_FORGET = "DELETE FROM file_version WHERE org = :org AND starts_with(path, :below)"
_FORGET_COMMITS = "DELETE FROM file_commit WHERE org = :org AND at < :before"
_SINCE = """
    INSERT INTO file_history (org, since) VALUES (:org, :before)
    ON CONFLICT (org) DO UPDATE SET since = greatest(file_history.since, excluded.since)
"""


async def history(batch: Sequence[Recorded], _connection: Connection) -> list[Statement]:
    """Keep versions and commits; a few statements for a batch, however many files it changes."""
    statements: list[Statement] = []
    changes: list[Change] = []
    for recorded in batch:
        if isinstance(recorded.message, FileChanged | FileRemoved):
            changes.append((recorded, recorded.message))
        elif isinstance(recorded.message, HistoryTrimmed):
            statements += _changed(changes)
            changes = []
            org, before, below = recorded.envelope.org, datetime.fromisoformat(recorded.message.before), recorded.message.below
            if below is not None:
                statements.append(written(_FORGET, {"org": org, "below": below}))
                continue
            statements += [
                written(_TRIM, {"org": org, "before": before, "most": recorded.message.most}),
                written(_FORGET_COMMITS, {"org": org, "before": before}),
                written(_SINCE, {"org": org, "before": before}),
            ]
    return statements + _changed(changes)


def _changed(changes: list[Change]) -> list[Statement]:
    if not changes:
        return []
    rows: list[dict[str, object]] = []
    first: dict[tuple[str, str], dict[str, object]] = {}
    open_: dict[tuple[str, str], dict[str, object]] = {}
    commits: dict[tuple[str, str], dict[str, object]] = {}
    for recorded, message in changes:
        envelope = recorded.envelope
        content = message if isinstance(message, FileChanged) else None
        key = envelope.org, message.path
        row: dict[str, object] = {
            "org": envelope.org,
            "path": message.path,
            "version": recorded.delivered.sequence,
            "id": envelope.id,
            "commit": message.commit or envelope.id,
            "actor": message.actor,
            "at": envelope.time,
            "until": None,
            "sha256": content and content.sha256,
            "size": content.size if content else 0,
            "note": message.note,
            "moved_from": content and content.moved_from,
        }
        if key in open_:
            open_[key]["until"] = envelope.time
        first.setdefault(key, row)
        open_[key] = row
        rows.append(row)
        commit = commits.setdefault((envelope.org, message.commit or envelope.id), row | {"count": 0})
        commit["count"] = int(str(commit["count"])) + 1
    return [
        _of(_CLOSE, first.values(), orgs="org", paths="path", ats="at", versions="version"),
        _of(
            _PUT_VERSIONS,
            rows,
            orgs="org",
            paths="path",
            versions="version",
            ids="id",
            commits="commit",
            actors="actor",
            ats="at",
            untils="until",
            hashes="sha256",
            sizes="size",
            notes="note",
            moves="moved_from",
        ),
        _of(
            _PUT_COMMITS,
            commits.values(),
            orgs="org",
            ids="commit",
            versions="version",
            ats="at",
            actors="actor",
            notes="note",
            counts="count",
        ),
    ]


def _of(sql: str, rows: Iterable[dict[str, object]], **columns: str) -> Statement:
    every = list(rows)
    return written(sql, {name: [row[column] for row in every] for name, column in columns.items()})


class History:
    """Reads versions and commits."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def versions(self, org: str, *, path: str | None, commit: str | None, before: int | None, limit: int) -> list[RowMapping]:
        """Return versions, of one file or one commit if it is named, newest first, before a sequence."""
        narrowed = " AND path = :path" * (path is not None) + ' AND "commit" = :commit' * (commit is not None)
        narrowed += " AND version < :before" * (before is not None)
        given = {"path": path, "commit": commit, "before": before}
        return await self._all(
            f"SELECT * FROM file_version WHERE org = :org{narrowed} ORDER BY version DESC LIMIT :limit",  # noqa: S608 - all ours
            {"org": org, "limit": limit} | {name: value for name, value in given.items() if value is not None},
        )

    async def version(self, org: str, path: str, id_: str) -> RowMapping | None:
        """Return one version of a file, by its id."""
        rows = await self._all(
            "SELECT * FROM file_version WHERE org = :org AND path = :path AND id = :id", {"org": org, "path": path, "id": id_}
        )
        return rows[0] if rows else None

    async def commits(self, org: str, *, before: int | None, limit: int, id_: str | None = None) -> list[RowMapping]:
        """Return commits, newest first, before a sequence, or the one of an id, each with the first `paths` that it changed."""
        narrowed = " AND version < :before" * (before is not None) + " AND id = :id" * (id_ is not None)
        given = {"before": before, "id": id_}
        return await self._all(
            f"""
            SELECT found.*, ARRAY(
                SELECT path FROM file_version AS changed WHERE changed.org = found.org AND changed."commit" = found.id
                 ORDER BY changed.version LIMIT {SHOWN}) AS paths
              FROM (SELECT * FROM file_commit WHERE org = :org{narrowed} ORDER BY version DESC LIMIT :limit) AS found
             ORDER BY found.version DESC
            """,  # noqa: S608 - all ours
            {"org": org, "limit": limit} | {name: value for name, value in given.items() if value is not None},
        )

    async def tree_at(self, org: str, at: datetime, prefix: str) -> list[RowMapping]:
        """Return the versions that were the files below a prefix at a time: `sha256` is None where there was none."""
        return await self._all(
            """
            SELECT path, sha256, size FROM file_version
             WHERE org = :org AND at <= :at AND (until IS NULL OR until > :at) AND starts_with(path, :prefix) AND sha256 IS NOT NULL
            """,
            {"org": org, "at": at, "prefix": prefix},
        )

    async def unknown_at(self, org: str, at: datetime, prefix: str) -> tuple[datetime | None, str | None]:
        """Return since when all is kept, where that is later than a time, and a file whose version at that time is not kept."""
        rows = await self._all(
            """
            SELECT (SELECT since FROM file_history WHERE org = :org AND since > :at) AS since,
                   (SELECT min(path) FROM file_version WHERE org = :org AND gap AND at > :at AND starts_with(path, :prefix)) AS path
            """,
            {"org": org, "at": at, "prefix": prefix},
        )
        return rows[0]["since"], rows[0]["path"]

    async def knows(self, org: str, prefix: str) -> bool:
        """Return whether any version of a file below a prefix is kept."""
        wanted = "SELECT 1 FROM file_version WHERE org = :org AND starts_with(path, :prefix) LIMIT 1"
        return bool(await self._all(wanted, {"org": org, "prefix": prefix}))

    async def kept(self, org: str) -> list[RowMapping]:
        """Return the content that only history keeps, with until when each was last a file's, the longest ago first."""
        return await self._all(
            """
            SELECT sha256, max(size) AS size, max(until) AS until FROM file_version
             WHERE org = :org AND sha256 IS NOT NULL GROUP BY sha256 HAVING bool_and(until IS NOT NULL) ORDER BY 3
            """,
            {"org": org},
        )

    async def oldest(self) -> list[RowMapping]:
        """Return for each organization when its oldest replaced version was replaced, and the most versions of one file."""
        return await self._all(
            """
            SELECT org, min(until) AS until, max(number) AS most
              FROM (SELECT org, path, min(until) AS until, count(*) AS number FROM file_version GROUP BY org, path) AS files
             GROUP BY org
            """,
            {},
        )

    async def contents(self) -> set[str]:
        """Return every content that a file or a kept version has, in any organization."""
        wanted = "SELECT sha256 FROM file_version WHERE sha256 IS NOT NULL UNION SELECT sha256 FROM file"
        return {row["sha256"] for row in await self._all(wanted, {})}

    async def _all(self, statement: str, given: dict[str, object]) -> list[RowMapping]:
        async with transaction(self._engine) as connection:
            return list((await connection.execute(text(statement), given)).mappings().all())
