"""A folder for a drill's installation."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def place_of(drill: str, *, keep: bool) -> Iterator[Path]:
    """Make a folder that the users of sandboxes and of Postgres may pass through, with `marks` inside that they may write to."""
    place = Path(tempfile.mkdtemp(prefix=f"millrace-chaos-{drill}-"))
    place.chmod(0o755)
    marks = place / "marks"
    marks.mkdir()
    marks.chmod(0o777 | (0o1000 if os.geteuid() == 0 else 0))
    try:
        yield place
    finally:
        if not keep:
            shutil.rmtree(place, ignore_errors=True)
