"""What a pack is, by its `millrace.yaml`: name, version, resources, and what its code needs of the organization."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millrace.cli.documents import Document, Faulty, files_in, plain, read
from millrace.cli.kinds import Kind, kinds

FILE = "millrace.yaml"
# Documents are here unless the manifest names other places.
RESOURCES = "resources"
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_SECTIONS = ("connections", "secrets", "variables", "domains", "values")
# Bytes of a file that is read as YAML, whose parser is slow.
MOST_BYTES = 4 * 1024 * 1024
# Kinds that are the organization's own to set: who may act in it, what it keeps secret, and what there is one of.
_NOT_OF_PACKS = frozenset({"key", "secret", "retention", "repository", "pack"})


@dataclass(frozen=True)
class Need:
    """What has to be there before a pack serves. `given` holds the fields of a connection, or the example of a variable."""

    name: str
    description: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A pack as its folder has it. `needs` has those of each section, by name; `origin` is where it was got from."""

    name: str
    version: str
    description: str
    folder: Path
    origin: str
    needs: Mapping[str, Mapping[str, Need]]
    paths: tuple[Path, ...]

    @property
    def label(self) -> str:
        """The set that its resources belong to, as with `apply --as`."""
        return label(self.name)

    @property
    def code(self) -> str:
        """The folder of the workspace that is the pack's, and of the pack that it is: no two packs have one of the same name."""
        return self.name.replace("-", "_")

    def documents(self, org: str, values: Mapping[str, str]) -> tuple[list[Document], list[Faulty]]:
        """Return its resources, with the values of secrets that are given, and what is none, as `documents.read` does."""
        declared = self.needs["values"]

        def resolve(reference: str, name: str, _file: str, where: str) -> str | None:
            if reference != "$value":
                raise Faulty(where, f"{reference} reads from this machine: name a value in needs.values, and use $value")
            if name not in declared:
                raise Faulty(where, f"needs.values has no {name!r}")
            return values.get(name)

        own: list[str] = []
        others: list[Faulty] = []
        for file in files_in([str(path) for path in self.paths]):
            why = _why_unread(Path(file), self.folder)
            own += [] if why else [file]
            others += [Faulty(file, why)] if why else []
        found, faults = read(own, org, ("$value", "$env", "$file"), resolve)
        faults += others
        wrong = [one for one in found if why_not(one.kind) or one.org != org]
        faults += [Faulty(one.where, why_not(one.kind) or "a pack is of one organization: leave org out") for one in wrong]
        return [one for one in found if one not in wrong], faults


def label(name: str) -> str:
    """Return the set that the resources of a pack belong to."""
    return f"pack:{name}"


def why_not(kind: Kind) -> str | None:
    """Return why a pack brings nothing of a kind; None: it may."""
    if kind.platform:
        return f"a pack brings no {kind.noun}: it is the platform's"
    if kind.noun == "secret":
        return "a pack brings no secret: name it in needs.secrets"
    return f"a pack brings no {kind.noun}: it is the organization's to set" if kind.noun in _NOT_OF_PACKS else None


def _is_within(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _why_unread(file: Path, folder: Path) -> str | None:
    """Return why a file is not read as one of a pack, which may be a stranger's; None: it is."""
    if not _is_within(file, folder):
        return "is a link to outside of the pack"
    if not file.is_file():
        return "is no file"
    return f"is larger than {MOST_BYTES >> 20} MiB" if file.stat().st_size > MOST_BYTES else None


def manifest_of(folder: Path, origin: str) -> Manifest:
    """Return the pack that a folder is. Raises `Faulty`, which names the place."""
    file = folder / FILE
    if not file.is_file():
        raise Faulty(str(file), "is not there: it has a pack's name, version, resources and needs")
    if why := _why_unread(file, folder):
        raise Faulty(str(file), why)
    value, lines = plain(str(file))
    made = _Reader(str(file), lines).manifest(value, folder, origin)
    if (folder / made.code).is_symlink():
        raise Faulty(str(folder / made.code), "is a link: the code of a pack is a folder of its own")
    return made


class _Reader:
    """Takes a manifest apart; each mistake is told with its line."""

    def __init__(self, file: str, lines: dict[str, int]) -> None:
        self._file = file
        self._lines = lines

    def manifest(self, value: Any, folder: Path, origin: str) -> Manifest:
        fields = self._object(value, "", ("name", "version", "description", "resources", "needs"))
        name = self._text(fields, "name")
        if not NAME.fullmatch(name):
            raise self._faulty("name", "has 1 to 63 small letters, digits and hyphens, and begins with a letter")
        needs = self._object(fields.get("needs", {}), "needs", _SECTIONS)
        return Manifest(
            name=name,
            version=self._text(fields, "version"),
            description=self._text(fields, "description", ""),
            folder=folder,
            origin=origin,
            needs={section: dict(self._needs(section, needs.get(section, {}))) for section in _SECTIONS},
            paths=tuple(self._paths(fields.get("resources"), folder)),
        )

    def _needs(self, section: str, given: Any) -> Iterator[tuple[str, Need]]:
        path = f"needs.{section}"
        if section == "domains":
            for number, one in enumerate(self._list(given, path)):
                yield one, Need(self._checked(one, f"{path}.{number}"))
            return
        fields = {one.name for one in kinds()["connection"].fields if not one.is_secret} if section == "connections" else set()
        known = ("description", *sorted(fields), *(["example"] if section == "variables" else []))
        for name, one in self._object(given, path, None).items():
            said = self._object({"description": one} if isinstance(one, str) else one or {}, f"{path}.{name}", known)
            about = self._text(said, "description", "", at=f"{path}.{name}.")
            yield name, Need(name, about, {key: value for key, value in said.items() if key != "description"})

    def _paths(self, given: Any, folder: Path) -> Iterator[Path]:
        if given is None:
            if (folder / RESOURCES).exists():
                yield folder / RESOURCES
            return
        for number, one in enumerate(self._list(given, "resources")):
            path = folder / self._checked(one, f"resources.{number}")
            if not _is_within(path, folder):
                raise self._faulty(f"resources.{number}", "lies outside of the pack")
            # `-` would be standard input.
            if not path.exists() or str(path) == "-":
                raise self._faulty(f"resources.{number}", f"{one} is not there")
            yield path

    def _object(self, value: Any, path: str, known: tuple[str, ...] | None) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._faulty(path, f"{path or 'a manifest'} is to be an object")
        for name in value:
            if known is not None and name not in known:
                raise self._faulty(f"{path}.{name}".lstrip("."), f"there is no {name[:80]!r} here, but {', '.join(known)}")
        return value

    def _list(self, value: Any, path: str) -> list[Any]:
        if not isinstance(value, dict | list) or (isinstance(value, dict) and value):
            raise self._faulty(path, f"{path} is to be a list")
        return list(value)

    def _text(self, fields: dict[str, Any], name: str, default: str | None = None, *, at: str = "") -> str:
        if name not in fields and default is not None:
            return default
        return self._checked(fields.get(name), f"{at}{name}")

    def _checked(self, value: Any, path: str) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._faulty(path, f"{path} is to be text" + (": put it into quotes" if isinstance(value, int | float) else ""))
        return value

    def _faulty(self, path: str, message: str) -> Faulty:
        while path and path not in self._lines:
            path = path.rpartition(".")[0]
        return Faulty(f"{self._file}:{self._lines.get(path, 1)}", message)
