"""Remakes registry entries whose derived values differ from those of this version."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog

from shared.errors import Unavailable
from shared.owners.rules import Derive
from shared.registry import RegistryView, RegistryWriter
from shared.resources import Resource

PAUSE = 1.0

_log = structlog.get_logger()


async def redeclare(view: RegistryView[Resource[Any]], writer: RegistryWriter[Resource[Any]], derive: Derive) -> None:
    """Remake differing entries once; until then the gateway verifies as before, or answers 503 where nothing was declared.

    An entry is left alone where nothing can be derived, as of a source whose adapter is not in this version.
    """
    for value in list(view.values()):
        entry = view.get(value.id)
        derived = derive(value)
        if entry is None or entry.value is not value or not derived or derived == value.derived:
            continue
        remade = msgspec.structs.replace(value, derived=derived)
        while True:
            try:
                await writer.remake(value.id, entry.seq, remade)
            except Unavailable as error:
                _log.warning("source.not_redeclared", source=value.id, reason=error.detail)
                await asyncio.sleep(PAUSE)
            else:
                break
