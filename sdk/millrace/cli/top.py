"""`top`: how a stack is, every second, in a terminal; once where the output is none."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from millrace.cli import codes, show
from millrace.cli.api import Document, Refused, Unreachable
from millrace.cli.session import Session, asks
from millrace.cli.snapshot import public, take

EVERY = 1.0
# Rows of each list that may be long.
MOST = 5
# Columns and lines of a terminal that does not tell its size.
SIZE = (80, 24)
# The other screen without a cursor, and back; the first cell; the rest of a line, and of the screen.
_ENTER, _LEAVE, _HOME, _REST, _BELOW = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H", "\x1b[K", "\x1b[J"

# A line, and its level: that of the log whose colour it has.
Line = tuple[str, str]


@click.command("top")
@asks
def top(session: Session) -> int:
    """Show how the stack is, every second, until q or Ctrl-C.

    Readiness, rates, queue, slots, outcomes, the slowest workflows, lag, pools. Counts are since their process began, rates are of
    the last second. Needs a viewer of `global`. Without a terminal, and with --output json, one snapshot is printed.
    """
    first = take(session.api)
    if not (session.is_json or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"):
        return _live(session, first)
    time.sleep(EVERY)  # rates are of a second
    second = take(session.api, first)
    if session.is_json:
        show.document(public(second))
    else:
        for text, _ in lines(second):
            show.said(text)
    return codes.DONE


def _live(session: Session, snapshot: Document) -> int:
    trouble: str | None = None
    with _screen() as pressed:
        while True:
            began = time.monotonic()
            _draw(snapshot, trouble)
            while (left := began + EVERY - time.monotonic()) > 0:
                if pressed(left):
                    return codes.DONE
            try:
                snapshot, trouble = take(session.api, snapshot), None
            except (Refused, Unreachable) as error:
                trouble = str(error)


@contextlib.contextmanager
def _screen() -> Iterator[Callable[[float], bool]]:
    """Have the other screen for the block, and keys as they are pressed; gives what waits so many seconds for a q.

    However the block ends, the terminal is as it was.
    """
    import termios  # not there on Windows, where this needs no terminal
    import tty

    keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    before = None if keys is None else termios.tcgetattr(keys)

    def pressed(seconds: float) -> bool:
        if keys is None:
            time.sleep(seconds)
            return False
        ready, _, _ = select.select([keys], [], [], seconds)
        if not ready:
            return False
        # Nothing is read where the terminal has gone.
        given = os.read(keys, 1024)
        return not given or b"q" in given.lower()

    try:
        if keys is not None:
            tty.setcbreak(keys)
            # Else Ctrl-C takes away what is written and not shown yet, and that may be what leaves the other screen.
            mode = termios.tcgetattr(keys)
            mode[3] |= termios.NOFLSH
            termios.tcsetattr(keys, termios.TCSANOW, mode)
        _write(_ENTER)
        yield pressed
    finally:
        with contextlib.suppress(OSError):
            _write(_LEAVE)
        if before is not None and keys is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)


def _draw(snapshot: Document, trouble: str | None) -> None:
    width, height = SIZE
    with contextlib.suppress(OSError):
        width, height = os.get_terminal_size(sys.stdout.fileno())
    shown = lines(snapshot)
    if trouble is not None:
        shown.insert(0, (f"{_plain(trouble)}; trying again", "error"))
    # The last cell is left free: writing it moves on in some terminals.
    cut = [(text[: max(1, width - 1)], level) for text, level in shown[: max(1, height - 1)]]
    _write(_HOME + "".join(f"{show.styled(text, level)}{_REST}\n" for text, level in cut) + _BELOW)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def lines(snapshot: Document) -> list[Line]:
    """Return a snapshot as lines, what matters most first."""
    status = snapshot["status"]
    accepting = "webhooks taken" if snapshot["accepting"] else "webhooks refused"
    shown: list[Line] = [(f"millrace  {status}  {accepting}  {snapshot['time'][11:19]}Z", _level(status))]
    for one in snapshot["services"]:
        parts = f"  {', '.join(one['parts'])}" if one["parts"] else ""
        shown.append((_plain(f"  {one['service']:<9} {one['status']}{parts}"), _level(one["status"])))
    rates = snapshot["per_second"]
    named = "  ".join(f"{name} {_rate(rates[name])}" for name in ("webhooks", "requests", "runs"))
    shown.append((f"per second  {named}", "info"))
    queue = snapshot["queue"]
    text = f"queue       {queue['messages']:.0f}, oldest {_age(queue['age_s'])}  slots {queue['taken']:.0f}/{queue['slots']:.0f}"
    if queue["slots_min"] < queue["slots_max"]:
        text += f" ({queue['slots_min']:.0f} to {queue['slots_max']:.0f})"
    shown.append((text, "warning" if queue["age_s"] > 60 else "info"))
    outcomes = "  ".join(f"{name} {number:.0f}" for name, number in sorted(snapshot["outcomes"].items())) or "none"
    shown.append((_plain(f"outcomes    {outcomes}"), "info"))
    shown += _table(
        "slowest workflow", ("mean", "ended", "failed"), snapshot["workflows"][:MOST],
        lambda one: (one["workflow"], _age(one["mean_s"]), f"{one['ended']:.0f}", f"{one['failed']:.0f}"),
    )  # fmt: skip
    shown += _table(
        "consumer", ("age", "waiting", "in work"), snapshot["consumers"][:MOST],
        lambda one: (one["consumer"], _age(one["age_s"]), f"{one['waiting']:.0f}", f"{one['in_work']:.0f}"),
    )  # fmt: skip
    shown += _table(
        "projection", ("age", "behind"), snapshot["projections"][:MOST],
        lambda one: (f"{one['service']} {one['projection']}", _age(one["age_s"]), f"{one['messages']:.0f}"),
    )  # fmt: skip
    shown += _table(
        "pool", ("used", "waiting", "in vain"), snapshot["pools"],
        lambda one: (one["pool"], f"{one['used']:.0f}/{one['max']:.0f}", f"{one['waiting']:.0f}", f"{one['timeouts']:.0f}"),
    )  # fmt: skip
    return shown


def _table(title: str, columns: tuple[str, ...], rows: list[Document], cells: Callable[[Any], tuple[str, ...]]) -> list[Line]:
    """Return rows below a title, numbers first: they are seen in a narrow terminal as well."""
    if not rows:
        return []
    made = [(f"{''.join(f'{column:>9}' for column in columns)}  {title}", "debug")]
    for row in rows:
        name, *numbers = cells(row)
        made.append((_plain(f"{''.join(f'{number:>9}' for number in numbers)}  {name}"), "info"))
    return made


def _plain(text: str) -> str:
    """Return text that cannot leave its line."""
    return show.plain(text).replace("\n", " ").replace("\t", " ")


def _level(status: str) -> str:
    return {"ready": "info", "degraded": "warning"}.get(status, "error")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


COMMANDS = [top]
