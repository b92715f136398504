"""Printing: documents as they came, tables for people; nothing that a sender wrote may speak to the terminal."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Any]]

# C0 without tab and line feed, DEL, C1, and the marks that turn the direction of what follows.
_SPEAKS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_STYLES = {"debug": {"dim": True}, "warning": {"fg": "yellow"}, "error": {"fg": "red"}, "critical": {"fg": "red", "bold": True}}
# Without a terminal a row is one line, however long.
_ANY_WIDTH = 10_000


def plain(text: Any) -> str:
    r"""Return a value as text whose control characters are written as `\x1b`."""
    said = text if isinstance(text, str) else "" if text is None else compact(text)
    # A lone surrogate is no character, and cannot be printed at all.
    said = said.encode("utf-8", "backslashreplace").decode()
    return _SPEAKS.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", said)


def compact(value: Any) -> str:
    """Return a value as JSON in one line."""
    return json.dumps(value, ensure_ascii=False)


def document(value: Any) -> None:
    """Print the API's answer."""
    _write(harmless(json.dumps(value, ensure_ascii=False, indent=2)))


def answer(value: Any, text: str, *, is_json: bool) -> None:
    """Print the API's answer, for people as a line of text."""
    if is_json:
        document(value)
    else:
        said(text)


def line(value: Any) -> None:
    """Print one of many documents in a line of its own."""
    _write(harmless(compact(value)))


def harmless(text: str) -> str:
    """Return JSON as the same JSON without control characters for a terminal: their escapes mean the same."""
    return _SPEAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def said(text: str, level: str = "info") -> None:
    """Print a line, in its level's colour where colours are wanted."""
    click.echo(_styled(text, level, sys.stdout))


def aside(text: str, level: str = "info") -> None:
    """Print a line to standard error, beside a result."""
    sys.stdout.flush()
    click.echo(_styled(text, level, sys.stderr), err=True)


def listing(page: Row, columns: Sequence[Column], *, is_json: bool) -> None:
    """Print a list; where it was cut, standard error reports it."""
    if is_json:
        document(page)
        return
    if page["items"]:
        _table([title for title, _ in columns], ([cell(row) for _, cell in columns] for row in page["items"]))
    else:
        aside("none")
    if page["next_cursor"] is not None:
        aside(f"the first {len(page['items'])}; there are more: --limit N, 0 for all")


def entity(value: Row, *, is_json: bool) -> None:
    """Print one thing, field by field."""
    if is_json:
        document(value)
    else:
        _table(None, ([name, held] for name, held in value.items()))


def field(name: str) -> Column:
    """Return the column of a field, titled like it."""
    return name, lambda row: row.get(name)


def moment(name: str) -> Column:
    """Return the column of a field that is a time, to the second."""
    return name, lambda row: f"{row[name][:19]}Z" if row.get(name) else None


def counted(number: int, noun: str) -> str:
    """Return how many there are of something that takes an s where there are several."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def milliseconds(value: float | None) -> str:
    """Return a duration as people say it."""
    if value is None:
        return ""
    return f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def _table(titles: Sequence[str] | None, rows: Iterable[Sequence[Any]]) -> None:
    # Loaded only here: it takes longer than most answers.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _ANY_WIDTH)
    table = Table(box=None, pad_edge=False, show_header=titles is not None, header_style="bold")
    for title in titles or ("", ""):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    with console.capture() as captured:
        console.print(table)
    for text in captured.get().splitlines():
        _write(text.rstrip())


def styled(text: str, level: str) -> str:
    """Return a line in its level's colour, where standard output is to have colours."""
    return _styled(text, level, sys.stdout)


def _styled(text: str, level: str, stream: Any) -> str:
    coloured = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return click.style(text, **_STYLES[level]) if coloured and level in _STYLES else text  # type: ignore[arg-type]


def _write(text: str) -> None:
    click.echo(text.encode("utf-8", "backslashreplace"))
