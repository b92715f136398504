"""Sign-ins of the command, after RFC 8628: asked for by a device, allowed by a person elsewhere, given to the device once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.gateway.identity import RANDOM, NewKey, key_of
from services.gateway.rates import Rate, SharedBuckets
from services.gateway.tables import login
from services.gateway.visitors import Visitors
from shared.db import transaction
from shared.envelope import new_id
from shared.errors import Conflict, NotFound, TooMany
from shared.resources.declaration import Role

# Seconds for which a code counts, between two polls at least, and by which that grows where a device polls faster (section 3.5).
SECONDS, PACE, SLOWER, SLOWEST = 600, 2, 5, 60
# Of the time between two polls what the way may take from it.
JITTER = 0.5
# Seconds for which a device may still take what was allowed at the last moment, and for which codes that are over are known.
TAKEN_WITHIN, KNOWN_FOR = 60, 86_400
# Without vowels, which make words, and without letters or digits that look alike (section 6.1): 20^8 codes, 34.6 bits.
ALPHABET, LETTERS = "BCDFGHJKLMNPQRSTVWXZ", 8
# Codes that wait for a person: of one address that does not stand for many, and of all.
EACH, ALL = 20, 10_000
# A device polls once in two seconds, and several may share an address.
POLLS = Rate(per_second=5.0, burst=50)
# Codes that one caller may look up: hundreds in the time of one, of 2.6e10.
LOOKS = Rate(per_second=0.5, burst=20)

State = Literal["pending", "approved", "denied", "granted"]
_NOT_A_LETTER = re.compile("[^A-Z]")
_is_over = login.c.ends_at <= func.now()
# A pace is a whole number of seconds.
_next = login.c.polled_at + func.make_interval(0, 0, 0, 0, 0, 0, login.c.pace - JITTER)


class Login(msgspec.Struct, frozen=True, kw_only=True):
    """A sign-in: who asks for it, for what, and what was decided.

    `host` is what the device says of itself, `address` where it asked from. `org` and `role` are those asked for, None: those of
    who allows it; once it is allowed those that are given. `lifetime` is in seconds, `name` that of the key to be. `actor` is who
    decided, `user_id` the user as which the key acts, None: it acts for itself.
    """

    id: str
    host: str
    address: str | None
    org: str | None
    role: Role | None
    lifetime: int
    name: str
    state: State
    asked_at: datetime
    ends_at: datetime
    actor: str | None
    user_id: str | None
    decided_at: datetime | None


class Codes(msgspec.Struct, frozen=True):
    """The two codes of a sign-in: what the device shows to be known, and what a person types."""

    device: str
    user: str

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "Codes(...)"


class Polled(msgspec.Struct, frozen=True):
    """What a device that asks finds; `is_over`: nobody decided in time; `is_fast`: it asks too often, and waits `pace` seconds."""

    login: Login
    is_over: bool
    is_fast: bool
    pace: int


class Logins:
    """The sign-ins of all gateways, by digests of their codes: a device may ask any gateway. Raises `Unavailable`."""

    def __init__(self, engine: AsyncEngine, keys: Sequence[bytes], buckets: SharedBuckets) -> None:
        self._engine = engine
        # A table of all user codes is quickly made, but not without this secret.
        self._codes, self._values = (hmac.digest(keys[0], b"millrace login " + of, "sha256") for of in (b"code", b"key"))
        self.devices = Visitors(POLLS)
        self._buckets = buckets

    async def ask(
        self, *, host: str, address: str | None, neighbourhood: str | None, org: str | None, role: Role | None, lifetime: int
    ) -> Codes:
        """Remember a sign-in that waits for a person. Raises `TooMany`."""
        made: dict[str, Any] = {
            "id": new_id(),
            "host": host,
            "address": address,
            "neighbourhood": neighbourhood,
            "org": org,
            "role": role,
            "lifetime": lifetime,
            "name": f"login-{host[:60]}-{secrets.token_hex(3)}",
            "pace": PACE,
            "ends_at": func.now() + timedelta(seconds=SECONDS),
        }
        waiting = select(
            func.count().label("of_all"), func.count().filter(login.c.neighbourhood == neighbourhood).label("of_address")
        ).where(login.c.state == "pending", ~_is_over)
        async with transaction(self._engine) as connection:
            await connection.execute(delete(login).where(login.c.ends_at < func.now() - timedelta(seconds=KNOWN_FOR)))
            found = (await connection.execute(waiting)).one()
            if (neighbourhood is not None and found.of_address >= EACH) or found.of_all >= ALL:
                raise TooMany("too many sign-ins wait for somebody who allows them", retry_after=SECONDS / 10)
            while True:
                codes = Codes(secrets.token_urlsafe(RANDOM), new_code())
                digests = {"device": _digest(codes.device), "code": self._digest_of(codes.user)}
                added = insert(login).values(made | digests).on_conflict_do_nothing(index_elements=["code"])
                if (await connection.execute(added)).rowcount:
                    return codes

    def look(self, caller: str) -> None:
        """Count that somebody looks up a code, which may be a guess: at all gateways together. Raises `TooMany`."""
        if wait := self._buckets.bucket(f"login:{caller}", LOOKS).take(time.monotonic()):
            raise TooMany("you look up codes too often", retry_after=wait)

    async def find(self, code: str) -> Login:
        """Return the sign-in that a person has the code of. Raises `NotFound`."""
        async with transaction(self._engine) as connection:
            wanted = select(login).where(login.c.code == self._digest_of(code), ~_is_over)
            row = (await connection.execute(wanted)).one_or_none()
        if row is None:
            raise NotFound(f"no sign-in has this code, or its {SECONDS // 60} minutes are over")
        return _login(row)

    async def decide(
        self, code: str, state: Literal["approved", "denied"], *, org: str, role: Role, actor: str, user_id: str | None
    ) -> Login:
        """Allow or deny a sign-in: of several who do at once one does. Raises `NotFound`, and `Conflict` where one has."""
        decided = (
            update(login)
            .where(login.c.code == self._digest_of(code), login.c.state == "pending", ~_is_over)
            .values(
                state=state,
                org=org,
                role=role,
                actor=actor,
                user_id=user_id,
                decided_at=func.now(),
                ends_at=func.greatest(login.c.ends_at, func.now() + timedelta(seconds=TAKEN_WITHIN)),
            )
            .returning(login)
        )
        async with transaction(self._engine) as connection:
            row = (await connection.execute(decided)).one_or_none()
        if row is None:
            found = await self.find(code)
            raise Conflict(f"this sign-in was {'denied' if found.state == 'denied' else 'approved'} already")
        return _login(row)

    async def poll(self, device: str) -> Polled | None:
        """Return what has become of a device's sign-in, None where none is known."""
        wanted = (
            select(login, _is_over.label("is_over"), (_next > func.now()).label("is_early"))
            .where(login.c.device == _digest(device))
            .with_for_update()
        )
        async with transaction(self._engine) as connection:
            row = (await connection.execute(wanted)).one_or_none()
            if row is None:
                return None
            is_fast = bool(row.is_early) and row.state == "pending"
            pace = min(row.pace + SLOWER, SLOWEST) if is_fast else row.pace
            await connection.execute(update(login).where(login.c.id == row.id).values(polled_at=func.now(), pace=pace))
        return Polled(_login(row), row.is_over, is_fast, pace)

    async def granted(self, of: Login) -> None:
        """Have the code of a device be of no use any more."""
        async with transaction(self._engine) as connection:
            await connection.execute(update(login).where(login.c.id == of.id).values(state="granted"))

    def key(self, device: str) -> NewKey:
        """Return the key that belongs to a device's code: the same at each gateway, however often one is killed in between."""
        made = hmac.digest(self._values, device.encode(), "sha256")
        return key_of("mr_" + base64.urlsafe_b64encode(made).rstrip(b"=").decode())

    def _digest_of(self, code: str) -> bytes:
        return hmac.digest(self._codes, letters_of(code).encode(), "sha256")


def new_code() -> str:
    """Return a code for a person to type."""
    drawn = "".join(secrets.choice(ALPHABET) for _ in range(LETTERS))
    return f"{drawn[: LETTERS // 2]}-{drawn[LETTERS // 2 :]}"


def letters_of(code: str) -> str:
    """Return the letters of a code as it was typed: in any case, with or without its hyphen."""
    return _NOT_A_LETTER.sub("", code.upper())


def _digest(device: str) -> bytes:
    return hashlib.sha256(device.encode()).digest()


def _login(row: Any) -> Login:
    return Login(**{name: getattr(row, name) for name in Login.__struct_fields__})
