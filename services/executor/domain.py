"""Decides about workspaces and purging: which paths are files, which code serves, which messages may go. Pure."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import takewhile

from shared.errors import Invalid, Problem, TooLarge
from shared.questions import Position
from shared.questions.files import MOST_PATH_BYTES

# The folder of a workspace that runs may write to.
DATA = "data/"
# The folder of a run's artifacts is below this one, by the run's id.
ARTIFACTS = "artifacts/"
_OF_RUN = re.compile(r"artifacts/[0-9a-f-]{36}/")
# Ended runs are kept on the bus for at least so long, whatever the setting.
LEAST_KEPT = timedelta(hours=1)
# Well below: until then the bus itself knows a request that was made before.
DOUBTFUL_AFTER = LEAST_KEPT / 2
# Of one file beside the code, of a bundle as a whole, and files in one: a bundle is fetched and linked before its first run.
LARGEST_FILE = 32 << 20
LARGEST_BUNDLE = 128 << 20
MOST_FILES = 10_000
# Folders that tools fill, and bytecode, which is made anew from the text.
_CACHES = frozenset({"__pycache__", "node_modules"})
_BYTECODE = (".pyc", ".pyo")
PATH_BYTES = 1024
# Line and paragraph separators too: many a reader of lists and logs ends a line there.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
PART_BYTES = 255  # what a file system takes as one name
# A bundle has each of them on disk, for each file.
MOST_FOLDERS = 64


def doubtful(received_at: str | None, now: datetime) -> bool:
    """Return whether a request comes so long after its webhook that it may be a repetition which the bus no longer recognizes.

    While the first copy is on the bus, a second one is refused there; it is there for at least `LEAST_KEPT`.
    """
    return received_at is not None and now - datetime.fromisoformat(received_at) > DOUBTFUL_AFTER


def passed_by_all(incarnation: str, readers: Iterable[Position]) -> int:
    """Return the sequence up to which all readers have read a stream of this incarnation; 0 while one reads another."""
    return min((reader.sequence if reader.incarnation == incarnation else 0 for reader in readers), default=0)


def checked_path(path: str) -> str:
    """Return `path` if a workspace may hold a file there: relative, normal, printable. Raises `Invalid` with the reason."""
    complaint = path_complaint(path)
    if complaint:
        raise Invalid(f"{path[:120]!r} cannot be a workspace path: {complaint}", errors=(Problem("path", complaint),))
    return path


def path_complaint(path: str) -> str | None:
    """Return why a workspace cannot hold a file at a path, None where it can."""
    if not path:
        return "it is empty"
    if len(path.encode(errors="surrogatepass")) > PATH_BYTES:
        return f"it is longer than {PATH_BYTES} bytes"
    if path.startswith("/") or path != posixpath.normpath(path) or path == "." or path.split("/", maxsplit=1)[0] == "..":
        return "it must be relative and normal, without . and .. and doubled slashes"
    if "\\" in path or any(unicodedata.category(character) in _UNPRINTABLE for character in path):
        return "it holds a backslash or a character that cannot be printed"
    if path != unicodedata.normalize("NFC", path):
        return "it is not in Unicode normal form C"
    if any(len(part.encode()) > PART_BYTES for part in path.split("/")):
        return f"a part of it is longer than {PART_BYTES} bytes"
    return None


def check_changes(paths: Sequence[str]) -> None:
    """Raise `Invalid` unless these are different paths, each of which can be one, `TooLarge` for too many bytes of them."""
    if sum(len(path.encode(errors="surrogatepass")) for path in paths) > MOST_PATH_BYTES:
        raise TooLarge(f"the paths of a commit have at most {MOST_PATH_BYTES} bytes together")
    if len(set(paths)) != len(paths):
        raise Invalid("a path comes twice", errors=(Problem("path", "it comes twice"),))
    for path in paths:
        checked_path(path)


def check_places(tree: Mapping[str, str], paths: Iterable[str]) -> None:
    """Raise `Invalid` unless each of these paths of a tree can be beside all others of it."""
    for path, complaint in misplaced(tree, paths).items():
        raise Invalid(f"{path[:120]} cannot be put there: {complaint}", errors=(Problem("path", complaint),))


def misplaced(tree: Mapping[str, str], paths: Iterable[str]) -> dict[str, str]:
    """Return which of these paths of a tree cannot be beside all others of it, with the reason; also those in too many folders."""
    places, spelled = sorted(tree), _spellings(tree)
    found: dict[str, str] = {}

    def in_the_way(path: str, folders: list[str]) -> Iterator[str]:
        yield from (folder for folder in folders if folder in tree)
        first = bisect_left(places, f"{path}/")
        yield from (below for below in places[first : first + 1] if below.startswith(f"{path}/"))
        for place in (*folders, path) if spelled else ():
            others = spelled.get(_folded(place), {}).items()
            yield from (other for name, other in others if name != place.rpartition("/")[2])

    for path in paths:
        folders = _folders(path)
        if len(folders) > MOST_FOLDERS:
            found[path] = f"it is in {len(folders)} folders within each other, and {MOST_FOLDERS} are the most"
        elif (other := next(in_the_way(path, folders), None)) is not None:
            found[path] = clash(path, other)
    return found


def _spellings(tree: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return what names are spelled in several ways, by what a file system that tells no cases apart makes of their paths.

    Each spelling comes with a file that has it. Of places that are spelled in one way nothing is kept: there are many times as
    many of them as files.
    """
    found: dict[str, dict[str, str]] = {}
    # A folder right before what is in it, so that all that share one come together.
    folded = sorted((_folded(path).split("/"), path) for path in tree)
    open_: list[tuple[str, dict[str, str]]] = []
    for parts, path in folded:
        shared = sum(1 for _ in takewhile(lambda pair: pair[0][0] == pair[1], zip(open_, parts, strict=False)))
        open_[shared:] = [(part, {}) for part in parts[shared:]]
        for depth, (name, (_, names)) in enumerate(zip(path.split("/"), open_, strict=True), 1):
            names.setdefault(name, path)
            if len(names) == 2:
                found["/".join(parts[:depth])] = names
    return found


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


def _folders(path: str) -> list[str]:
    return [path[:place] for place, character in enumerate(path) if character == "/"]


def changed_tree(tree: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return the tree with new content at some paths, and without those that have none any more."""
    return {path: sha256 for path, sha256 in {**tree, **changes}.items() if sha256 is not None}


def clash(path: str, other: str) -> str:
    """Return why a workspace that has `other` can have no file at `path`."""
    if path.startswith(f"{other}/"):
        return f"{other} is a file, and would have to be a folder"
    if other.startswith(f"{path}/"):
        return f"it is the folder of {other}"
    return f"it, or a folder of it, differs from {other} in upper and lower case only, which some file systems do not tell apart"


def without_clashes(tree: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tree without paths below a file, which no folder on disk can hold, and of each such path the file.

    No such path is taken any more; one may be left from before.
    """
    blocked: dict[str, str] = {}
    for path in tree:
        parent = next((folder for folder in _folders(path) if folder in tree), None)
        if parent is not None:
            blocked[path] = parent
    return {path: sha256 for path, sha256 in tree.items() if path not in blocked}, blocked


def kept_from_runs(path: str, run: str | None = None) -> str | None:
    """Return why a run may not change a file, or None where it may: below `data/` and among its artifacts, and never code.

    Files that a run writes must not become code: a module below `data/` would be part of the next bundle.
    """
    if not path.startswith(DATA) and (run is None or not path.startswith(f"{ARTIFACTS}{run}/")):
        return f"only what is below {DATA!r}, and its own artifacts, is for runs to write"
    if is_code(path):
        return "it would be code, which only people deploy"
    return None


def is_code(path: str) -> bool:
    """Return whether a file is read for workflows: a Python module, or the declared requirements."""
    return path.endswith((".py", ".pyi")) or path.rpartition("/")[2] in {"requirements.txt", "pyproject.toml"}


def is_bundled(path: str) -> bool:
    """Return whether a file is part of the bundle that runs are given: neither hidden nor a cache, nor what runs write but code."""
    if path.startswith(".") or "/." in path or path.endswith(_BYTECODE) or not _CACHES.isdisjoint(path.split("/")):
        return False
    return is_code(path) or not is_of_runs(path)


def is_of_runs(path: str) -> bool:
    """Return whether a file is where runs write: below `data/`, or an artifact."""
    return path.startswith(DATA) or _OF_RUN.match(path) is not None


def beyond_bounds(sizes: Mapping[str, int]) -> dict[str, str]:
    """Return which files of a bundle, by path, are too large or too many for it, with the reason; code is never among them.

    Of a bundle that is too large as a whole these are the largest files, of one with too many files the last by path.
    """
    found: dict[str, str] = {}
    where = f"runs write and read such files below {DATA!r}"
    left = dict(sizes)

    def leave(path: str, reason: str) -> None:
        found[path] = f"{reason}: this file is left out of it; {where}"
        del left[path]

    beside = [path for path in sizes if not is_code(path)]
    for path in sorted(beside):
        if sizes[path] > LARGEST_FILE:
            leave(path, f"it has {sizes[path]} bytes, and a file of a bundle has {LARGEST_FILE} at most")
    total = sum(left.values())
    for path in sorted((path for path in beside if path in left), key=lambda path: (-sizes[path], path)):
        if total <= LARGEST_BUNDLE:
            break
        leave(path, f"the files of the workspace's bundle have {total} bytes together, and {LARGEST_BUNDLE} are the most")
        total -= sizes[path]
    for path in sorted((path for path in beside if path in left), reverse=True):
        if len(left) <= MOST_FILES:
            break
        leave(path, f"the workspace's bundle has {len(left)} files, and {MOST_FILES} are the most")
    return found


def fallback_tree(latest: dict[str, str], active: dict[str, str], broken: Iterable[str]) -> dict[str, str]:
    """Return the tree in which broken files are replaced by their content in service, or left out where they never served."""
    tree = dict(latest)
    for path in broken:
        if path in active:
            tree[path] = active[path]
        else:
            tree.pop(path, None)
    return tree
