"""The one declaration of a question or a command."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, get_args

import msgspec

from shared.errors import Malformed, Problem
from shared.values import Name, Opaque, Words, moment_of

# Most bytes of the items of one page as JSON: half of the broker's largest message.
PAGE_BYTES = 1024 * 1024

# Of one page.
MOST_ITEMS = 1000

A = TypeVar("A")
T = TypeVar("T")
_encoder = msgspec.json.Encoder()


class Question(msgspec.Struct, Generic[A], frozen=True, kw_only=True):
    """Asked on behalf of an organization, and answered by an `A`; changes nothing."""

    org: Name


class Command(msgspec.Struct, Generic[A], frozen=True, kw_only=True):
    """Given on behalf of `actor` of an organization, and answered by an `A`.

    `id` is a uuid: sending the same command again does it once.
    """

    id: Name
    org: Name
    actor: Words


class Done(msgspec.Struct, frozen=True):
    """A command was carried out; the answer has no value."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a list: at most `limit` items after `cursor`, which only the answerer understands."""

    limit: int = 100
    cursor: Opaque | None = None

    def within(self, most: int) -> int:
        """Return how many items the part has, from 1 to `most`."""
        return max(1, min(self.limit, most))

    def before(self) -> tuple[datetime, str] | None:
        """Return the time and the id of the last item that a list, newest first, has given out. Raises `Malformed`."""
        if self.cursor is None:
            return None
        at, _, id_ = self.cursor.partition("|")
        try:
            return moment_of(at), id_
        except ValueError as error:
            raise _foreign() from error

    def after(self, items: str) -> str:
        """Return the name of the last item that a list of such items, by name, has given out, "" for none. Raises `Malformed`."""
        if self.cursor is None:
            return ""
        of, _, name = self.cursor.partition("|")
        if of != items or not name:
            raise _foreign()
        return name


def cursor_after(items: str, name: str) -> str:
    """Return the cursor of a list by name whose last item has that name; `Page.after` reads it."""
    return f"{items}|{name}"


def _foreign() -> Malformed:
    return Malformed("this cursor was not given out by this list", errors=(Problem("cursor", "malformed"),))


def fitting(items: Iterable[T], room: int | None = None) -> list[T]:
    """Return as many of the first items as have `room`, in bytes as JSON, within one answer, but one in any case."""
    room = PAGE_BYTES if room is None else room
    kept: list[T] = []
    for item in items:
        room -= len(_encoder.encode(item))
        if kept and room < 0:
            break
        kept.append(item)
    return kept


class Position(msgspec.Struct, frozen=True):
    """The position of rows in a stream: they reflect every message up to `sequence` of this incarnation of it."""

    incarnation: str
    sequence: int


class QuestionDeclaration(msgspec.Struct, frozen=True):
    """The arguments of the decorators for a class; the asker waits `timeout` seconds."""

    kind: Literal["ask", "do"]
    service: str
    verb: str
    by: tuple[str, ...]
    answer: Any
    timeout: float

    @property
    def subject(self) -> str:
        """Return the subject that it is sent to."""
        return f"{self.kind}.{self.service}.{self.verb}"


ASKED: dict[str, tuple[QuestionDeclaration, type[msgspec.Struct]]] = {}
_BY_CLASS: dict[type[msgspec.Struct], QuestionDeclaration] = {}
Q = TypeVar("Q", bound=type[msgspec.Struct])


def question(name: str, *, by: str | tuple[str, ...], timeout: float = 5.0) -> Callable[[Q], Q]:
    """Declare the class below as the question `<service>.<verb>`."""
    return _declare("ask", name, by, timeout)


def command(name: str, *, by: str | tuple[str, ...], timeout: float = 10.0) -> Callable[[Q], Q]:
    """Declare the class below as the command `<service>.<verb>`."""
    return _declare("do", name, by, timeout)


def asked_of(of: msgspec.Struct | type[msgspec.Struct]) -> QuestionDeclaration:
    """Return the declaration of a question, a command or their class."""
    return _BY_CLASS[of if isinstance(of, type) else type(of)]


def _declare(kind: Literal["ask", "do"], name: str, by: str | tuple[str, ...], timeout: float) -> Callable[[Q], Q]:
    def declare(cls: Q) -> Q:
        service, _, verb = name.partition(".")
        (answer,) = get_args(cls.__orig_bases__[0])  # type: ignore[attr-defined]
        made = QuestionDeclaration(kind, service, verb, (by,) if isinstance(by, str) else by, answer, timeout)
        if made.subject in ASKED:
            raise ValueError(f"{made.subject} is declared twice")
        ASKED[made.subject] = (made, cls)
        _BY_CLASS[cls] = made
        return cls

    return declare
