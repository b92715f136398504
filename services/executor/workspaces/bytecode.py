"""Keeps compiled modules beside a tree's sources: each run is a process of its own, and would compile them again."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath

DIRECTORY_MODE = 0o755
FILE_MODE = 0o444

# Compiles some of the modules of a tree, by path: None for one that cannot be compiled, and at least one unless it cannot at all.
Compile = Callable[[Path, list[str]], Awaitable[Mapping[str, bytes | None]]]


async def lay(tree: Path, paths: Iterable[str], compile_: Compile) -> None:
    """Lay the bytecode of a tree's modules where Python looks for it.

    For each tree by itself, though many share files: the compiling child reads all of a tree, and is trusted for that tree only.
    A module that has none, or not yet, is compiled by the run that imports it.
    """
    missing = [path for path in paths if path.endswith(".py") and not cached(tree, path).exists()]
    while missing:
        compiled = await compile_(tree, missing)
        await asyncio.to_thread(_keep, tree, {path: compiled[path] for path in missing if path in compiled})
        left = [path for path in missing if path not in compiled]
        if len(left) == len(missing):
            return
        missing = left


def cached(tree: Path, path: str) -> Path:
    """Return where Python looks for the bytecode of a module (PEP 3147)."""
    module = PurePosixPath(path)
    return tree / module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"


def size(tree: Path) -> int:
    """Return the bytes of all bytecode of a tree."""
    return sum(path.stat().st_size for path in tree.glob("**/__pycache__/*.pyc"))


def _keep(tree: Path, compiled: Mapping[str, bytes | None]) -> None:
    for path, data in compiled.items():
        if data is None:
            continue
        target = cached(tree, path)
        target.parent.mkdir(exist_ok=True)
        target.parent.chmod(DIRECTORY_MODE)
        unfinished = target.with_suffix(f".{os.getpid()}")
        try:
            unfinished.write_bytes(data)
            unfinished.chmod(FILE_MODE)
            # An import of the module sees all of it or nothing.
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
