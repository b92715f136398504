"""Lays out what a child imports to speak to a remote: libraries, and the code of this room that runs there."""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
import shutil
from importlib.metadata import version
from pathlib import Path

from services.executor.environments.disk import place
from services.executor.repositories import inside, shell

_LIBRARIES = ("dulwich", "urllib3", "asyncssh", "cryptography")
_BESIDES = ("typing_extensions", "_cffi_backend")
_OURS = {"repository_inside.py": inside, "repository_shell.py": shell}


def laid_out(folder: Path) -> Path:
    """Return a folder with what the child imports, which every user can read; made once for these versions."""
    ours = {name: Path(str(module.__file__)) for name, module in _OURS.items()}
    sources = [_place_of(name) for name in (*_LIBRARIES, *_BESIDES)]
    told = [f"{name} {version(name)}" for name in _LIBRARIES]
    told += [hashlib.sha256(path.read_bytes()).hexdigest() for path in ours.values()]
    target = folder / f"libraries-{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    unfinished = folder / f".libraries-{secrets.token_hex(4)}"
    unfinished.mkdir()
    for source in sources:
        if source.is_dir():
            shutil.copytree(source, unfinished / source.name, ignore=shutil.ignore_patterns("tests", "contrib"))
        else:
            shutil.copy2(source, unfinished / source.name)
    for name, path in ours.items():
        shutil.copy2(path, unfinished / name)
    for one in (unfinished, *unfinished.rglob("*")):
        one.chmod(0o755 if one.is_dir() else 0o644)
    place(unfinished, target)
    shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _place_of(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 - a dependency
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
