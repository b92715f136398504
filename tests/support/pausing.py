"""Processes that stand still for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.inside import eventually


@asynccontextmanager
async def paused(pid: int) -> AsyncIterator[None]:
    """Stop a process for the block: every thread of it stands still when the block begins."""
    os.kill(pid, signal.SIGSTOP)
    try:

        async def still() -> bool:
            states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
            return all(state == "T" for state in states)

        await eventually(still)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
