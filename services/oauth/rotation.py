"""Rotates keys: seals the rows of an older key anew with the first, so that the older one can be removed."""

from __future__ import annotations

import structlog

from services.oauth.domain import place_of, token_place
from services.oauth.store import KeptStore
from services.oauth.token_store import TokenStore
from services.oauth.vault import Vault
from shared.leader import lead

AT_ONCE = 100
# The ring is read once, at the start; later rows of a replica that lacks the new key are found within this time.
EVERY = 300.0
AGAIN = 3.0

_log = structlog.get_logger()


async def renewing(store: KeptStore, tokens: TokenStore, vault: Vault, url: str) -> None:
    """Look through all rows for ever. Rows that do not open are left as they are: their key may come back.

    Of several replicas, which share the database at `url`, one does: two whose rings begin with different keys would undo each
    other's work.
    """
    await lead(
        lambda: renew(store, tokens, vault),
        url=url,
        service="oauth",
        lock="oauth.rotation",
        pause=EVERY,
        first=0.0,
        again=AGAIN,
        interrupted="renewing.interrupted",
    )


async def renew(store: KeptStore, tokens: TokenStore, vault: Vault) -> int:
    """Seal rows of older keys anew; returns how many. A row that changes meanwhile is left alone."""
    count, after = 0, ""
    while rows := await store.by_id(after, AT_ONCE):
        for row in rows:
            sealed = vault.renewed(row.sealed, place_of(row.noun, row.org, row.id, row.name))
            if sealed is not None and await store.reseal(row, sealed):
                count += 1
        after = rows[-1].id
    after = ""
    while states := await tokens.by_id(after, AT_ONCE):
        for state in states:
            sealed = vault.renewed(state.sealed or "", token_place(state.org, state.connection))
            if sealed is not None and await tokens.reseal(state, sealed):
                count += 1
        after = states[-1].connection
    if count:
        _log.info("renewing.sealed_anew", rows=count)
    return count
