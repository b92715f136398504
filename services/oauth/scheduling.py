"""Refreshes tokens before they end: one query a tick finds those whose time has come, whatever replica asks."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog

from services.oauth.refresh import Refresher
from services.oauth.token_store import TokenStore
from services.oauth.waiting import BackgroundTasks
from shared.errors import MillraceError

EVERY = 2.0
# Of one tick; a provider takes some at a time, and others are found again.
AT_ONCE = 64
MOST = 256
# Longer than an attempt takes. A replica that took a connection and died leaves it to others for so long.
PUT_OFF = timedelta(seconds=45)

_log = structlog.get_logger()


async def refreshing_in_time(tokens: TokenStore, refresher: Refresher) -> None:
    """Refresh for ever what is due. Every replica does: each takes connections that no other one has."""
    under_way = BackgroundTasks(MOST)
    reported: str | None = None
    try:
        while True:
            found: list[tuple[str, str]] = []
            room = under_way.room(AT_ONCE)
            try:
                if room:
                    found = await tokens.due(room, refresher.busy, under_way.full, PUT_OFF)
                reported = None
            except MillraceError as error:
                if error.detail != reported:
                    reported = error.detail
                    _log.warning("scheduling.interrupted", reason=reported)
            for id_, org in found:
                under_way.begin(org, _one(refresher, id_))
            await asyncio.sleep(EVERY if len(found) < max(room, 1) else 0.05)
    finally:
        await under_way.end()


async def _one(refresher: Refresher, id_: str) -> None:
    try:
        await refresher.due(id_)
    except MillraceError as error:
        _log.warning("connection.not_refreshed", connection=id_, reason=error.detail)
    except Exception:
        _log.exception("connection.not_refreshed", connection=id_)
