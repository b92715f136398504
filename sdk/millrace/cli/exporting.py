"""All messages of a search into a file: a connection that breaks goes on where the file ends."""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, BinaryIO

import click

from millrace.cli import show
from millrace.cli.api import Api, Query, Refused, Unreachable

# Connections in a row that break before anything has come, and seconds between two.
TRIES = 5
PAUSE = 1.0


def exported(api: Api, query: Query, file: str) -> None:
    """Write them, oldest first, to `file`, `-` for standard output; its name says the form. Raises `Refused`, `Unreachable`."""
    packed = file.endswith(".gz")
    with _opened(file) as target:

        def write(part: bytes) -> None:
            # A part for itself: what is written is whole, however all of it ends.
            target.write(gzip.compress(part) if packed else part)

        if file.removesuffix(".gz").endswith(".csv"):
            for part in api.parts("/logs/export", query={**query, "format": "csv"}):
                write(part)
            return
        _write_all(api, query, write)


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == "-":
        return nullcontext(sys.stdout.buffer)
    try:
        return open(file, "wb")  # noqa: PTH123 - closed by the caller's block
    except OSError as error:
        raise click.UsageError(f"--export {file}: {error.strerror}") from error


def _write_all(api: Api, query: Query, write: Callable[[bytes], None]) -> None:
    progress = _Progress()
    cursor: str | None = None
    tries = TRIES
    while True:
        try:
            for lines, following in _pages(api, {**query, "cursor": cursor}):
                write(b"".join(lines))
                progress.add(len(lines))
                cursor, tries = following, TRIES
                if cursor is None:
                    progress.end()
                    return
            # Nothing at all, or nothing behind the last page.
            progress.end()
        except (Refused, Unreachable) as error:
            tries -= 1
            if not tries or (isinstance(error, Refused) and not error.is_passing):
                raise
            time.sleep(PAUSE)
        else:
            return


def _pages(api: Api, query: Query) -> Iterator[tuple[list[bytes], str | None]]:
    """Yield the lines of each page with the cursor behind it, None behind the last; a page that is cut off is not yielded."""
    lines: list[bytes] = []
    left = b""
    for part in api.parts("/logs/export", query=query):
        *whole, left = (left + part).split(b"\n")
        for line in whole:
            item: dict[str, Any] = json.loads(line)
            cursor = item.pop("next_cursor", None)
            lines.append(line + b"\n" if cursor is None else json.dumps(item, ensure_ascii=False).encode() + b"\n")
            if cursor is not None:
                yield lines, cursor
                lines = []
    if lines:
        yield lines, None


class _Progress:
    """Says on standard error how many there are so far, in one line of a terminal, and at the end anywhere."""

    def __init__(self) -> None:
        self._count = 0
        self._said_at = 0.0

    def add(self, number: int) -> None:
        self._count += number
        now = time.monotonic()
        if sys.stderr.isatty() and now - self._said_at >= 0.2:
            self._said_at = now
            click.echo(f"\r{self._count:,} messages", err=True, nl=False)

    def end(self) -> None:
        start = "\r" if sys.stderr.isatty() else ""
        show.aside(f"{start}{self._count:,} messages")
