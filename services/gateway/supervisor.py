"""What the supervisor of the processes tells, where there is one: which die again and again.

A service that dies soon after each start answers for itself while it lives, so that only its supervisor knows.
"""

from __future__ import annotations

from pathlib import Path

import msgspec


class Exit(msgspec.Struct, frozen=True):
    """How a process ended: its exit code, or minus the number of the signal."""

    code: int
    at: str


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process that is kept running: down while `pid` is None, and `failures` ends in a row, each soon after a start."""

    pid: int | None
    failures: int
    restarts: int
    last_exit: Exit | None
    since: str


class Told(msgspec.Struct, frozen=True):
    """The file: all processes by name, and the names of those that die again and again."""

    processes: dict[str, Process]
    failing: list[str]


def failing(file: Path | None) -> dict[str, Process]:
    """Return the processes that die again and again, by name; none where nobody tells (or in another version's words)."""
    if file is None:
        return {}
    try:
        told = msgspec.json.decode(file.read_bytes(), type=Told)
    except (OSError, msgspec.MsgspecError):
        return {}
    return {name: told.processes[name] for name in told.failing if name in told.processes}
