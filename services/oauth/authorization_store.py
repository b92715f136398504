"""The SQL of authorizations that are under way."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import delete, func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from services.oauth.tables import authorization_request
from shared.db import transaction

_C = authorization_request.c


class AuthorizationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a person was asked: by the hash of `state`, with PKCE's verifier sealed, for `actor`, by the command `correlation`."""

    state: str
    connection: str
    org: str
    redirect: str
    issuer: str | None
    sealed: str | None
    actor: str
    correlation: str
    expires_at: datetime


class AuthorizationStore:
    """The rows. Each method is a transaction of its own. Raises `Unavailable` when the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, request: AuthorizationRequest) -> None:
        """Keep one, and forget those that have ended."""
        async with transaction(self._engine) as connection:
            await connection.execute(delete(authorization_request).where(_C.expires_at < func.clock_timestamp()))
            await connection.execute(insert(authorization_request).values(msgspec.structs.asdict(request)))

    async def take(self, state: str) -> AuthorizationRequest | None:
        """Return the one of that hash, which is gone from then on."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(
                delete(authorization_request).where(_C.state == state).returning(authorization_request)
            )
            row = found.mappings().first()
            return None if row is None else AuthorizationRequest(**row)
