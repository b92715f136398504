"""A folder for a drill's installation, and how a drill ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def place_of(drill: str, *, keep: bool) -> Iterator[Path]:
    """Make a folder that the users of sandboxes and of Postgres may pass through, with `marks` inside that they may write to.

    In it is the file of `executions_in`, to which the drill's workflows add a line for each thing that they do.
    """
    place = Path(tempfile.mkdtemp(prefix=f"millrace-chaos-{drill}-"))
    place.chmod(0o755)
    marks = place / "marks"
    marks.mkdir()
    marks.chmod(0o777 | (0o1000 if os.geteuid() == 0 else 0))
    executions = executions_in(place)
    executions.touch()
    executions.chmod(0o666)
    try:
        yield place
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def executions_in(place: Path) -> Path:
    """Return the file that the drill's workflows write their evidence to."""
    return place / "marks" / "executions"


def end_in_order() -> None:
    """Have SIGTERM end the current task as Ctrl-C does: what was started is ended in order."""
    mine = asyncio.current_task()
    if mine is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, mine.cancel)
