"""Folders for tests that start servers."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that other users may pass through; pytest's tmp_path lies below one that they may not."""
    folder = Path(tempfile.mkdtemp(prefix="mr-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
