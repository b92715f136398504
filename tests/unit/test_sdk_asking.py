"""What only a run can be given says so everywhere else, before anything is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from millrace import NotInRun, config, connections, events, files, integrations, secrets, variables

PLAIN: list[Callable[[], object]] = [
    lambda: connections.get("a"),
    lambda: integrations.get("a"),
    lambda: variables.get("a"),
    lambda: config.get("a", default=1),
    lambda: secrets.get("a"),
    lambda: events.emit("a", "b"),
    lambda: files.read("a"),
    lambda: files.read_text("a"),
    lambda: list(files.chunks("a")),
    lambda: files.write("a", b""),
    files.list,
    lambda: files.delete("a"),
    lambda: files.exists("a"),
]
AWAITED: list[Callable[[], Awaitable[object]]] = [
    lambda: connections.aget("a"),
    lambda: integrations.aget("a"),
    lambda: variables.aget("a"),
    lambda: secrets.aget("a"),
    lambda: events.aemit("a", "b"),
    lambda: files.aread("a"),
    lambda: files.aread_text("a"),
    lambda: files.awrite("a", ""),
    files.alist,
    lambda: files.adelete("a"),
    lambda: files.aexists("a"),
]


@pytest.mark.parametrize("number", range(len(PLAIN)))
def test_outside_a_run_it_says_so(number: int) -> None:
    with pytest.raises(NotInRun, match="are known only inside a run"):
        PLAIN[number]()


@pytest.mark.parametrize("number", range(len(AWAITED)))
def test_outside_a_run_it_says_so_to_who_awaits(number: int) -> None:
    async def asked() -> None:
        await AWAITED[number]()

    with pytest.raises(NotInRun, match="are known only inside a run"):
        asyncio.run(asked())
