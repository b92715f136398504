"""Finds the code of a workspace that a workflow may load, from the words of its modules: nothing of them is run."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TextIO

# A module with one of these may load modules that it does not name.
_DYNAMIC = frozenset({"importlib", "imp", "zipimport", "runpy", "pkgutil", "__import__", "__file__", "__path__", "exec", "eval"})
# No digits first: what begins so is imported by a computed name, if at all.
_WORD = re.compile(r"[^\W\d]\w*")
# Characters that are read at a time; those before which a text is parted; and the words of one module that are kept: some 20 MB.
_PIECE, _BREAKS, _MOST = 1 << 16, "\n ,.()='\"", 200_000


class Words:
    """The words of the modules of a tree on disk; each module is read once, in parts: it may be large."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, frozenset[str]] = {}

    def of(self, path: str) -> frozenset[str]:
        """Return the words of a module, as Python compares names: in the compatibility form of Unicode (PEP 3131).

        One with too many counts as one that may load anything.
        """
        known = self._known.get(path)
        if known is None:
            with (self._folder / path).open(errors="replace") as text:
                known = self._known[path] = _words(text)
        return known


def _words(text: TextIO) -> frozenset[str]:
    found: set[str] = set()
    left = ""
    while piece := text.read(_PIECE):
        whole = left + piece
        end = max(map(whole.rfind, _BREAKS))
        if end <= 0 and len(whole) > 2 * _PIECE:
            return _DYNAMIC
        # A word that is not over yet, and what a mark at the beginning of the next piece belongs to.
        left = whole[max(end, 0) :]
        found.update(_WORD.findall(unicodedata.normalize("NFKC", whole[: max(end, 0)])))
        if len(found) > _MOST:
            return _DYNAMIC
    return frozenset(found.union(_WORD.findall(unicodedata.normalize("NFKC", left))))


def is_same_code(path: str, old: Mapping[str, str], new: Mapping[str, str], words: Words) -> bool:
    """Return whether a run of the module at `path` loads the same code from both trees; `words` are those of the new one.

    A module may load every module whose name is one of its words, and their packages; any at all where it has a word that may load
    modules by computed names. Files that are no modules, which any code may read, count for all.
    """
    if any(old.get(one) != new.get(one) for one in old.keys() | new.keys() if _name(one) is None):
        return False
    named: dict[str, list[str]] = {}
    for one in old.keys() | new.keys():
        named.setdefault(_name(one) or "", []).append(one)
    left, seen = [path, *_packages(path)], set[str]()
    while left:
        one = left.pop()
        if one in seen or not (one in old or one in new):
            continue
        seen.add(one)
        if old.get(one) != new.get(one):
            return False
        found = words.of(one)
        if found & _DYNAMIC:
            return old == new
        for word in found & named.keys():
            for module in named[word]:
                left += [module, *_packages(module)]
    return True


def _name(path: str) -> str | None:
    """Return the name by which a module is imported; None for a file that is no module, such as `requirements.txt`."""
    module = PurePosixPath(path)
    if module.suffix not in {".py", ".pyi"}:
        return None
    return unicodedata.normalize("NFKC", module.parent.name if module.stem == "__init__" else module.stem)


def _packages(path: str) -> list[str]:
    return [f"{parent}/__init__.py" for parent in PurePosixPath(path).parents if parent.name]
