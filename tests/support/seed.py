"""What an executor makes once in its folder, made once for all folders of a test worker: Python, the SDK, compiled, and uv."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import uv

from services.executor.environments.disk import reachable
from services.executor.sandbox.children import SANDBOX_UID
from services.executor.sandbox.ground import Identity, prepare


@functools.cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mr-test-seed-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder)
    prepare(folder / "sandbox", folder, None, Identity(SANDBOX_UID, SANDBOX_UID) if os.geteuid() == 0 else None).leave()
    (folder / "environments").mkdir(mode=0o755)
    reachable(Path(uv.find_uv_bin()), folder / "environments")
    return folder


def seed_sandbox(folder: Path) -> None:
    """Put into a sandbox's folder what an earlier one would have left there, unless one did."""
    if folder.exists():
        return
    folder.mkdir(mode=0o755, parents=True)
    for made in (_made() / "sandbox").iterdir():
        if made.name.startswith("sdk-"):
            shutil.copytree(made, folder / made.name, copy_function=os.link)
        elif made.name.startswith("python-"):
            (folder / made.name).symlink_to(made)


def seed(folder: Path) -> None:
    """Do so in an executor's folder."""
    seed_sandbox(folder / "sandbox")
    if not (folder / "environments").exists():
        shutil.copytree(_made() / "environments", folder / "environments", copy_function=os.link)
