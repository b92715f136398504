"""Commands in: an organization is removed with its connections, secrets, providers and variables."""

from __future__ import annotations

from typing import Protocol

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from services.oauth.spool import Spool
from services.oauth.tables import metadata, vault
from shared.asking import Questions
from shared.bus import Bus
from shared.db import transaction
from shared.owners.answering import Keepers
from shared.owners.removing import Deadline, Rows, are_level, erase_of_organization, remove_resources, resources_of
from shared.projection import Projection
from shared.questions.removing import EraseInOAuthOf, Left, RemoveInOAuth


class OAuthRemovingDeps(Keepers, Protocol):
    """Dependencies of removing."""

    bus: Bus
    engine: AsyncEngine
    catalog: Projection
    spool: Spool


async def remove(command: RemoveInOAuth, deps: OAuthRemovingDeps) -> Left:
    """Do a part of a step. Raises `Unavailable`."""
    org, deadline = command.organization, Deadline()
    rows = Rows(deps.engine, metadata)
    if command.step == "count":
        return Left(await rows.count(org, ()) | await _in_vault(org, deps))
    if command.step == "stop":
        # A row that is being revoked is announced and deleted by the sweep, if whoever began it was killed.
        async with transaction(deps.engine) as connection:
            found = (await connection.execute(select(vault.c.noun, vault.c.name).where(vault.c.org == org))).all()
        every = [(noun, name) for noun, name in found] + await resources_of(deps.engine, org)
        return Left(await remove_resources(command, deps.keepers, every, deadline))
    deps.spool.forget_all(org)
    return Left(await are_level([deps.catalog]) or await rows.delete(org, deadline))


async def _in_vault(org: str, deps: OAuthRemovingDeps) -> dict[str, int]:
    wanted = select(vault.c.noun, func.count()).where(vault.c.org == org).group_by(vault.c.noun).order_by(vault.c.noun)
    async with transaction(deps.engine) as connection:
        return {str(row[0]): int(row[1]) for row in await connection.execute(wanted)}


async def erase(command: EraseInOAuthOf, deps: OAuthRemovingDeps) -> Left:
    """Erase messages. Raises `Unavailable`."""
    return await erase_of_organization(deps.bus.client, command)


QUESTIONS: Questions = {RemoveInOAuth: remove, EraseInOAuthOf: erase}
