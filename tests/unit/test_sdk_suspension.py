"""A run reports that it waits only for a wait that the supervisor knows of."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import pytest

from millrace import _order, _suspension
from millrace._runtime import channel
from millrace._runtime.clock import Loop

SLEEP = ("sleep", "sleep", 0)


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the supervisor's end of the control socket of this process, which then serves a run."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(2)
    monkeypatch.setattr(channel, "current", channel.Channel(theirs))
    with ours, theirs:
        yield ours


def test_a_request_is_open_until_its_taker_has_the_answer(ours: socket.socket) -> None:
    control = channel.current
    assert control is not None
    answer = control.ask("step_get", name="a")
    open_then: list[bool] = []
    answer.add_done_callback(lambda _: open_then.append(control.is_asking))
    frame = json.dumps({"kind": "answer", "id": 1, "value": 7}).encode()
    ours.sendall(len(frame).to_bytes(4, "big") + frame)
    assert answer.result(timeout=10) == 7
    assert open_then == [True]


def test_a_repeated_wait_that_has_been_answered_suspends_nothing(ours: socket.socket) -> None:
    suspension = _suspension.Suspension()
    loop = Loop(1.0)

    async def main() -> str:
        task = asyncio.current_task()
        assert task is not None
        order.attend(task)
        await suspension.turn(order.next("sleep", "sleep"))
        for _ in range(3):  # the timer's looks, while the workflow does what none can see, such as taking an answer
            if suspension._check is not None:
                suspension._check.cancel()
            suspension._look()
        return "done"

    with _order.begun(_order.Order([(*SLEEP, 0, 0.1, _order.SINCE)], [SLEEP])) as order:
        assert loop.run_until_complete(main()) == "done"
    loop.close()
    with pytest.raises(BlockingIOError):
        ours.recv(1, socket.MSG_DONTWAIT)
