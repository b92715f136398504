"""What the oauth service counts as broken is what its rows say, and stays while the database is away."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from services.oauth.broken import BrokenTokens
from shared.db import open_engine, transaction
from shared.errors import Unavailable
from tests.support.servers import Place

_VAULT = """
INSERT INTO vault (
    id, noun, org, name, spec, sealed, version, revoking, announced, actor, first_command, last_command, created_at, updated_at
) VALUES (:id, 'connection', 'acme', :id, '{}', '', 1, false, true, 't', 'a', 'b', now(), now())
"""
_TOKEN = """
INSERT INTO token (connection, org, provider, version, status, failures, forced, attempting, doubted, configured, fence)
VALUES (:id, 'acme', 'p', 1, :status, 0, 0, false, false, '', 0)
"""


async def test_connections_that_need_somebody_are_counted(place: Place) -> None:
    engine = open_engine(place.database_url("oauth"), service="oauth", pool_size=1)
    broken = BrokenTokens(engine)
    try:
        assert broken.fact() == {}
        await broken.look()
        assert broken.fact() == {"needs_reauthorization": 0, "degraded": 0}
        async with transaction(engine) as connection:
            for number, status in enumerate(("healthy", "needs_reauthorization", "needs_reauthorization", "degraded", "pending")):
                await connection.execute(text(_VAULT), {"id": f"c{number}"})
                await connection.execute(text(_TOKEN), {"id": f"c{number}", "status": status})
        await broken.look()
        assert broken.fact() == {"needs_reauthorization": 2, "degraded": 1}
        async with place.database_away():
            with pytest.raises(Unavailable):
                await broken.look()
        assert broken.fact() == {"needs_reauthorization": 2, "degraded": 1}
    finally:
        await engine.dispose()
