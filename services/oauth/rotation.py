"""Rotates keys: seals the rows of an older key anew with the first, so that the older one can be removed."""

from __future__ import annotations

import asyncio

import structlog

from services.oauth.store import KeptStore
from services.oauth.vault import Vault
from shared.errors import Unavailable

AT_ONCE = 100
# The ring is read once, at the start; later rows of a replica that lacks the new key are found within this time.
EVERY = 300.0
PAUSE = 3.0

_log = structlog.get_logger()


async def renewing(store: KeptStore, vault: Vault) -> None:
    """Look through all rows for ever. Rows that do not open are left as they are: their key may come back."""
    while True:
        try:
            await renew(store, vault)
        except Unavailable as error:
            _log.warning("renewing.interrupted", reason=error.detail)
            await asyncio.sleep(PAUSE)
        else:
            await asyncio.sleep(EVERY)


async def renew(store: KeptStore, vault: Vault) -> int:
    """Seal rows of older keys anew; returns how many. A row that changes meanwhile is left alone."""
    count, after = 0, ""
    while rows := await store.by_id(after, AT_ONCE):
        for row in rows:
            sealed = vault.renewed(row)
            if sealed is not None and await store.reseal(row, sealed):
                count += 1
        after = rows[-1].id
    if count:
        _log.info("renewing.sealed_anew", rows=count)
    return count
