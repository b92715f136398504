"""The SQL of tokens: claims that are fenced, each in a short transaction, and what is published with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ARRAY, ColumnElement, Text, and_, any_, delete, exists, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from services.oauth.domain import token_place
from services.oauth.policy import Aftermath, TokenState
from services.oauth.store import sealed_otherwise
from services.oauth.tables import outbox, provider_gate, token, vault
from shared.db import transaction
from shared.envelope import new_id, utc_now
from shared.organizations import PLATFORM
from shared.owners.rotation import Place, StaleRow
from shared.statements import Compiled, parameter

# Of a difference of clocks, so much is the time that an answer takes.
NOISE = timedelta(seconds=5)

_T = token.c
_GATE = provider_gate.c


class Claimed(msgspec.Struct, frozen=True):
    """A claim: the row as it was before it, and the fence of the claim."""

    before: TokenState
    fence: int


class Unclaimed(msgspec.Struct, frozen=True):
    """No claim: the row is at another version already, is claimed, or is not to be tried before `until`, by `reason`."""

    state: TokenState
    is_held: bool = False
    until: datetime | None = None
    reason: str | None = None


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """A message that is to be published about a connection, with what is stored beside it."""

    type: str
    data: dict[str, Any]


class OutboxRow(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the outbox."""

    position: int
    id: str
    connection: str
    org: str
    type: str
    data: dict[str, Any]
    tries: int


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """A token to be stored, and its times."""

    sealed: str
    scope: str | None
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    refresh_at: datetime | None
    is_forced: bool = False
    origin: str | None = None
    not_before: datetime | None = None

    def columns(self) -> dict[str, Any]:
        """Return the columns that it is stored in as it is."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if name != "is_forced"}


_OF = Compiled(select(token).where(_T.connection == any_(parameter("connections", ARRAY(Text)))))


class TokenStore:
    """The rows of tokens. Each method is a transaction of its own. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._off = timedelta(0)

    def now(self) -> datetime:
        """Return the database's time, as its last answers had it: replicas share that one, whatever their own clocks are."""
        return utc_now() + self._off

    def _dated(self, now: datetime) -> None:
        off = now - utc_now()
        self._off = off if abs(off) > NOISE else timedelta(0)

    async def of(self, connections: Collection[str]) -> dict[str, TokenState]:
        """Return the rows of these connections, by connection."""
        found = await _OF(connections=list(connections)).read(self._engine)
        return {row["connection"]: TokenState(**row) for row in found}

    async def claim(
        self, id_: str, provider: str, configured: str, *, version: int, owner: str, lease: timedelta, hurries: bool
    ) -> Claimed | Unclaimed | None:
        """Claim a connection whose token is at `version`, for one attempt; None where there is no such connection.

        `hurries`: a pause of our own counts for nothing, unless it is for an answer that may still come. The attempt counts as
        begun from now on: whatever becomes of its claimer, the next one knows of it.
        """
        async with transaction(self._engine) as connection:
            now = func.clock_timestamp()
            made = select(
                vault.c.id, vault.c.org, literal(provider), literal(0), literal("pending"), literal(0), literal(0),
                literal(value=False), literal(value=False), literal("", Text), literal(0),
            ).where(vault.c.id == id_, ~vault.c.revoking)  # fmt: skip
            names = ["connection", "org", "provider", "version", "status", "failures", "forced", "attempting", "doubted"]
            adding = insert(token).from_select([*names, "configured", "fence"], made)
            await connection.execute(adding.on_conflict_do_nothing())
            gate = select(_GATE.closed_until).where(_GATE.provider == provider).scalar_subquery()
            read = select(token, now.label("now"), gate.label("closed")).where(_T.connection == id_).with_for_update()
            row = (await connection.execute(read)).mappings().first()
            if row is None:
                return None
            self._dated(row["now"])
            before = TokenState(**{name: row[name] for name in TokenState.__struct_fields__})
            if before.version != version:
                return Unclaimed(before)
            if before.until is not None and before.until > row["now"]:
                return Unclaimed(before, is_held=True)
            if row["closed"] is not None and row["closed"] > row["now"]:
                return Unclaimed(before, until=row["closed"], reason="the provider wants no requests for a while")
            early = before.not_before is not None and before.not_before > row["now"]
            if early and before.configured == configured and not (hurries and not before.attempting):
                return Unclaimed(before, until=before.not_before, reason=before.reason)
            claim = {
                "owner": owner, "fence": before.fence + 1, "until": now + lease, "attempting": True,
                "provider": provider, "configured": configured,
            }  # fmt: skip
            await connection.execute(update(token).where(_T.connection == id_).values(claim))
            return Claimed(before, before.fence + 1)

    async def prolong(self, claimed: Claimed, lease: timedelta) -> None:
        """Have a claim last so long from now on, unless a later one was made or it has ended with its attempt."""
        mine = (_T.connection == claimed.before.connection) & (_T.fence == claimed.fence) & _T.until.is_not(None)
        async with transaction(self._engine) as connection:
            await connection.execute(update(token).where(mine).values(until=func.clock_timestamp() + lease))

    async def renew(self, claimed: Claimed, renewed: Renewed, publication: Publication, *, late: bool = False) -> TokenState | None:
        """Store a new token and the message of it; None where a later claim was made, or the connection is gone.

        `late`: the token is the only copy of itself; it is stored as well where nobody has stored another one since, or tries to.
        """
        before = claimed.before
        mine: ColumnElement[bool] = _T.fence == claimed.fence
        if late:
            free = or_(_T.until.is_(None), _T.until < func.clock_timestamp())
            mine = or_(mine, and_(_T.version == before.version, free))
        version = before.version + 1
        values = renewed.columns() | {"version": version, "forced": version if renewed.is_forced else before.forced}
        return await self._settle(before, mine, values | _WELL, publication)

    async def authorize(
        self, id_: str, provider: str, configured: str, renewed: Renewed, publication: Publication
    ) -> TokenState | None:
        """Store the token of a new grant, whatever is going on: attempts with the one before are fenced off."""
        values = renewed.columns()
        first = {"connection": id_, "provider": provider, "configured": configured} | values | _WELL
        async with transaction(self._engine) as connection:
            owner = select(vault.c.org).where(vault.c.id == id_, ~vault.c.revoking)
            org = (await connection.execute(owner.with_for_update(read=True))).scalar_one_or_none()
            if org is None:
                return None
            added = insert(token).values(first | {"org": org, "version": 1, "fence": 1, "forced": 0})
            counted = {name: _T[name] + 1 for name in ("version", "fence")}
            again = values | _WELL | counted | {"provider": provider, "configured": configured}
            row = await connection.execute(added.on_conflict_do_update(index_elements=["connection"], set_=again).returning(token))
            state = TokenState(**row.mappings().one())
            await _keep(connection, state, publication)
            return state

    async def forget(self, id_: str) -> bool:
        """Have a connection as if nobody had ever got a token for it, and fence off who is about to; False where it has no row.

        The row stays, with its counts: another row's first fence would be that of an attempt which is still under way.
        """
        fenced = {name: _T[name] + 1 for name in ("version", "fence")}
        async with transaction(self._engine) as connection:
            forgotten = update(token).where(_T.connection == id_).values(_NOTHING | fenced)
            return (await connection.execute(forgotten)).rowcount > 0

    async def report(self, id_: str, version: int) -> None:
        """Record that a run has reported a token for which no newer one was got, unless that is on record."""
        reported = update(token).where(_T.connection == id_, _T.version == version, _T.reported_at.is_(None))
        async with transaction(self._engine) as connection:
            await connection.execute(reported.values(reported_at=func.clock_timestamp()))

    async def hurry(self, id_: str) -> None:
        """Have a connection whose last attempt failed tried again at once."""
        failed = update(token).where(_T.connection == id_, _T.failure.is_not(None), _T.refresh_at.is_not(None))
        async with transaction(self._engine) as connection:
            await connection.execute(failed.values(refresh_at=func.clock_timestamp(), not_before=None))

    async def hasten(self, org: str, provider: str, spread: timedelta) -> None:
        """Have the tokens of a provider's connections refreshed over the next while, of all organizations for the platform's."""
        mine = (vault.c.noun == "connection") & (vault.c.spec["provider"].as_string() == provider)
        if org != PLATFORM:
            mine &= vault.c.org == org
        at = func.clock_timestamp() + func.random() * spread
        soon = update(token).where(_T.connection.in_(select(vault.c.id).where(mine)), _T.refresh_at > at)
        async with transaction(self._engine) as connection:
            await connection.execute(soon.values(refresh_at=at, not_before=None))

    async def fail(
        self, claimed: Claimed, outcome: Aftermath, failure: str, reason: str, publication: Publication | None
    ) -> TokenState | None:
        """Record a failed attempt; None where a later claim was made, or the connection is gone."""
        values = {
            "status": outcome.status, "failure": failure, "reason": reason, "not_before": outcome.not_before,
            "refresh_at": outcome.refresh_at, "failures": outcome.failures, "attempting": outcome.attempting,
            "doubted": outcome.doubted, "owner": None, "until": None,
        }  # fmt: skip
        return await self._settle(claimed.before, _T.fence == claimed.fence, values, publication)

    async def close_gate(self, provider: str, until: datetime) -> None:
        """Have no replica send requests to a provider until then, or later where it is closed for longer."""
        closed = insert(provider_gate).values(provider=provider, closed_until=until)
        later = func.greatest(_GATE.closed_until, closed.excluded.closed_until)
        async with transaction(self._engine) as connection:
            await connection.execute(closed.on_conflict_do_update(index_elements=["provider"], set_={"closed_until": later}))

    async def forget_gates(self) -> int:
        """Forget gates that are open, with their alarm where no connection uses that client there any more; returns how many."""
        is_open = or_(_GATE.closed_until.is_(None), _GATE.closed_until < func.clock_timestamp())
        used = exists().where(_T.provider == _GATE.provider)
        async with transaction(self._engine) as connection:
            gone = delete(provider_gate).where(is_open, or_(_GATE.alarm.is_(None), ~used))
            return (await connection.execute(gone)).rowcount

    async def alarm(self, provider: str, alarm: str | None) -> bool:
        """Record what is wrong with a provider's settings, None: nothing; returns whether that is news."""
        kept = insert(provider_gate).values(provider=provider, alarm=alarm)
        changed = kept.on_conflict_do_update(
            index_elements=["provider"], set_={"alarm": alarm}, where=_GATE.alarm.is_distinct_from(alarm)
        )
        async with transaction(self._engine) as connection:
            return (await connection.execute(changed)).rowcount > 0

    async def due(self, limit: int, busy: Collection[str], full: Collection[str], put_off: timedelta) -> list[tuple[str, str]]:
        """Return connections whose token is to be refreshed now, longest due first, each with its organization.

        None of a provider that is `busy` or an organization that is `full`. Others find them again after `put_off`.
        """
        now = func.clock_timestamp()
        shut = select(_GATE.provider).where(_GATE.closed_until > now)
        found = (
            select(_T.connection)
            .where(_T.refresh_at <= now, or_(_T.until.is_(None), _T.until < now))
            .where(_T.provider.not_in(shut), _T.provider.not_in(list(busy)), _T.org.not_in(list(full)))
            .order_by(_T.refresh_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        taken = update(token).where(_T.connection.in_(select(found.c.connection))).values(refresh_at=now + put_off)
        async with transaction(self._engine) as connection:
            rows = (await connection.execute(taken.returning(_T.connection, _T.org))).all()
            self._dated((await connection.execute(select(now))).scalar_one())
            return [(id_, org) for id_, org in rows]

    async def stale(self, key: str, after: str, limit: int) -> list[StaleRow]:
        """Return the tokens that another key than the one of this id seals, by connection, those after `after`."""
        rows = (
            select(_T.connection, _T.org, vault.c.name, _T.sealed)
            .join(vault, vault.c.id == _T.connection)
            .where(_T.connection > after, sealed_otherwise(_T.sealed, key))
            .order_by(_T.connection)
            .limit(limit)
        )
        async with transaction(self._engine) as connection:
            found = await connection.execute(rows)
            return [StaleRow(id_, "token", org, name, {token_place(org, id_): sealed}) for id_, org, name, sealed in found]

    async def count_stale(self, key: str) -> int:
        """Return how many there are."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(func.count()).where(sealed_otherwise(_T.sealed, key)))
            return int(found.scalar_one())

    async def reseal(self, row: StaleRow, sealed: Mapping[Place, str]) -> bool:
        """Replace a connection's sealed token by the same under another key; False when it is another by now."""
        ((place, value),) = sealed.items()
        same = update(token).where(_T.connection == row.id, _T.sealed == row.sealed[place]).values(sealed=value)
        async with transaction(self._engine) as connection:
            return (await connection.execute(same)).rowcount > 0

    async def unpublished(self, limit: int, connection_id: str | None = None) -> Sequence[OutboxRow]:
        """Return messages of the outbox, oldest first, of one connection or of all, but for connections that were put off."""
        later = select(outbox.c.connection).where(outbox.c.not_before > func.clock_timestamp())
        rows = select(*(outbox.c[name] for name in OutboxRow.__struct_fields__)).where(outbox.c.connection.not_in(later))
        rows = rows.order_by(outbox.c.position).limit(limit)
        if connection_id is not None:
            rows = rows.where(outbox.c.connection == connection_id)
        async with transaction(self._engine) as connection:
            return [OutboxRow(**row) for row in (await connection.execute(rows)).mappings()]

    async def published(self, position: int) -> None:
        """Forget a message that is on the bus."""
        async with transaction(self._engine) as connection:
            await connection.execute(delete(outbox).where(outbox.c.position == position))

    async def put_off(self, position: int, pause: timedelta) -> None:
        """Have a message that could not be published wait for so long, and with it those of its connection that come after it."""
        later = update(outbox).where(outbox.c.position == position)
        async with transaction(self._engine) as connection:
            await connection.execute(later.values(tries=outbox.c.tries + 1, not_before=func.clock_timestamp() + pause))

    async def _settle(
        self, before: TokenState, mine: ColumnElement[bool], values: dict[str, Any], publication: Publication | None
    ) -> TokenState | None:
        async with transaction(self._engine) as connection:
            changed = update(token).where(_T.connection == before.connection, mine).values(values).returning(token)
            row = (await connection.execute(changed)).mappings().first()
            if row is None:
                return None
            state = TokenState(**row)
            if publication is not None:
                await _keep(connection, state, publication)
            return state


_WELL: dict[str, Any] = {
    "status": "healthy", "failure": None, "reason": None, "failures": 0, "attempting": False,
    "doubted": False, "owner": None, "until": None, "refreshed_at": func.clock_timestamp(), "reported_at": None,
}  # fmt: skip


# A row without a token, as an attempt that is the first finds it.
_NOTHING: dict[str, Any] = {
    "sealed": None, "origin": None, "scope": None, "expires_at": None, "refresh_expires_at": None, "refresh_at": None,
    "refreshed_at": None, "status": "pending", "failure": None, "reason": None, "not_before": None, "failures": 0,
    "attempting": False, "doubted": False, "configured": "", "owner": None, "until": None, "reported_at": None,
}  # fmt: skip


async def _keep(connection: AsyncConnection, state: TokenState, publication: Publication) -> None:
    made = {
        "id": new_id(),
        "connection": state.connection,
        "org": state.org,
        "type": publication.type,
        "data": publication.data,
        "at": utc_now(),
    }
    await connection.execute(insert(outbox).values(made))
