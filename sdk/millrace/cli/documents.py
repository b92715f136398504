"""Resources as YAML or JSON: one or many documents in a file, each with the line of everything in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from millrace.cli.kinds import Kind, kinds
from millrace.cli.values import secret

ENDINGS = (".yaml", ".yml", ".json")
# Aliases may make much of little.
MOST_VALUES = 100_000
_RESERVED = ("kind", "name", "org")
_REFERENCES = ("$env", "$file")


class Faulty(Exception):
    """A document that is none. As text: file, line and what is wrong."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")


@dataclass(frozen=True)
class Document:
    """A resource as a file has it. `lines` gives the line of each field, by its dotted path; `""` is the document's."""

    kind: Kind
    name: str
    org: str | None
    fields: dict[str, Any]
    file: str
    lines: dict[str, int]

    @property
    def where(self) -> str:
        """Return the file and the line where it begins."""
        return self.at("")

    def at(self, path: str) -> str:
        """Return the file and the line of a field, or of what is nearest to it."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0]
        return f"{self.file}:{self.lines.get(path, 1)}"


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `on` and `no` are text, and so is what looks like a date."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def read(paths: Sequence[str]) -> tuple[list[Document], list[Faulty]]:
    """Return the resources in files and folders, those that others refer to first, and what is no resource."""
    found: list[Document] = []
    faults: list[Faulty] = []
    for file in _files(paths):
        try:
            with file.open(encoding="utf-8") as stream:
                loader = _Loader(stream)
                while (node := _node(loader, str(file))) is not None:
                    try:
                        found.append(_document(node, str(file)))
                    except Faulty as fault:
                        faults.append(fault)
        except Faulty as fault:
            faults.append(fault)
        except OSError as error:
            raise click.UsageError(f"{file} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            faults.append(Faulty(f"{file}:1", f"is not UTF-8: {error.reason}"))
    twice: dict[tuple[str, str | None, str], Document] = {}
    for one in found:
        key = (one.kind.noun, one.org, one.name)
        if key in twice:
            faults.append(Faulty(one.where, f"{one.kind.noun} {one.name!r} stands at {twice[key].where} as well"))
        else:
            twice[key] = one
    order = ordered()
    return sorted(twice.values(), key=lambda one: order.index(one.kind.noun)), faults


def ordered() -> list[str]:
    """Return the nouns, those that others refer to before these."""
    left = {
        noun: {*kind.referring.values(), *(parent.noun for parent in kind.parents)} & kinds().keys() - {noun}
        for noun, kind in kinds().items()
    }
    found: list[str] = []
    while left:
        free = sorted(noun for noun, needed in left.items() if needed <= set(found)) or sorted(left)[:1]
        found += free
        left = {noun: needed for noun, needed in left.items() if noun not in free}
    return found


def _files(paths: Sequence[str]) -> Iterator[Path]:
    for given in paths:
        path = Path(given)
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.suffix in ENDINGS and one.is_file())
        elif path.exists():
            yield path
        else:
            raise click.UsageError(f"{given} is not there.")


def _node(loader: _Loader, file: str) -> yaml.Node | None:
    """Return the next document of a file that is not empty; None at the end."""
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None and not (isinstance(node, yaml.ScalarNode) and node.value == ""):
                return node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Faulty(f"{file}:{line}", f"is not YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise Faulty(f"{file}:1", f"is not YAML: {error}") from error
    except RecursionError as error:
        raise Faulty(f"{file}:1", "nests deeper than anything is taken") from error
    return None


def _document(node: yaml.Node, file: str) -> Document:
    lines: dict[str, int] = {}
    try:
        value = _Values(file, lines).of(node, "")
    except RecursionError as error:
        raise Faulty(f"{file}:{node.start_mark.line + 1}", "nests deeper than anything is taken") from error
    where = f"{file}:{lines['']}"
    if not isinstance(value, dict):
        raise Faulty(where, "a resource is an object with kind and name")
    kind = kinds().get(value.get("kind", "")) if isinstance(value.get("kind"), str) else None
    if kind is None:
        known = ", ".join(sorted(kinds()))
        raise Faulty(f"{file}:{lines.get('kind', lines[''])}", f"kind is to be one of {known}, not {value.get('kind')!r}")
    name, org = value.get("name"), value.get("org")
    if not isinstance(name, str) or not name:
        raise Faulty(f"{file}:{lines.get('name', lines[''])}", f"a {kind.noun} has a name, which is text")
    if org is not None and not isinstance(org, str):
        raise Faulty(f"{file}:{lines['org']}", "org is text")
    fields = {field: one for field, one in value.items() if field not in _RESERVED}
    known_ones = {field.name for field in kind.fields}
    if unknown := sorted(fields.keys() - known_ones):
        raise Faulty(
            f"{file}:{lines[unknown[0]]}", f"a {kind.noun} has no field {unknown[0]!r}; it has {', '.join(sorted(known_ones))}"
        )
    return Document(kind, name, org, fields, file, lines)


class _Values:
    """Makes values of nodes, with the line of each, and fetches what stands elsewhere."""

    def __init__(self, file: str, lines: dict[str, int]) -> None:
        self._file = file
        self._lines = lines
        self._left = MOST_VALUES

    def of(self, node: yaml.Node, path: str) -> Any:
        """Return the value of a node at a path."""
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        where = f"{self._file}:{line}"
        self._left -= 1
        if self._left < 0:
            raise Faulty(where, f"holds more than {MOST_VALUES:,} values")
        if isinstance(node, yaml.SequenceNode):
            return [self.of(one, f"{path}.{number}".lstrip(".")) for number, one in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._object(node, path)
        if not isinstance(node, yaml.ScalarNode) or not node.tag.startswith("tag:yaml.org,2002:"):
            raise Faulty(where, f"the tag {node.tag} means nothing here")
        return self._scalar(node, where)

    def _scalar(self, node: yaml.ScalarNode, where: str) -> Any:
        kind, text = node.tag.rpartition(":")[2], node.value
        try:
            if kind == "int":
                return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
            if kind == "float":
                return float(text)
        except ValueError as error:
            raise Faulty(where, str(error)) from error
        return {"null": None, "bool": text.lower() == "true"}.get(kind, text)

    def _object(self, node: yaml.MappingNode, path: str) -> Any:
        made: dict[str, Any] = {}
        for key, value in node.value:
            where = f"{self._file}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise Faulty(where, "a field's name is text")
            if key.value in made:
                raise Faulty(where, f"{key.value!r} stands twice in one object")
            inner = f"{path}.{key.value}".lstrip(".")
            self._lines[inner] = key.start_mark.line + 1
            made[key.value] = self.of(value, inner)
        if len(made) == 1 and (reference := next(iter(made))) in _REFERENCES:
            return self._elsewhere(reference, made[reference], f"{self._file}:{node.start_mark.line + 1}")
        return made

    def _elsewhere(self, reference: str, name: Any, where: str) -> str:
        """Return what an environment variable or a file holds; a file's path begins where the document is."""
        if not isinstance(name, str):
            raise Faulty(where, f"{reference} takes a name")
        if reference == "$env":
            if name not in os.environ:
                raise Faulty(where, f"the environment variable {name} is not set")
            return os.environ[name]
        try:
            return secret(str(Path(self._file).parent / name), name)
        except click.UsageError as error:
            raise Faulty(where, error.message) from error
