"""The command by which the keeper of keys learns of their use elsewhere."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.questions.declaration import Command, Done, command
from shared.values import Key

# Epoch seconds until 2242: what the calendar of the database holds.
Seconds = Annotated[float, msgspec.Meta(ge=0, le=2**33)]


@command("gateway.note_key_use", by="logs")
class NoteKeyUse(Command[Done], frozen=True, kw_only=True):
    """Remember when keys for NATS were last used: by id of the key."""

    used: dict[Key, Seconds]
