"""Lays out what a child imports to speak to a remote: libraries, and the code of this room that runs there."""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
import shutil
from importlib.metadata import version
from pathlib import Path

from services.executor.environments.disk import place
from services.executor.sandbox.interpreter import link_or_copy

_LIBRARIES = ("dulwich", "urllib3", "asyncssh", "cryptography")
_BESIDES = ("typing_extensions", "_cffi_backend")
# By their paths: this process needs none of what they import.
_OURS = {f"repository_{name}": Path(__file__).with_name(name) for name in ("inside.py", "shell.py")}


def place_of_libraries(folder: Path) -> Path:
    """Return the folder, in this one, for what the child imports in these versions."""
    told = [f"{name} {version(name)}" for name in _LIBRARIES]
    told += [hashlib.sha256(path.read_bytes()).hexdigest() for path in _OURS.values()]
    return folder / f"libraries-{hashlib.sha256(repr(told).encode()).hexdigest()[:16]}"


def lay_out(target: Path) -> None:
    """Put there what the child imports, readable by all users, unless it is there: 30 MB that nobody without a repository needs."""
    if target.is_dir():
        return
    unfinished = target.parent / f".libraries-{secrets.token_hex(4)}"
    unfinished.mkdir()
    for source in map(_place_of, (*_LIBRARIES, *_BESIDES)):
        if source.is_dir():
            left_out = shutil.ignore_patterns("tests", "contrib")
            shutil.copytree(source, unfinished / source.name, ignore=left_out, copy_function=link_or_copy)
        else:
            link_or_copy(str(source), str(unfinished / source.name))
    for name, path in _OURS.items():
        shutil.copyfile(path, unfinished / name)
        (unfinished / name).chmod(0o644)
    for one in (unfinished, *unfinished.rglob("*")):
        if one.is_dir():
            one.chmod(0o755)
    place(unfinished, target)
    shutil.rmtree(unfinished, ignore_errors=True)


def _place_of(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None  # noqa: S101, PT018 - a dependency
    return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
