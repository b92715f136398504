"""Unpacking of wheels where the disk does not take all of it."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

_PROGRAM = """
import json, os, resource, sys
os.sched_getaffinity = lambda _: {0, 1}
from millrace._runtime import unpacking
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
print(json.dumps(unpacking.unpacked(sys.argv[1], {"most_bytes": 1 << 30, "most_files": 1000})))
"""


def test_bytecode_that_cannot_be_written_in_whole_keeps_a_wheel_from_being_installed(tmp_path: Path) -> None:
    large = "".join(f"def f{number}(): pass\n" for number in range(800))
    with zipfile.ZipFile(tmp_path / "wheel", "w") as wheel:
        for number in range(200):
            wheel.writestr(f"good/m{number:03}.py", large if number == 101 else "x = 1\n")
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60)
    assert "could not be made or written" in str(json.loads(done.stdout)["problem"])
