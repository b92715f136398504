"""What tests of runs share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def shared_folder(data: Path) -> Path:
    """A folder that runs may write to."""
    folder = data / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
