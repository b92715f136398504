"""The tests of the examples, run as their authors run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTED = sorted(path.parent for path in (ROOT / "examples").glob("*/tests"))


@pytest.mark.parametrize("folder", TESTED, ids=lambda folder: folder.name)
def test_an_examples_own_tests_pass(folder: Path) -> None:
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT / "sdk"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:asyncio"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
