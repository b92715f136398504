"""Keeps a rebuild's progress in the data folder, so that the next call continues one that was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from deploy.errors import StartError
from deploy.files import write_private
from deploy.positions import Held

# looking: nothing was touched yet. dropping: some rows may be gone. replaying: all are, the checkpoints hold how far it has come.
Phase = Literal["looking", "dropping", "replaying"]


class Digest(msgspec.Struct, frozen=True):
    """A digest of rows: their number, and the SHA-256 of the SHA-256 of each one's text, in the order of their key."""

    rows: int
    sha256: str


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """A rebuild under way. `ages` are the streams' limits before they were lifted; `digests` are by table, from before."""

    phase: Phase
    ages: dict[str, int]
    parts: list[str] = []
    held: dict[str, Held] = {}
    digests: dict[str, Digest] = {}


def recall(path: Path) -> Memory | None:
    """Return the rebuild that is under way, if there is one. Raises `StartError` for a file that is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Memory)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StartError(f"{path} cannot be read ({error}); delete it to begin the rebuild anew.") from error


def remember(path: Path, memory: Memory) -> None:
    """Write a rebuild down; on disk when this returns."""
    write_private(path, msgspec.json.format(msgspec.json.encode(memory)) + b"\n")
