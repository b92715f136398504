"""Folders for tests that start servers."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
# Bytes for the servers of some workers, which write some hundred million each.
ROOM = 4 << 30


def in_memory() -> Path | None:
    """Where files need no disk, if there is room; None stands for the usual place."""
    if not os.access(MEMORY, os.W_OK):
        return None
    status = os.statvfs(MEMORY)
    return MEMORY if status.f_bavail * status.f_frsize > ROOM else None


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that other users may pass through; pytest's tmp_path lies below one that they may not."""
    folder = Path(tempfile.mkdtemp(prefix="mr-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
