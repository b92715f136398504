"""Structured header fields (RFC 8941), as far as signatures have them: dictionaries of items and of inner lists."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_INTEGER = re.compile(r"-?[0-9]{1,15}(?![0-9.])")
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*")
_BYTES = re.compile(r":([A-Za-z0-9+/=]*):")
# Members of a dictionary, and items of a list.
MOST_MEMBERS = 64


class ByteSequence(bytes):
    """A value between colons."""


class BareToken(str):
    """A value without quotation marks."""

    __slots__ = ()


class Item(msgspec.Struct, frozen=True):
    """A value (str, BareToken, int, bool or ByteSequence) with its parameters."""

    value: Any
    parameters: dict[str, Any]


class InnerList(msgspec.Struct, frozen=True):
    """Items in brackets, with the parameters of them all."""

    items: list[Item]
    parameters: dict[str, Any]


def dictionary(text: str) -> dict[str, Item | InnerList]:
    """Return the members of a dictionary. Raises ValueError, also for a name that stands twice, of which readers take either."""
    reader = _Reader(text.strip(" "))
    found: dict[str, Item | InnerList] = {}
    while not reader.ended:
        name = reader.match(_KEY)[0]
        member = reader.member() if reader.take("=") else Item(True, reader.parameters())  # noqa: FBT003 - the value is true
        if name in found:
            raise ValueError(f"{name} stands twice")
        found[name] = member
        if len(found) > MOST_MEMBERS:
            raise ValueError("it has too many members")
        reader.blanks()
        if reader.ended:
            break
        if not reader.take(","):
            raise ValueError("there is no comma between two members")
        reader.blanks()
        if reader.ended:
            raise ValueError("it ends with a comma")
    return found


def written(value: Item | InnerList) -> str:
    """Return an item or a list as it is written in one way only."""
    if isinstance(value, InnerList):
        return f"({' '.join(map(written, value.items))}){_written_parameters(value.parameters)}"
    return _written(value.value) + _written_parameters(value.parameters)


def _written_parameters(parameters: dict[str, Any]) -> str:
    return "".join(f";{name}" + ("" if value is True else f"={_written(value)}") for name, value in parameters.items())


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return f"?{value:d}"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, ByteSequence):
        return f":{base64.b64encode(value).decode()}:"
    if isinstance(value, BareToken):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Reader:
    """Reads a text from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @property
    def ended(self) -> bool:
        """Return whether nothing is left."""
        return self._at >= len(self._text)

    def blanks(self) -> None:
        """Pass over what may stand around a comma."""
        while self._text[self._at : self._at + 1] in {" ", "\t"}:
            self._at += 1

    def take(self, sign: str) -> bool:
        """Return whether a sign is next, and pass over it."""
        is_next = self._text.startswith(sign, self._at)
        self._at += len(sign) * is_next
        return is_next

    def match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Return what is next, and pass over it. Raises ValueError where it is something else."""
        found = pattern.match(self._text, self._at)
        if found is None:
            raise ValueError(f"position {self._at + 1} is not understood")
        self._at = found.end()
        return found

    def member(self) -> Item | InnerList:
        """Return an item or an inner list with its parameters."""
        if not self.take("("):
            return self._item()
        items: list[Item] = []
        while True:
            self.blanks()
            if self.take(")"):
                return InnerList(items, self.parameters())
            if len(items) >= MOST_MEMBERS or self.ended:
                raise ValueError("a list has too many items, or does not end")
            items.append(self._item())

    def parameters(self) -> dict[str, Any]:
        """Return parameters; of those of one name the last."""
        found: dict[str, Any] = {}
        while self.take(";"):
            self.blanks()
            name = self.match(_KEY)[0]
            value = self._bare() if self.take("=") else True
            found.pop(name, None)
            found[name] = value
        return found

    def _item(self) -> Item:
        return Item(self._bare(), self.parameters())

    def _bare(self) -> Any:
        sign = self._text[self._at : self._at + 1]
        if sign == '"':
            return re.sub(r'\\(["\\])', r"\1", self.match(_STRING)[1])
        if sign == ":":
            try:
                return ByteSequence(base64.b64decode(self.match(_BYTES)[1], validate=True))
            except binascii.Error as error:
                raise ValueError("a byte sequence is no base64") from error
        if sign == "?":
            return self.match(re.compile(r"\?([01])"))[1] == "1"
        if sign.isdigit() or sign == "-":
            return int(self.match(_INTEGER)[0])
        return BareToken(self.match(_TOKEN)[0])
