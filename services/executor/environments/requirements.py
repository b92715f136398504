"""Reads which packages a workspace asks for: in `requirements.txt`, `pyproject.toml`, or at the top of a workflow's file. Pure."""

from __future__ import annotations

import hashlib
import posixpath
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from shared.messages.catalog import FileProblem

REQUIREMENTS, PROJECT = "requirements.txt", "pyproject.toml"
MOST = 500
"""Requirements of one environment."""
MOST_BYTES = 256 * 1024
"""Of the files that are read for them, together; each counts as characters."""
MOST_PROBLEMS = 50
"""Beyond which no more are looked for."""
_LONGEST = 8192
"""Characters of one requirement, without its hashes."""
_DEEPEST = 5
PROVIDED = frozenset({"millrace"})
"""Packages that every run has, in the platform's own version."""
_COMMENT = re.compile(r"(?<!\S)#.*")
# A key of many parts takes a TOML reader the square of their number.
_DEEP_KEY = re.compile(r"""(?:\.[ \t]*+(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+){64}""")
_HASH = re.compile(r"\s--hash[= ]\s*sha256:([0-9a-f]{64})(?=\s|$)")
_INCLUDED = re.compile(r"(-r|--requirement|-c|--constraint)[ =]?\s*(\S+)")


class Wanted(msgspec.Struct, frozen=True):
    """One requirement: the name as indexes compare it, the text without comment and hashes, its place, and its allowed hashes."""

    name: str
    text: str
    path: str
    line: int
    hashes: tuple[str, ...] = ()


class Requirements(msgspec.Struct, frozen=True):
    """What one environment is to hold. `path` is the file that says so; `problems` are of the files that were read."""

    path: str
    wanted: tuple[Wanted, ...] = ()
    constraints: tuple[Wanted, ...] = ()
    problems: tuple[FileProblem, ...] = ()

    @property
    def key(self) -> str:
        """Hash of what is asked for: comments, order and places count for nothing, but those of problems."""
        told = sorted((one.text, *one.hashes) for one in self.wanted), sorted((one.text, *one.hashes) for one in self.constraints)
        return hashlib.sha256(msgspec.json.encode((*told, self.problems) if self.problems else told)).hexdigest()

    def line_of(self, words: str) -> tuple[str, int]:
        """Return path and line of the first requirement whose name comes in a text; else of the first one."""
        for one in self.wanted:
            if re.search(rf"(?<![\w.-]){re.escape(one.name)}(?![\w-])", words.lower().replace("_", "-")):
                return one.path, one.line
        return (self.wanted[0].path, self.wanted[0].line) if self.wanted else (self.path, 1)


def of_text(path: str, text: str, read: Callable[[str], str | None] = lambda _: None) -> Requirements:
    """Read a file as pip does (its requirements file format), but for what would lead elsewhere than to the configured index.

    `read` answers the text of another file of the workspace.
    """
    reading = _Reading(read)
    reading.file(path, text, 0, into=reading.wanted)
    return reading.done(path)


def of_texts(path: str, texts: list[str]) -> Requirements:
    """Read requirements that a package states, each in a text; `path` is its file."""
    reading = _Reading(lambda _: None)
    reading.table(path, {"dependencies": texts}, "", offset=0)
    return reading.done(path)


def of_project(path: str, text: str) -> Requirements | None:
    """Read `[project] dependencies`; None where a file says nothing of them."""
    reading = _Reading(lambda _: None)
    try:
        project = _toml(text).get("project", {})
    except (ValueError, RecursionError) as error:
        reading.complain(path, _line_in(str(error)), f"it is no TOML: {error}")
        return reading.done(path)
    if not isinstance(project, dict) or "dependencies" not in project:
        return None
    reading.table(path, project, text, offset=0)
    return reading.done(path)


def of_script(path: str, text: str) -> Requirements | None:
    """Read the block of inline metadata (PEP 723) of a Python file; None where it has none that asks for packages."""
    if "# /// script" not in text:
        return None
    blocks = list(_blocks(text))
    if not blocks:
        return None
    reading = _Reading(lambda _: None)
    line, content = blocks[0]
    if len(blocks) > 1:
        reading.complain(path, blocks[1][0], "it has two blocks of script metadata, and may have one")
        return reading.done(path)
    try:
        table = _toml(content)
    except (ValueError, RecursionError) as error:
        reading.complain(path, line + _line_in(str(error)), f"its block of script metadata is no TOML: {error}")
        return reading.done(path)
    reading.table(path, table, content, offset=line)
    return reading.done(path)


class _Reading:
    """Collects requirements from one or several files."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self.wanted: list[Wanted] = []
        self._constraints: list[Wanted] = []
        self._problems: list[FileProblem] = []
        self._read = read
        self._seen: set[tuple[str, bool]] = set()
        self._size = 0

    def done(self, path: str) -> Requirements:
        if len(self.wanted) > MOST or len(self._constraints) > 10 * MOST:
            self.complain(path, 1, f"it asks for more than {MOST} packages")
        return Requirements(path, tuple(self.wanted), tuple(self._constraints), tuple(self._problems))

    @property
    def _is_full(self) -> bool:
        return len(self._problems) >= MOST_PROBLEMS

    def complain(self, path: str, line: int, message: str) -> None:
        if not self._is_full:
            self._problems.append(FileProblem(path, line, message[:2000]))

    def file(self, path: str, text: str, depth: int, *, into: list[Wanted]) -> None:
        """Read a requirements file, and those that it includes."""
        place = (path, into is self.wanted)
        if place in self._seen:
            return
        self._seen.add(place)
        self._size += len(text)
        if self._size > MOST_BYTES:
            self.complain(path, 1, f"it has, with the files that are read beside it, more than {MOST_BYTES} characters")
            return
        for number, line in _lines(text):
            if self._is_full:
                return
            included = _INCLUDED.fullmatch(line)
            if included is not None:
                self._include(path, number, included[1], included[2], depth, into)
            elif line.startswith("-"):
                option = line.split()[0].partition("=")[0]
                self.complain(
                    path, number, f"{option} is not for a workspace to say: packages come from the index of this installation"
                )
            elif len(into) <= 10 * MOST:
                self._requirement(path, number, line, into)

    def table(self, path: str, table: dict[str, object], text: str, *, offset: int) -> None:
        """Read a TOML table with `dependencies` and `requires-python`; `offset` is the number of lines before its text."""
        python = table.get("requires-python")
        if python is not None:
            self._check_python(path, offset + _line_with(text, "requires-python"), python)
        given = table.get("dependencies", [])
        if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
            self.complain(path, offset + _line_with(text, "dependencies"), "dependencies is a list of texts")
            return
        for one in given[: MOST + 1]:
            self._requirement(path, offset + _line_with(text, one), one, self.wanted)

    def _include(self, path: str, line: int, option: str, other: str, depth: int, into: list[Wanted]) -> None:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), other))
        text = None if target.startswith(("/", "..")) or ":" in other else self._read(target)
        if text is None:
            self.complain(path, line, f"there is no file {other[:200]} in the workspace")
        elif depth >= _DEEPEST:
            self.complain(path, line, f"files include each other more than {_DEEPEST} deep")
        else:
            self.file(target, text, depth + 1, into=self._constraints if option in ("-c", "--constraint") else into)

    def _requirement(self, path: str, line: int, text: str, into: list[Wanted]) -> None:
        hashes = tuple(_HASH.findall(text))
        bare = _HASH.sub("", text).strip()
        if " --" in bare:
            self.complain(
                path, line, f"{bare.split(' --')[1].split()[0][:40]!r}: no option of a requirement but --hash=sha256:… is read"
            )
            return
        if len(bare) > _LONGEST:
            self.complain(path, line, f"{bare[:100]!r}… has more than {_LONGEST} characters")
            return
        try:
            found = Requirement(bare)
            told = str(found)
        except RecursionError:
            self.complain(path, line, f"{bare[:100]!r}… has more brackets in each other than are read")
            return
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0] if str(error) else "it cannot be read"
            hint = "; packages come from the index of this installation, by name" if "/" in bare or ":" in bare else ""
            self.complain(path, line, f"{bare[:200]!r} is no requirement: {reason}{hint}")
            return
        if found.url is not None:
            self.complain(
                path, line, f"{found.name} is asked for from an address: packages come from the index of this installation"
            )
            return
        name = canonicalize_name(found.name)
        if name not in PROVIDED:
            into.append(Wanted(name, told, path, line, hashes))

    def _check_python(self, path: str, line: int, python: object) -> None:
        here = ".".join(map(str, sys.version_info[:3]))
        try:
            fits = isinstance(python, str) and SpecifierSet(python).contains(here, prereleases=True)
        except InvalidSpecifier:
            fits = False
        if not fits:
            self.complain(path, line, f"it is for Python {str(python)[:100]}, and runs have Python {here}")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield lines without comments, with the number of the first of those that are continued."""
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        begun = begun if parts else number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            parts += line[:-1], " "
            continue
        whole = _COMMENT.sub("", "".join([*parts, line])).strip()
        parts = []
        if whole:
            yield begun, whole
    if left := "".join(parts).strip():
        yield begun, left


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """Yield the blocks of script metadata (PEP 723), each with the number of its first line."""
    begun, content = 0, list[str]()
    for number, line in enumerate(text.split("\n"), start=1):
        bare = line.rstrip(" \t\r")
        if not begun:
            begun = number if bare == "# /// script" else 0
        elif bare == "# ///" and content:
            yield begun, "\n".join(content)
            begun, content = 0, []
        elif bare == "#" or line.startswith("# "):
            content.append(bare[2:])
        else:
            begun, content = 0, []


def _toml(text: str) -> dict[str, Any]:
    """Read TOML. Raises ValueError, RecursionError."""
    if _DEEP_KEY.search(text) is not None:
        raise ValueError("a key has more than 64 parts")
    return tomllib.loads(text)


def _line_with(text: str, part: str) -> int:
    at = text.find(part)
    return 1 if at < 0 else text.count("\n", 0, at) + 1


def _line_in(message: str) -> int:
    found = re.search(r"line (\d+)", message)
    return int(found[1]) if found else 1
