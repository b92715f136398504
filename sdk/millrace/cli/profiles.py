"""Profiles: addresses with their keys, in a file of this user's alone. What a person wrote there besides stays as it is."""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

FIELDS = ("url", "key", "org")
# Names that a profile is given here; others, written by hand, are read all the same.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,99}\Z")
_HEADER = re.compile(r"\s*\[")
_USED = re.compile(r"\s*profile\s*=")

Document = dict[str, Any]


def config_file(environment: Mapping[str, str]) -> Path:
    """Return where the profiles are: ~/.config/millrace/config.toml, or below XDG_CONFIG_HOME."""
    above = environment.get("XDG_CONFIG_HOME")
    # Who has no home, as in some containers, has no profiles; `Path.home` would fail.
    return (Path(above) if above else Path(os.path.expanduser("~"), ".config")) / "millrace" / "config.toml"  # noqa: PTH111


@dataclass(frozen=True)
class Read:
    """What a file says: its text, and that as a document."""

    file: Path
    text: str
    told: Document

    @property
    def profiles(self) -> Document:
        """The profiles by name."""
        found = self.told.get("profiles")
        return found if isinstance(found, dict) else {}

    @property
    def used(self) -> str | None:
        """The profile in use, if there is one. `click.UsageError` where what is there is no name."""
        found = self.told.get("profile")
        if found is not None and not isinstance(found, str):
            raise click.UsageError(f"{self.file}: profile is not the name of one.")
        return found

    def chosen(self, name: str) -> dict[str, str]:
        """Return a profile. `click.UsageError` names what is wrong with it, and never holds a key."""
        found = self.profiles.get(name)
        if not isinstance(found, dict):
            known = ", ".join(sorted(self.profiles)) or "none"
            raise click.UsageError(f"{self.file} has no profile {name!r}; there are: {known}.")
        if unknown := sorted(found.keys() - set(FIELDS)):
            raise click.UsageError(f"{self.file}: profiles.{name}.{unknown[0]} is not a setting; a profile has url, key and org.")
        for needed in ("url", "key", *(["org"] if "org" in found else [])):
            if not isinstance(found.get(needed), str):
                raise click.UsageError(f"{self.file}: profiles.{name}.{needed} is missing or is not text.")
        return found


class Profiles:
    """The profiles of a file. It is replaced as a whole, by one writer at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> Read:
        """Return what is there, nothing where there is no file. `click.UsageError` for one that is not private, or is no TOML."""
        try:
            # False also where this user may not look.
            text = private(self.file) if os.path.exists(self.file) else ""  # noqa: PTH110
            return Read(self.file, text, tomllib.loads(text))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{self.file} is not TOML: {error}.") from error

    def save(self, name: str, profile: Mapping[str, str], *, use: bool) -> None:
        """Create or replace a profile; `use` has commands use it from now on. Raises OSError, and `click.UsageError` as `read`."""
        if not NAME.match(name):
            raise click.UsageError(f"{name!r} is no name of a profile: it has letters, digits and . _ : @ - alone.")

        def change(told: Document) -> None:
            told.setdefault("profiles", {})[name] = dict(profile)
            if use:
                told["profile"] = name

        self._write(name, profile, change)

    def remove(self, name: str) -> None:
        """Remove a profile, which is in use no more then. Raises as `save`, also where there is none."""

        def change(told: Document) -> None:
            if name not in told.get("profiles", {}):
                Read(self.file, "", told).chosen(name)
            del told["profiles"][name]
            if told.get("profile") == name:
                del told["profile"]

        self._write(name, None, change)

    def use(self, name: str | None) -> None:
        """Have commands use a profile from now on, None: no one. Raises as `save`."""

        def change(told: Document) -> None:
            told.pop("profile", None)
            if name is not None:
                Read(self.file, "", told).chosen(name)
                told["profile"] = name

        self._write(None, None, change)

    def _write(self, name: str | None, profile: Mapping[str, str] | None, change: Callable[[Document], None]) -> None:
        """Change the text such that it says what `change` makes of the document, and refuse to write any other."""
        file = self.file.resolve()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # Of the folder: the file is another one after each change.
            fcntl.flock(folder, fcntl.LOCK_EX)
            if os.fstat(folder).st_mode & 0o022:
                raise click.UsageError(f"{file.parent} can be written by others: run `chmod 700 {file.parent}`.")
            before = self.read()
            wanted = tomllib.loads(before.text)
            change(wanted)
            lines = _with_used(_with_profile(before.text, name, profile), wanted.get("profile"))
            text = "".join(lines)
            if _said(_or_none(text)) != _said(wanted):
                raise click.UsageError(f"{self.file} is written in a way that is not changed safely here: change it by hand.")
            _replace(file, text)
            os.fsync(folder)
        finally:
            os.close(folder)


def private(file: Path) -> str:
    """Return the text of a file that holds a key; only its owner, this user or root, may read it."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read()
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}.") from error
    # In a world-writable folder another user's file would send our workspace to them.
    if status.st_uid not in {os.geteuid(), 0}:
        raise click.UsageError(f"{file} belongs to user {status.st_uid}, not to you: it is not believed.")
    if status.st_mode & 0o077:
        raise click.UsageError(f"{file} holds a key and is open to others: run `chmod 600 {file}`.")
    return content.decode()


def _with_profile(text: str, name: str | None, profile: Mapping[str, str] | None) -> list[str]:
    """Return the lines of a text with a profile in place of that of its name, at the end where there was none; None: without it."""
    lines = text.splitlines(keepends=True)
    if name is None:
        return lines
    made = [] if profile is None else [f"[profiles.{json.dumps(name)}]\n"]
    made += [f"{key} = {json.dumps(value)}\n" for key, value in (profile or {}).items()]
    heads = [number for number, line in enumerate(lines) if _HEADER.match(line)] + [len(lines)]
    for begin, after in pairwise(heads):
        if _or_none(lines[begin]) == {"profiles": {name: {}}}:
            # What stands before the next one is about that.
            end = after
            while end > begin + 1 and lines[end - 1].lstrip()[:1] in {"", "#"}:
                end -= 1
            return [*lines[:begin], *made, *lines[end:]]
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return [*lines, *(["\n"] if lines and made else []), *made]


def _with_used(lines: list[str], used: str | None) -> list[str]:
    """Return lines that say which profile is in use, at their beginning; None: no one."""
    first = next((number for number, line in enumerate(lines) if _HEADER.match(line)), len(lines))
    said = [] if used is None else [f"profile = {json.dumps(used)}\n"]
    kept = [line for line in lines[:first] if not _USED.match(line)]
    if said and kept[:1] != ["\n"] and (kept or lines[first:]) and not any(_USED.match(line) for line in lines[:first]):
        said.append("\n")
    return [*said, *kept, *lines[first:]]


def _said(told: Document | None) -> Document | None:
    """Return a document to be compared: one without a profile says what one without `profiles` does."""
    return None if told is None else {key: value for key, value in told.items() if (key, value) != ("profiles", {})}


def _or_none(text: str) -> Document | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _replace(file: Path, text: str) -> None:
    """Put a file with mode 0600 in the place of another, whole or not at all."""
    descriptor, made = tempfile.mkstemp(prefix=".config.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        Path(made).replace(file)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise
