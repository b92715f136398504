"""Remakes registry entries of sources that hold another verification than their adapter declares in this version."""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from services.events.adapters import verification_of
from shared.errors import Unavailable
from shared.questions.events import SourceEntry
from shared.registry import RegistryView, RegistryWriter

PAUSE = 1.0

_log = structlog.get_logger()


async def redeclare(view: RegistryView[SourceEntry], writer: RegistryWriter[SourceEntry]) -> None:
    """Remake what differs once; until it is done, the gateway verifies as before, or answers 503 where nothing was declared.

    An entry is left alone where its adapter is not in this version.
    """
    for value in list(view.values()):
        entry = view.get(value.id)
        declared = verification_of(value.adapter, value.settings)
        if entry is None or entry.value is not value or declared is None or declared == value.verification:
            continue
        remade = msgspec.structs.replace(value, verification=declared)
        while True:
            try:
                await writer.remake(value.id, entry.seq, remade)
            except Unavailable as error:
                _log.warning("source.not_redeclared", source=value.id, reason=error.detail)
                await asyncio.sleep(PAUSE)
            else:
                break
