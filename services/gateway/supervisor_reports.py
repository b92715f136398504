"""Reads the reports of the supervisor of processes, where there is one: how each is, and which die again and again.

A service that dies soon after each start answers for itself while it lives, so that only its supervisor knows.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

LAST_BACKUP = "last-backup"


class ServiceExit(msgspec.Struct, frozen=True):
    """The end of a process: its exit code, or minus the number of the signal; `hung` if it had to be ended."""

    code: int
    at: str
    hung: bool = False


class ServiceProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that is kept running: down while `pid` is None, and `failures` ends in a row since `failing_since`.

    `silent_since` is since when it has not answered its supervisor.
    """

    pid: int | None
    failures: int
    restarts: int
    last_exit: ServiceExit | None
    since: str
    failing_since: str | None = None
    silent_since: str | None = None


class _Told(msgspec.Struct, frozen=True):
    """The file: all processes by name, and the names of those that die again and again."""

    processes: dict[str, ServiceProcess]
    failing: list[str]


def backup(file: Path | None, now: float) -> dict[str, float]:
    """Return the seconds since the last backup of an installation, or since its beginning; nothing where nobody notes it.

    The note is beside the supervisor's `file`.
    """
    if file is None:
        return {}
    try:
        made = file.with_name(LAST_BACKUP).stat().st_mtime
    except OSError:
        return {}
    return {"age_s": round(max(0.0, now - made), 1)}


def told(file: Path | None) -> tuple[dict[str, ServiceProcess], list[str]]:
    """Return all processes, and the names of those that die again and again; none without a readable file."""
    if file is None:
        return {}, []
    try:
        found = msgspec.json.decode(file.read_bytes(), type=_Told)
    except (OSError, msgspec.MsgspecError):
        return {}, []
    return found.processes, found.failing
