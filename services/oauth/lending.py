"""Shares out the requests of a client that is lent: so many a minute to each organization, whatever replica sends them."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.oauth.tables import lent_client
from shared.db import transaction

# What an organization may ask for in a minute unless the provider says otherwise: refreshes thousands of tokens that live an hour.
# It may do so at once, after a minute's rest.
A_MINUTE = 120
# A bucket that nobody has used for longer than it takes to fill is as good as none.
FULL_AFTER = timedelta(minutes=1)

_C = lent_client.c


class LentShare(msgspec.Struct, frozen=True):
    """The requests a minute that an organization has of a client of another's, whatever host they go to."""

    client: str
    a_minute: int


class Lending:
    """A bucket for each client and organization, in the database, which replicas share."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def take(self, share: LentShare, org: str) -> bool:
        """Take a request from an organization's share of a client; False where it is used up. Raises `Unavailable`."""
        now, a_minute = func.clock_timestamp(), share.a_minute
        taken = insert(lent_client).values(client=share.client, org=org, left=a_minute - 1, at=now)
        filled = func.least(a_minute, _C.left + func.extract("epoch", now - _C.at) * a_minute / 60)
        taken = taken.on_conflict_do_update(
            index_elements=["client", "org"], set_={"left": filled - 1, "at": now}, where=filled >= 1
        )
        async with transaction(self._engine) as connection:
            return (await connection.execute(taken)).rowcount > 0

    async def forget(self) -> int:
        """Forget buckets that are full by now; returns how many. Raises `Unavailable`."""
        async with transaction(self._engine) as connection:
            gone = delete(lent_client).where(_C.at < func.clock_timestamp() - FULL_AFTER)
            return (await connection.execute(gone)).rowcount
