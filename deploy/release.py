"""`python -m deploy.release`: write a release of what is committed into dist/ (`make dist`).

Wheel and sdist are built twice, the second time of the first sdist, and have to be the same bytes. Beside them: the packages that
Millrace needs, pinned by hash; bills of materials (CycloneDX) of these and of what the console is built of; the sums of all.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.utils import canonicalize_name

from deploy.image_lock import pinned

ROOT = Path(__file__).resolve().parent.parent


class ReleaseError(Exception):
    """There is no release of this tree; the sentence says why."""


def release(root: Path, out: Path) -> list[Path]:
    """Write a release of what is committed in the working tree `root` into `out`, which is made anew; return its files."""
    if changed := _said(["git", "status", "--porcelain"], root):
        raise ReleaseError(f"not everything is committed:\n{changed}")
    epoch = int(_said(["git", "log", "-1", "--format=%ct"], root))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="millrace-release-") as folder:
        tree = Path(folder) / "tree"
        with tarfile.open(fileobj=io.BytesIO(_run(["git", "archive", "HEAD"], root))) as archive:
            archive.extractall(tree, filter="data")
        wheel, sdist = build_twice(tree, out, epoch)
        name, version = wheel.name.split("-")[:2]
        lock = out / f"{name}-{version}.lock"
        lock.write_text(pinned(tree))
        bills = (out / f"{name}-{version}.cdx.json", out / f"{name}-{version}-console.cdx.json")
        _list_packages(tree, lock, bills[0])
        _list_console(tree, version, bills[1])
    sums = out / "SHA256SUMS"
    made = [wheel, sdist, lock, *bills]
    sums.write_text("".join(f"{hashlib.sha256(one.read_bytes()).hexdigest()}  {one.name}\n" for one in made))
    return [*made, sums]


def build_twice(tree: Path, out: Path, epoch: int) -> tuple[Path, Path]:
    """Build wheel and sdist of a tree into `out`, and again of that sdist; raise `ReleaseError` where the bytes differ."""
    built = build(tree, out, epoch)
    with tempfile.TemporaryDirectory(prefix="millrace-again-") as folder:
        with tarfile.open(built[1]) as archive:
            archive.extractall(Path(folder) / "sdist", filter="data")
        (unpacked,) = (Path(folder) / "sdist").iterdir()
        again = build(unpacked, Path(folder) / "dist", epoch)
        differ = [one.name for one, other in zip(built, again, strict=True) if one.read_bytes() != other.read_bytes()]
    if differ:
        raise ReleaseError(f"built of the sdist, {' and '.join(differ)} has other bytes than built of the tree")
    return built


def build(tree: Path, out: Path, epoch: int) -> tuple[Path, Path]:
    """Build wheel and sdist of a tree into `out`, all times in them being `epoch`."""
    command = [sys.executable, "-P", "-m", "hatchling", "build", "--directory", str(out)]
    _run(command, tree, SOURCE_DATE_EPOCH=str(epoch))
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def _list_packages(tree: Path, lock: Path, bill: Path) -> None:
    """Write the bill of the pinned packages, as they are installed into an environment of their own."""
    with tempfile.TemporaryDirectory(prefix="millrace-packages-") as folder:
        python = Path(folder) / "bin" / "python"
        _run([sys.executable, "-m", "venv", "--without-pip", folder], tree)
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
        _run([*pip, "--require-hashes", "--requirement", str(lock)], tree)
        command = [sys.executable, "-P", "-m", "cyclonedx_py", "environment", "--output-reproducible"]
        command += ["--pyproject", str(tree / "pyproject.toml"), "--output-file", str(bill), str(python)]
        _run(command, tree)
    listed = {canonicalize_name(one["name"]): one.get("version") for one in json.loads(bill.read_bytes())["components"]}
    if missing := pins(lock.read_text()).items() - listed.items():
        raise ReleaseError(f"the bill of materials lacks {', '.join('=='.join(one) for one in sorted(missing))}")


def pins(lock: str) -> dict[str, str]:
    """Return the version of each package of a lock that is for this platform."""
    found = re.findall(r"^([a-z0-9.-]+)(?:\[[^]]*\])?==(\S+)(?: ; ([^\\\n]+))?", lock, re.MULTILINE)
    return {name: version for name, version, marker in found if not marker or Marker(marker.strip()).evaluate()}


def _list_console(tree: Path, version: str, bill: Path) -> None:
    """Write the bill of the packages that are built into the console."""
    if shutil.which("npm") is None:
        raise ReleaseError("npm is not installed, which lists what the console is built of")
    with tempfile.TemporaryDirectory(prefix="millrace-console-") as folder:
        place = Path(folder) / "millrace-console"
        shutil.copytree(tree / "console", place)
        # The console is of Millrace's own version, and has no other.
        described = place / "package.json"
        described.write_text(json.dumps(json.loads(described.read_bytes()) | {"version": version}))
        made: dict[str, Any] = json.loads(
            _run(["npm", "sbom", "--omit=dev", "--package-lock-only", "--sbom-format=cyclonedx"], place)
        )
    # Of the moment and by chance: two bills of the same packages are the same.
    del made["serialNumber"], made["metadata"]["timestamp"]
    bill.write_text(json.dumps(made, indent=2) + "\n")


def _run(command: list[str], where: Path, **environment: str) -> bytes:
    done = subprocess.run(command, cwd=where, env=os.environ | environment, capture_output=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise ReleaseError(f"`{' '.join(command[:5])}` failed: {said}")
    return done.stdout


def _said(command: list[str], where: Path) -> str:
    return _run(command, where).decode().strip()


def main() -> None:
    """Write it, and print the sums."""
    try:
        made = release(ROOT, ROOT / "dist")
    except ReleaseError as error:
        sys.exit(f"There is no release: {error}")
    sys.stdout.write(made[-1].read_text())


if __name__ == "__main__":
    main()
