"""Shows a rebuild: bars on a terminal, a line now and then elsewhere, and the comparison at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from deploy.rebuild.memory import Digest
from deploy.rebuild.parts import Salvaged

# Lines without a watcher should not fill a log.
LINE_EVERY = 2.0


class Display:
    """Everything goes to standard output."""

    def __init__(self, console: Console | None = None) -> None:
        # A terminal has its width; in a file or a pipe nothing is to be broken or cut.
        self.console = console or Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, tuple[float, int]] = {}

    def say(self, sentence: str) -> None:
        """Print a sentence."""
        self.console.print(sentence, markup=False)
        sys.stdout.flush()

    @contextmanager
    def progressing(self) -> Iterator[None]:
        """Show the progress of a replay for the block."""
        self._tasks, self._told = {}, {}
        if not self.console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as self._bars:
            yield
        self._bars = None

    def progress(self, name: str, done: int, total: int) -> None:
        """Show how many messages of a projection have been replayed, of how many."""
        if self._bars is not None:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(name, total=total)
            self._bars.update(self._tasks[name], completed=done, total=total)
            return
        at, before = self._told.get(name, (0.0, -1))
        if done != before and (done == total or time.monotonic() - at >= LINE_EVERY):
            self._told[name] = (time.monotonic(), done)
            self.say(f"{name} {done}/{total}")

    def compare(self, before: dict[str, Digest], after: dict[str, Digest]) -> bool:
        """Show every table's verdict; returns whether all are equal."""
        table = Table("table", "rows", "verdict", box=None, pad_edge=False)
        for name, was in sorted(before.items()):
            now = after[name]
            if now == was:
                table.add_row(name, f"{now.rows:,}", "[green]equal[/]")
            elif now.rows == was.rows:
                table.add_row(name, f"{now.rows:,}", "[red]different: as many rows with other content[/]")
            else:
                table.add_row(name, f"{now.rows:,}", f"[red]different: there were {was.rows:,}[/]")
        self.console.print(table)
        sys.stdout.flush()
        return before == after

    def salvaged(self, found: dict[str, Salvaged]) -> None:
        """Show the messages that projections could not take as they are, if any."""
        for name, one in sorted(found.items()):
            told = []
            if one.kept:
                told.append(f"kept {one.kept} that could not be stored as they are, with their text cleaned or as bytes alone")
            if one.dead:
                told.append(f"passed over {one.dead} of which no row can be made: they are dead letters")
            self.say(f"{name} {', and '.join(told)} (the last: {one.last}).")
