"""Resources as YAML or JSON: one or many documents in a file, each with the line of everything in it."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from millrace.cli.kinds import Kind, kinds
from millrace.cli.show import harmless
from millrace.cli.values import content, secret_beside

ENDINGS = (".yaml", ".yml", ".json")
# Aliases may make much of little.
MOST_VALUES = 100_000
# Of a whole number; the API takes no longer ones.
MOST_BITS = 64
_RESERVED = ("kind", "name", "org")
# What stands for a secret, its argument, the file and the place of the document: its value; None: the field is left out.
Resolve = Callable[[str, str, str, str], str | None]
_TOO_DEEP = "nests deeper than anything is taken"
_YAML = "tag:yaml.org,2002:"
# YAML 1.2's core schema, without infinities, which JSON has not: each type's pattern, and the characters it begins with.
_CORE = {
    f"{_YAML}{type_}": (re.compile(rf"(?:{pattern})\Z"), first)
    for type_, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    )
}


class Faulty(Exception):
    """A document that is none; `where` is its file and line. As text: that, and the error."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where


@dataclass(frozen=True)
class Document:
    """A resource as a file has it. `lines` gives the line of each field, by its dotted path; `""` is the document's.

    `unset` names what stands for secrets that were left out.
    """

    kind: Kind
    name: str
    org: str
    fields: dict[str, Any]
    file: str
    lines: dict[str, int]
    unset: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """Return the identity of the resource."""
        return self.kind.noun, self.org, self.name

    @property
    def where(self) -> str:
        """Return the file and the line where it begins."""
        return self.at("")

    def at(self, path: str) -> str:
        """Return the file and the line of a field, or of what is nearest to it."""
        return _at(self.file, self.lines, path)


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2: `on` and `no` are text, and so are dates."""


class _Dumper(yaml.SafeDumper):
    """Writes YAML that means the same to readers of 1.1 and 1.2."""


_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _CORE.items():
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def referred(reference: str, name: str, file: str, where: str) -> str | None:
    """Return the value of `$env`, a variable of the environment, or `$file`, a file beside the document; raises `Faulty`."""
    if reference == "$env":
        if name not in os.environ:
            raise Faulty(where, f"the environment variable {name} is not set")
        return os.environ[name]
    try:
        return secret_beside(Path(file).parent / name)
    except click.UsageError as error:
        raise Faulty(where, error.message) from error


@dataclass(frozen=True)
class _Reading:
    """How documents are read: as the arguments of `read` say."""

    org: str
    references: tuple[str, ...]
    resolve: Resolve


def read(
    paths: Sequence[str], org: str, references: tuple[str, ...] = ("$env", "$file"), resolve: Resolve = referred
) -> tuple[list[Document], list[Faulty]]:
    """Return the resources in files and folders, those that others refer to first, and the documents that are none.

    `org` is the organization of those that name none; `references` may stand for secrets, and `resolve` returns these. The path `-`
    is standard input.
    """
    how = _Reading(org, references, resolve)
    found: dict[tuple[str, str, str], Document] = {}
    faults: list[Faulty] = []
    for file in files_in(paths):
        for one in _documents(file, how):
            if isinstance(one, Faulty):
                faults.append(one)
            elif (first := found.setdefault(one.key, one)) is not one:
                faults.append(Faulty(one.where, f"{one.kind.noun} {one.name!r} stands at {first.where} as well"))
    order = ordered()
    return sorted(found.values(), key=lambda one: order.index(one.kind.noun)), faults


def plain(file: str) -> tuple[Any, dict[str, int]]:
    """Return what the one document of a file holds, and the lines in it. Raises `Faulty`."""
    found: list[tuple[Any, dict[str, int]]] = []
    for node in _nodes(file):
        if isinstance(node, Faulty):
            raise node
        lines: dict[str, int] = {}
        try:
            found.append((_Values(file, lines).of(node, ""), lines))
        except RecursionError as error:
            raise Faulty(f"{file}:1", _TOO_DEEP) from error
    if len(found) != 1:
        raise Faulty(f"{file}:1", f"holds {len(found)} documents, and is to hold one")
    return found[0]


def written(documents: Iterable[dict[str, Any]]) -> str:
    """Return documents as YAML, in which nothing speaks to a terminal."""

    def dumped(*, allow_unicode: bool) -> str:
        made: str = yaml.dump_all(found, Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, explicit_start=True)
        return made

    found = list(documents)
    text = dumped(allow_unicode=True)
    return text if harmless(text) == text else dumped(allow_unicode=False)


def ordered() -> list[str]:
    """Return the nouns, those that others refer to before these, and those of the platform before all."""
    platform = {noun for noun, kind in kinds().items() if kind.platform}
    left = {
        noun: (
            {*kind.referring.values(), *(parent.noun for parent in kind.parents), *(set() if kind.platform else platform)}
            & kinds().keys() - {noun}
        )
        for noun, kind in kinds().items()
    }
    found: list[str] = []
    while left:
        free = sorted(noun for noun, needed in left.items() if needed <= set(found)) or sorted(left)[:1]
        found += free
        left = {noun: needed for noun, needed in left.items() if noun not in free}
    return found


def files_in(paths: Sequence[str]) -> Iterator[str]:
    """Yield each file once; of a folder those with an ending of ours, but nothing hidden."""
    seen: set[Path] = set()
    for given in paths:
        path = Path(given)
        if given != "-" and not path.exists():
            raise click.UsageError(f"{given} is not there.")
        found = [path]
        if path.is_dir():
            inside = (one for one in path.rglob("*") if one.suffix in ENDINGS and one.is_file())
            found = sorted(one for one in inside if not any(part.startswith(".") for part in one.relative_to(path).parts))
        for one in found:
            if (real := one.resolve()) not in seen:
                seen.add(real)
                yield str(one)


def _documents(file: str, how: _Reading) -> Iterator[Document | Faulty]:
    """Yield the resources of a file, and documents that are none."""
    for node in _nodes(file):
        if isinstance(node, Faulty):
            yield node
            continue
        for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            try:
                if one.value or not isinstance(one, yaml.ScalarNode):
                    yield _document(one, file, how)
            except Faulty as fault:
                yield fault
            except RecursionError:
                yield Faulty(f"{file}:{one.start_mark.line + 1}", _TOO_DEEP)


def _nodes(file: str) -> Iterator[yaml.Node | Faulty]:
    """Yield the documents of a file as nodes. The rest after a mistake in the YAML itself is not read."""
    data = content(file)
    try:
        text = data.decode("utf-8-sig")
        # JSON may be indented with tabs, as YAML may not; within a text it has none.
        loader = _Loader(text.replace("\t", " ") if file.endswith(".json") else text)
        while loader.check_node() and (node := loader.get_node()) is not None:
            yield node
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        yield Faulty(f"{file}:{line}", f"is not UTF-8: {error.reason}")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        yield Faulty(f"{file}:{line}", f"is not YAML: it holds the character {error.character:#06x}")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        # An alias may be a secret without its quotes.
        problem = re.sub(r"(alias|anchor|handle) .*", r"\1", error.problem or error.context or "")
        yield Faulty(f"{file}:{line}", f"is not YAML: {problem}")
    except RecursionError:
        yield Faulty(f"{file}:1", _TOO_DEEP)


def _document(node: yaml.Node, file: str, how: _Reading) -> Document:
    lines: dict[str, int] = {}
    unset: list[str] = []
    value = _Values(file, lines).of(node, "")

    def faulty(path: str, message: str) -> Faulty:
        return Faulty(_at(file, lines, path), message)

    if not isinstance(value, dict):
        raise faulty("", "a resource is an object with kind and name")
    kind, name, org = value.get("kind"), value.get("name"), value.get("org", how.org)
    described = kinds().get(kind) if isinstance(kind, str) else None
    if described is None:
        not_ = f", not {kind[:80]!r}" if isinstance(kind, str) else ""
        raise faulty("kind", f"kind is to be one of {', '.join(sorted(kinds()))}{not_}")
    if not isinstance(name, str) or not name:
        raise faulty("name", "name is to be text")
    if not isinstance(org, str) or not org.isascii() or not org.isprintable() or not org:
        raise faulty("org", "org is to be the name of an organization")
    known = {field.name for field in described.fields}
    fields = {field: one for field, one in value.items() if field not in _RESERVED}
    for field in fields:
        if field not in known:
            raise faulty(field, f"{kind} has no field {field[:80]!r}: there are {', '.join(sorted(known))}")
    for one in described.fields:
        held = fields.get(one.name)
        if one.is_secret and one.name in fields:
            fields |= _fetched({one.name: fields.pop(one.name)}, "", file, lines, how, unset)
        elif one.has_secrets and isinstance(held, dict):
            fields[one.name] = _fetched(held, f"{one.name}.", file, lines, how, unset)
    return Document(described, name, described.org(org), fields, file, lines, tuple(unset))


def _at(file: str, lines: dict[str, int], path: str) -> str:
    while path and path not in lines:
        path = path.rpartition(".")[0]
    return f"{file}:{lines.get(path, 1)}"


def _fetched(
    values: dict[str, Any], prefix: str, file: str, lines: dict[str, int], how: _Reading, unset: list[str]
) -> dict[str, Any]:
    """Return values with what references among them stand for; what is left out is named in `unset`."""
    found: dict[str, Any] = {}
    for member, value in values.items():
        reference, name = next(iter(value.items())) if isinstance(value, dict) and len(value) == 1 else ("", None)
        if reference not in how.references:
            found[member] = value
            continue
        where = _at(file, lines, f"{prefix}{member}")
        if not isinstance(name, str) or "\0" in name:
            raise Faulty(where, f"{reference} takes a name")
        held = how.resolve(reference, name, file, where)
        if held is None:
            unset.append(name)
        else:
            found[member] = held
    return found


class _Values:
    """Makes values of nodes, with the line of each. Errors do not repeat the value, which may be a secret."""

    def __init__(self, file: str, lines: dict[str, int]) -> None:
        self._file = file
        self._lines = lines
        self._left = MOST_VALUES

    def of(self, node: yaml.Node, path: str) -> Any:
        """Return the value of a node at a path."""
        self._lines.setdefault(path, node.start_mark.line + 1)
        self._left -= 1
        if self._left < 0:
            raise self._faulty(node, f"holds more than {MOST_VALUES:,} values")
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_YAML}seq":
            return [self.of(one, f"{path}.{number}".lstrip(".")) for number, one in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_YAML}map":
            return self._object(node, path)
        if isinstance(node, yaml.ScalarNode) and node.tag == f"{_YAML}str":
            return self._text(node)
        if not isinstance(node, yaml.ScalarNode) or node.tag not in _CORE:
            raise self._faulty(node, "has a tag that means nothing here")
        return self._scalar(node)

    def _text(self, node: yaml.ScalarNode) -> str:
        """Return a text, of which escapes such as those of JSON may have made surrogate pairs."""
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError as error:
            raise self._faulty(node, "holds half of a surrogate pair") from error

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        type_, text = node.tag.removeprefix(_YAML), node.value
        if not _CORE[node.tag][0].match(text):
            raise self._faulty(node, f"is no {type_}")
        try:
            if type_ == "int":
                number = int(text, 0) if text.startswith(("0o", "0x")) else int(text)
                if number.bit_length() > MOST_BITS:
                    raise ValueError(number.bit_length())
                return number
            if type_ == "float" and math.isfinite(value := float(text)):
                return value
        except ValueError as error:
            raise self._faulty(node, "is a longer number than is taken") from error
        if type_ == "float":
            raise self._faulty(node, "is a larger number than is taken")
        return {"null": None, "bool": text.lower() == "true"}[type_]

    def _object(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._faulty(key, "a field's name is text")
            name = self._text(key)
            if name in made:
                raise self._faulty(key, f"{name[:80]!r} stands twice in one object")
            inner = f"{path}.{name}".lstrip(".")
            self._lines[inner] = key.start_mark.line + 1
            made[name] = self.of(value, inner)
        return made

    def _faulty(self, node: yaml.Node, message: str) -> Faulty:
        return Faulty(f"{self._file}:{node.start_mark.line + 1}", message)
