"""Secrets: values that organizations put in and only their runs take out. No route and no message ever answers one."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import structlog

from services.oauth import keeping
from services.oauth.domain import Outcome, Secret, check_setting_name, put_secret_row, secret_audited, secret_view
from services.oauth.keeping import Shelf
from services.oauth.vault import Vault
from shared.bus import Bus
from shared.errors import NotFound, Unavailable
from shared.questions import Done
from shared.questions.settings import GetSecret, ListSecrets, PutSecret, RemoveSecret, SecretGiven, SecretList, SecretView

_log = structlog.get_logger()


class Deps(Protocol):
    """What secrets need."""

    bus: Bus
    secrets: Shelf[Secret]
    vault: Vault


async def put_secret(command: PutSecret, deps: Deps) -> SecretView:
    """Create or replace a secret; answered when both the row and its message are on disk."""
    check_setting_name(command.name)

    def made(found: Secret | None, now: datetime) -> Secret:
        return put_secret_row(found, command, deps.vault.secret_taken(command), now)

    row = await keeping.put(command, deps.secrets, made)
    return secret_view(row, openable=deps.vault.openable(row))


async def remove_secret(command: RemoveSecret, deps: Deps) -> Done:
    """Delete a secret: it is given to no run any more from the moment that it is marked."""
    await keeping.remove(command, deps.secrets)
    return Done()


async def get_secret(asked: GetSecret, deps: Deps) -> SecretGiven:
    """Give a secret to a run. That it was, or was not, is on disk before: without the record there is no secret."""
    secret = await deps.secrets.store.usable(asked.org, asked.name)
    if secret is None:
        await _record(asked, None, "not_found", deps)
        raise NotFound(f"there is no secret {asked.name!r} in this organization or in global")
    try:
        sealed = deps.vault.secret_given(secret, asked)
    except Unavailable as error:
        _log.warning("secret.quarantined", secret=secret.id, reason=error.detail)
        await _record(asked, secret, "unavailable", deps)
        raise
    await _record(asked, secret, "ok", deps)
    return SecretGiven(name=secret.name, owner=secret.org, sealed=sealed, version=secret.version)


async def list_secrets(asked: ListSecrets, deps: Deps) -> SecretList:
    """Return a page of the organization's secrets by name."""
    rows, more = await keeping.page(deps.secrets, asked.org, asked.page, asked.name)
    return SecretList([secret_view(row, openable=deps.vault.openable(row)) for row in rows], more)


async def _record(asked: GetSecret, secret: Secret | None, outcome: Outcome, deps: Deps) -> None:
    message = secret_audited(asked, secret, outcome)
    await deps.bus.publish(deps.bus.seal(message, org=asked.org, correlation=asked.correlation_id))
