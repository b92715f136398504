"""The SQL of authorizations that are under way."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, RowMapping, Select, Update, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.expression import Executable

from services.oauth.store import sealed_otherwise
from services.oauth.tables import authorization_request, vault
from shared.db import transaction
from shared.errors import Invalid, TooMany
from shared.owners.rotation import Place, StaleRow

_C = authorization_request.c
# How long what became of one can be asked for.
REMEMBERED = timedelta(minutes=10)
# Of one connection at a time: several people may have begun one, and each of a device has its provider asked every few seconds.
MOST_OPEN = 5
# Of one identity provider: each is begun by somebody whom nobody knows yet, and lasts ten minutes.
MOST_SIGN_INS = 10_000
# Of one organization: each is asked for once a second at the most, one after the other with those of all others.
MOST_POLLED = 100
OVERTAKEN = f"it was begun {MOST_OPEN} more times since"


class AuthorizationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a person was asked: by the hash of `state`, with PKCE's verifier sealed, for `actor`, by the command `correlation`.

    `connection` is the id of the row in the vault that it is of: a connection, or an identity provider that somebody signs in by.
    Of a device's the code is sealed, and its provider is asked at `poll_at`, every `interval` seconds. `status`: open, taken by a
    browser that came back, authorized, failed by `reason`. `origin` stands for the client and the addresses that the code is for,
    `browser` for the one that it was opened in.
    """

    state: str
    connection: str
    org: str
    redirect: str
    issuer: str | None
    sealed: str | None
    actor: str
    correlation: str
    expires_at: datetime
    status: str = "open"
    reason: str | None = None
    poll_at: datetime | None = None
    interval: float | None = None
    origin: str | None = None
    browser: str | None = None

    def check_origin(self, origin: str) -> None:
        """Raise `Invalid` where the code would be sent elsewhere than to who gives it."""
        if self.origin not in (None, origin):
            raise Invalid("the connection has another provider, or another client there, than when it was begun")


class AuthorizationStore:
    """The rows. Each method is a transaction of its own. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, request: AuthorizationRequest) -> None:
        """Keep one; of those of its connection that are open the oldest end, where there are more than may be.

        Raises `TooMany` where an organization has as many open of devices as it may.
        """
        open_ = (_C.connection == request.connection) & (_C.status == "open")
        newest = select(_C.state).where(open_).order_by(_C.expires_at.desc(), _C.state).limit(MOST_OPEN - 1)
        over = update(authorization_request).where(open_, _C.state.not_in(newest))
        async with transaction(self._engine) as connection:
            await connection.execute(over.values(status="failed", reason=OVERTAKEN, poll_at=None, sealed=None))
            if request.poll_at is not None and (await connection.execute(_polled(request.org))).scalar_one() >= MOST_POLLED:
                detail = f"{request.org} has {MOST_POLLED} authorizations of devices open, which is the most"
                raise TooMany(detail, retry_after=60)
            await connection.execute(insert(authorization_request).values(msgspec.structs.asdict(request)))

    async def forget(self) -> int:
        """Forget those that have ended long ago; returns how many."""
        async with transaction(self._engine) as connection:
            gone = delete(authorization_request).where(_C.expires_at < func.clock_timestamp() - REMEMBERED)
            return (await connection.execute(gone)).rowcount

    async def asked(self, state: str) -> AuthorizationRequest | None:
        """Return the one of that hash that waits for a browser."""
        found = await self._rows(select(authorization_request).where(_waits(state)))
        return found[0] if found else None

    async def open(self, state: str, browser: str) -> AuthorizationRequest | None:
        """Return the one of that hash, which is that browser's from now on; None where it is another one's."""
        free = _waits(state) & or_(_C.browser.is_(None), _C.browser == browser)
        found = await self._rows(update(authorization_request).where(free).values(browser=browser).returning(authorization_request))
        return found[0] if found else None

    async def take(self, state: str, browser: str) -> AuthorizationRequest | None:
        """Return the one of that hash, which its browser has come back for: nobody takes it again."""
        mine = _waits(state) & (_C.browser == browser)
        taken = update(authorization_request).where(mine).values(status="taken").returning(authorization_request)
        found = await self._rows(taken)
        return found[0] if found else None

    async def add_sign_in(self, request: AuthorizationRequest) -> None:
        """Keep one of an identity provider. Raises `TooMany` where it has as many open as it may."""
        open_ = (_C.connection == request.connection) & (_C.expires_at > func.clock_timestamp())
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(func.count()).select_from(authorization_request).where(open_))
            if found.scalar_one() >= MOST_SIGN_INS:
                raise TooMany("too many are signing in by this provider", retry_after=60)
            await connection.execute(insert(authorization_request).values(msgspec.structs.asdict(request)))

    async def consume(self, state: str, browser: str) -> AuthorizationRequest | None:
        """Return the one of that hash and that browser, and forget it: nobody finds it again."""
        mine = delete(authorization_request).where(_waits(state) & (_C.browser == browser))
        found = await self._rows(mine.returning(authorization_request))
        return found[0] if found else None

    async def due(self, limit: int, full: Collection[str], put_off: timedelta) -> list[AuthorizationRequest]:
        """Return those of devices whose provider is to be asked now, none of an organization that is `full`.

        Others find them again after `put_off`.
        """
        now = func.clock_timestamp()
        found = (
            select(_C.state)
            .where(_C.poll_at <= now, _C.status == "open", _C.expires_at > now, _C.org.not_in(list(full)))
            .order_by(_C.poll_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        taken = update(authorization_request).where(_C.state.in_(select(found.c.state))).values(poll_at=now + put_off)
        return await self._rows(taken.returning(authorization_request))

    async def put_off(self, state: str, interval: float) -> None:
        """Have a device's provider asked again after so many seconds, and every so many from then on."""
        later = func.clock_timestamp() + timedelta(seconds=interval)
        await self._rows(_of(state).values(poll_at=later, interval=interval).returning(authorization_request))

    async def end(self, state: str, reason: str | None) -> None:
        """Record what became of one, a reason for people unless all went well, and forget its secret."""
        ended = {"status": "authorized" if reason is None else "failed", "reason": reason, "poll_at": None, "sealed": None}
        await self._rows(_of(state).values(ended).returning(authorization_request))

    async def one(self, org: str, connection_id: str, state: str) -> AuthorizationRequest | None:
        """Return one of a connection, whatever became of it."""
        mine = (_C.org == org) & (_C.connection == connection_id) & (_C.state == state)
        found = await self._rows(select(authorization_request).where(mine))
        return found[0] if found else None

    async def stale(self, key: str, after: str, limit: int) -> list[StaleRow]:
        """Return open ones with something that another key than the one of this id seals, by `state`, those after `after`."""
        rows = (
            select(authorization_request, vault.c.name)
            .join(vault, vault.c.id == _C.connection)
            .where(_is_stale(key), _C.state > after)
            .order_by(_C.state)
            .limit(limit)
        )
        async with transaction(self._engine) as connection:
            found = (await connection.execute(rows)).mappings().all()
        return [StaleRow(row["state"], "authorization", row["org"], row["name"], {_place_of(row): row["sealed"]}) for row in found]

    async def count_stale(self, key: str) -> int:
        """Return how many there are."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(func.count()).select_from(authorization_request).where(_is_stale(key)))
            return int(found.scalar_one())

    async def reseal(self, row: StaleRow, sealed: Mapping[Place, str]) -> bool:
        """Replace a sealed value by the same under another key; False when it is another by now, or needed no more."""
        ((place, value),) = sealed.items()
        same = _of(row.id).where(_C.sealed == row.sealed[place]).values(sealed=value)
        return bool(await self._rows(same.returning(authorization_request)))

    async def _rows(self, statement: Executable) -> list[AuthorizationRequest]:
        async with transaction(self._engine) as connection:
            return [AuthorizationRequest(**row) for row in (await connection.execute(statement)).mappings()]


def _waits(state: str) -> ColumnElement[bool]:
    return (_C.state == state) & (_C.status == "open") & _C.poll_at.is_(None) & (_C.expires_at > func.clock_timestamp())


def _polled(org: str) -> Select[int]:
    polled = (_C.org == org) & _C.poll_at.is_not(None) & (_C.status == "open") & (_C.expires_at > func.clock_timestamp())
    return select(func.count()).select_from(authorization_request).where(polled)


def _is_stale(key: str) -> ColumnElement[bool]:
    # What was taken is in the hands of a process that has it opened, or of nobody any more.
    return sealed_otherwise(_C.sealed, key) & (_C.status == "open") & (_C.expires_at > func.clock_timestamp())


def _place_of(row: RowMapping) -> Place:
    return row["org"], row["connection"], "verifier" if row["poll_at"] is None else "device_code"


def _of(state: str) -> Update:
    return update(authorization_request).where(_C.state == state)


def hashed(state: str) -> str:
    """Return a `state` as it is stored: whoever reads the table cannot answer in anybody's name."""
    return hashlib.sha256(state.encode()).hexdigest()
