"""The console that ships is what its source in this tree makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.peers import install

ROOT = Path(__file__).parents[2]
CONSOLE = ROOT / "console"
SHIPPED = ROOT / "services" / "gateway" / "pages" / "console"


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_ships_is_built_from_this_source(tmp_path: Path) -> None:
    install(CONSOLE)
    environment = {**os.environ, "PYTHON": sys.executable, "CONSOLE_OUT": str(tmp_path / "built")}
    built = subprocess.run(["npm", "run", "build"], cwd=CONSOLE, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    made, shipped = files_of(tmp_path / "built"), files_of(SHIPPED)
    assert made.keys() == shipped.keys(), "run `make console` and commit what it has made"
    assert [name for name in made if made[name] != shipped[name]] == [], "run `make console` and commit what it has made"
