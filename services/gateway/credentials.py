"""What users sign in with, in rows; and how often that has failed, which the gateways share."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.db import Connection, reading
from shared.encryption import Keyring
from shared.envelope import new_id
from shared.errors import TooMany
from shared.organizations import PLATFORM
from shared.owners.rotation import Place, StaleRow


class UserCredential(msgspec.Struct, frozen=True, kw_only=True):
    """One of a user's: see `tables.credential`."""

    id: str
    user_id: str
    kind: str
    name: str
    secret: str
    counter: int
    created_at: datetime
    used_at: datetime | None

    def __repr__(self) -> str:
        """Show no secret: a repr ends up in logs."""
        return f"UserCredential({self.kind} {self.id})"


class BackOff(msgspec.Struct, frozen=True):
    """So many failures are free; each further one doubles the seconds until the next attempt is looked at, up to `most`."""

    free: int
    most: int


# Of a login, whose user others can keep waiting by this: a minute at most. Of an address, behind which there may be many people.
OF_USER, OF_ADDRESS = BackOff(4, 60), BackOff(20, 900)

_FIND = "SELECT id, user_id, kind, name, secret, counter, created_at, used_at FROM credential"
# An attempt counts as failed until it has succeeded, so that of many at once each takes its turn. A day without one forgets them.
# Times are those of the turn: `now()` is when an attempt came, which may be before the one that it waited for.
_ATTEMPT = """
    INSERT INTO failure AS f (digest, count, last_at, until) VALUES ($1, 1, now(), now())
    ON CONFLICT (digest) DO UPDATE SET last_at = now(),
        count = CASE WHEN f.last_at < now() - interval '1 day' THEN 1 ELSE f.count + 1 END,
        until = CASE WHEN f.last_at < now() - interval '1 day' OR f.count + 1 < $2 THEN clock_timestamp()
            ELSE clock_timestamp() + make_interval(secs => least($3, power(2, least(f.count + 1 - $2, 20)))) END
    WHERE f.until <= clock_timestamp() RETURNING count
"""
_WAIT = "SELECT extract(epoch FROM until - clock_timestamp())::float8 FROM failure WHERE digest = $1"
_STALE = "kind = 'totp' AND NOT starts_with(secret, $1)"
_PUT = """
    INSERT INTO credential (id, user_id, kind, name, secret, counter) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (user_id, kind) WHERE kind IN ('password', 'totp')
    DO UPDATE SET secret = excluded.secret, counter = excluded.counter, created_at = now(), used_at = NULL
"""


class UserCredentials:
    """The credentials of all users. Raises `Unavailable` while the database is away."""

    def __init__(self, engine: AsyncEngine, keyring: Keyring) -> None:
        self._engine = engine
        self._keyring = keyring

    async def of(self, user_id: str) -> list[UserCredential]:
        """Return what a user has, oldest first; one statement, whether or not there is such a user."""
        return await self._found(f"{_FIND} WHERE user_id = $1 ORDER BY created_at, id", user_id)

    async def attempt(self, login: str, address: str | None) -> None:
        """Take an attempt to sign in, as one that fails. Raises `TooMany` while it is not to be looked at, and counts nothing then.

        Others can keep a login waiting: that is no failure of the addresses from which its user comes meanwhile.
        """
        async with self.changing() as connection:
            for digest, back_off in _digests(login, address):
                taken = await connection.fetchval(_ATTEMPT, digest, back_off.free, float(back_off.most))
                if taken is None:
                    wait = await connection.fetchval(_WAIT, digest)
                    raise TooMany("there were too many attempts: wait, and try again", retry_after=max(1.0, wait or 0.0))

    async def succeeded(self, login: str, address: str | None) -> None:
        """Forget the failures of a login, and that the attempt counted against its address."""
        async with reading(self._engine) as connection:
            for digest, back_off in _digests(login, address):
                if back_off is OF_USER:
                    await connection.execute("DELETE FROM failure WHERE digest = $1", digest)
                else:
                    await connection.execute("UPDATE failure SET count = count - 1, until = now() WHERE digest = $1", digest)

    async def spend_step(self, id_: str, step: int) -> bool:
        """Have a time step of an authenticator count; False where it, or a later one, has."""
        statement = "UPDATE credential SET counter = $2, used_at = now() WHERE id = $1 AND counter < $2 RETURNING id"
        return bool(await self._returned(statement, id_, step))

    async def spend_code(self, id_: str) -> bool:
        """Have a recovery code count; False where it has."""
        return bool(await self._returned("DELETE FROM credential WHERE id = $1 AND kind = 'recovery' RETURNING id", id_))

    async def set_password(self, user_id: str, kept: str) -> str:
        """Give a user a password, and return the id of its row; sessions that another one has opened end with it."""
        async with self.changing() as connection:
            return await put_password(connection, user_id, kept)

    async def set_totp(self, user_id: str, secret: str, step: int, codes: Sequence[str]) -> None:
        """Give a user an authenticator whose code of a step has counted, and digests of codes for when it is lost."""
        async with self.changing() as connection:
            await connection.execute(_PUT, new_id(), user_id, "totp", "", self.sealed(user_id, secret), step)
            await connection.execute("DELETE FROM credential WHERE user_id = $1 AND kind = 'recovery'", user_id)
            await connection.executemany(_PUT, [(new_id(), user_id, "recovery", "", one, 0) for one in codes])

    async def forget_totp(self, user_id: str) -> int:
        """Take the authenticator of a user away, with the codes for when it is lost."""
        statement = "DELETE FROM credential WHERE user_id = $1 AND kind IN ('totp', 'recovery') RETURNING id"
        return await self._returned(statement, user_id)

    async def passkey(self, id_: str) -> UserCredential | None:
        """Return a passkey of whomever."""
        found = await self._found(f"{_FIND} WHERE id = $1 AND kind = 'passkey'", id_)
        return found[0] if found else None

    async def add_passkey(self, id_: str, user_id: str, name: str, secret: str, counter: int) -> bool:
        """Give a user a passkey; False where it is somebody's."""
        statement = """
            INSERT INTO credential (id, user_id, kind, name, secret, counter) VALUES ($1, $2, 'passkey', $3, $4, $5)
            ON CONFLICT (id) DO NOTHING RETURNING id
        """
        return bool(await self._returned(statement, id_, user_id, name, secret, counter))

    async def count_passkey(self, id_: str, counter: int) -> bool:
        """Have a passkey's counter count; False where it is not beyond the last. Those that count nothing stay at 0."""
        statement = """
            UPDATE credential SET counter = $2, used_at = now()
            WHERE id = $1 AND kind = 'passkey' AND (counter < $2 OR (counter = 0 AND $2 = 0)) RETURNING id
        """
        return bool(await self._returned(statement, id_, counter))

    async def forget_passkey(self, user_id: str, id_: str) -> bool:
        """Take a passkey of a user away; False where there is none."""
        statement = "DELETE FROM credential WHERE user_id = $1 AND id = $2 AND kind = 'passkey' RETURNING id"
        return bool(await self._returned(statement, user_id, id_))

    async def forget(self, user_id: str) -> None:
        """Take everything away that a user has."""
        await self._returned("DELETE FROM credential WHERE user_id = $1 RETURNING id", user_id)

    def sealed(self, user_id: str, secret: str) -> str:
        """Return the secret of an authenticator as it is kept."""
        return self._keyring.seal(secret, PLATFORM, user_id, "totp")

    def opened(self, kept: UserCredential) -> str:
        """Return the secret of an authenticator. Raises `CannotOpen`."""
        return self._keyring.open(kept.secret, PLATFORM, kept.user_id, "totp")

    async def stale(self, key: str, after: str, limit: int) -> list[StaleRow]:
        """Return authenticators that another key than the one of this id seals, by id, those after `after`."""
        found = await self._found(f"{_FIND} WHERE {_STALE} AND id > $2 ORDER BY id LIMIT $3", f"v1.{key}.", after, limit)
        return [StaleRow(one.id, "totp", PLATFORM, one.user_id, {(PLATFORM, one.user_id, "totp"): one.secret}) for one in found]

    async def count_stale(self, key: str) -> int:
        """Return how many there are."""
        return len(await self._found(f"{_FIND} WHERE {_STALE}", f"v1.{key}."))

    async def reseal(self, row: StaleRow, sealed: Mapping[Place, str]) -> bool:
        """Replace the secret of an authenticator by the same under another key; False where it is another by now."""
        statement = "UPDATE credential SET secret = $3 WHERE id = $1 AND secret = $2 RETURNING id"
        ((place, value),) = sealed.items()
        return bool(await self._returned(statement, row.id, row.sealed[place], value))

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[Connection]:
        """A transaction."""
        async with reading(self._engine) as connection, connection.transaction():
            yield connection

    async def _found(self, statement: str, *values: Any) -> list[UserCredential]:
        async with reading(self._engine) as connection:
            return [UserCredential(**row) for row in await connection.fetch(statement, *values)]

    async def _returned(self, statement: str, *values: Any) -> int:
        async with reading(self._engine) as connection:
            return len(await connection.fetch(statement, *values))


async def put_password(connection: Connection, user_id: str, kept: str) -> str:
    """Give a user a password within a transaction, and end the user's sessions; return the id of its row."""
    id_ = await connection.fetchval(f"{_PUT} RETURNING id", new_id(), user_id, "password", "", kept, 0)
    # Behind the password: a sign-in by the one before holds its row until its session is there to be ended.
    await connection.execute("DELETE FROM session WHERE user_id = $1", user_id)
    return str(id_)


def _digests(login: str, address: str | None) -> list[tuple[bytes, BackOff]]:
    found = [] if address is None else [(_digest("address", address), OF_ADDRESS)]
    return [*found, (_digest("user", login), OF_USER)]


def _digest(kind: str, value: str) -> bytes:
    return hashlib.sha256(f"{kind} {value}".encode(errors="replace")).digest()
