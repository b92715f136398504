"""Answers questions and commands: tokens, secrets and variables for runs; resources as they are declared."""

from __future__ import annotations

from typing import Protocol

import structlog

from services.oauth.domain import Kept, Outcome, audited
from services.oauth.store import KeptStore
from services.oauth.vault import Vault
from shared.asking import Questions
from shared.bus import Bus
from shared.errors import NotFound, Unavailable
from shared.owners.answering import Keepers, questions_of
from shared.owners.rows import ResourceRows
from shared.questions.oauth import GetSecret, GetToken, GetVariable, SecretGiven, Token, VariableView

_log = structlog.get_logger()


class OAuthDeps(Keepers, Protocol):
    """Dependencies of the answers."""

    bus: Bus
    store: KeptStore
    vault: Vault
    resources: ResourceRows


async def get_token(asked: GetToken, deps: OAuthDeps) -> Token:
    """Give a live token out."""
    row, sealed = await _given("connection", asked, deps)
    return Token(connection=row.id, name=row.name, sealed=sealed, expires_at=None, version=row.version)


async def get_secret(asked: GetSecret, deps: OAuthDeps) -> SecretGiven:
    """Give a secret to a run, or to the service that asks for itself."""
    row, sealed = await _given("secret", asked, deps)
    return SecretGiven(name=row.name, owner=row.org, sealed=sealed, version=row.version)


async def get_variable(asked: GetVariable, deps: OAuthDeps) -> VariableView:
    """Return the variable of that name for a run of the organization: its own, else the platform's."""
    found = await deps.resources.named("variable", asked.org, asked.name, inherited=True)
    if found is None:
        raise _absent("variable", asked.name)
    return VariableView(
        org=found.org,
        name=found.name,
        value=found.spec.value,
        created_at=found.created_at,
        updated_at=found.updated_at,
        version=found.version,
    )


async def _given(noun: str, asked: GetToken | GetSecret, deps: OAuthDeps) -> tuple[Kept, str]:
    """Return the row that a run means by a name, and its value sealed for the asker.

    The record of that, or of a refusal, is on disk before: without a record nothing is given. Raises `NotFound`, `Unavailable`.
    """

    async def record(row: Kept | None, outcome: Outcome) -> None:
        message = audited(noun, asked, row, outcome)
        await deps.bus.publish(deps.bus.seal(message, org=asked.org, correlation=asked.correlation_id))

    row = await deps.store.usable(noun, asked.org, asked.name, by_run=asked.run is not None)
    if row is None:
        await record(None, "not_found")
        raise _absent(noun, asked.name)
    try:
        sealed = deps.vault.given(row, asked)
    except Unavailable as error:
        _log.warning(f"{noun}.quarantined", reason=error.detail, **{noun: row.id})
        await record(row, "unavailable")
        raise
    await record(row, "ok")
    return row, sealed


def _absent(noun: str, name: str) -> NotFound:
    return NotFound(f"there is no {noun} {name!r} in this organization or in global")


QUESTIONS: Questions = {
    **questions_of("oauth"),
    GetToken: get_token,
    GetSecret: get_secret,
    GetVariable: get_variable,
}
