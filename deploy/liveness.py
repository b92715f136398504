"""Checks that a running program also answers: one whose loop is blocked, or that was stopped, lives but does not serve."""

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

# Seconds by which this process may itself be late: when it is more, the machine stands still or is overloaded: no verdict.
OWN_DELAY = 2.0


class Liveness(msgspec.Struct, frozen=True, kw_only=True):
    """The address of a program, the request to it, and the time from which it counts as hung. Seconds.

    Five are a hundred times a busy service's answer. Three times in a row, 15 s without any answer, are more than the longest
    that a service's loop is known to have been held up by work and still came back (7 s), and less than the 30 s after which
    leases and acknowledgement waits give its work to others. A start may take as long as `up` waits for it.
    With `misses` None the program never counts as hung: its silence is reported, and no more.
    """

    socket: Path | None = None
    port: Callable[[], int] = lambda: 0
    """The port on the loopback, without a socket."""
    question: bytes = b"GET /healthz HTTP/1.0\r\n\r\n"
    answer: bytes = rb"HTTP/1\.. 200"
    every: float = 5.0
    within: float = 5.0
    misses: int | None = 3
    starts_within: float = 60.0


async def until_hung(liveness: Liveness, silent: Callable[[datetime | None], None]) -> None:
    """Return when the program counts as hung. `silent` is called with the time of the last answer, and None when it answers again.

    Until its first answer it is starting: then only the whole of `starts_within` counts.
    """
    loop = asyncio.get_running_loop()
    started, has_answered, missed = loop.time(), False, 0
    while True:
        asked, asked_at = loop.time(), datetime.now(UTC)
        answered = await _answers(liveness)
        if answered:
            if missed or not has_answered:
                silent(None)
            has_answered, missed = True, 0
        elif not has_answered:
            if liveness.misses is not None and loop.time() - started > liveness.starts_within:
                silent(asked_at)
                return
        elif loop.time() - asked <= liveness.within + OWN_DELAY:
            missed += 1
            if missed == 1:
                silent(asked_at)
            if liveness.misses is not None and missed >= liveness.misses:
                return
        # A refusal comes at once, and counts for no less time than silence.
        await asyncio.sleep(max(0.0, asked + (liveness.every if answered else liveness.within) - loop.time()))


async def _answers(liveness: Liveness) -> bool:
    try:
        async with asyncio.timeout(liveness.within):
            if liveness.socket is not None:
                reader, writer = await asyncio.open_unix_connection(str(liveness.socket))
            elif (port := liveness.port()) > 0:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            else:
                return False  # it has not chosen one yet
            try:
                writer.write(liveness.question)
                return re.match(liveness.answer, await reader.read(256)) is not None
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
