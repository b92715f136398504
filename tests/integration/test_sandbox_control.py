"""Frames between supervisor and child over a real socket, on both event loops that a supervisor may have."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from services.executor.sandbox import frames
from services.executor.sandbox.control import ControlSocket
from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.frames import Frame

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, None]], None]
LINE = frames.encode(frames.Log("info", "x" * 1000, {}))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, child = socket.socketpair()
    ours.setblocking(False)
    with child:
        yield ours, child


class Heard:
    """What a listener was handed."""

    def __init__(self, control: ControlSocket) -> None:
        self.frames: list[Frame] = []
        self.ends: list[Exception | None] = []
        self.ended = asyncio.Event()
        self.control = control
        control.listen(self.take, self.end)

    def take(self, frame: Frame, size: int) -> None:
        assert size == len(frames.encode(frame)) - 4
        self.frames.append(frame)

    def end(self, error: Exception | None) -> None:
        self.ends.append(error)
        self.ended.set()


async def full(child: socket.socket) -> int:
    """Write lines until nobody has read for a while; return how many bytes went."""
    child.setblocking(False)
    written, misses = 0, 0
    while misses < 50:
        try:
            written += child.send(LINE[written % len(LINE) :])
            misses = 0
        except BlockingIOError:
            misses += 1
        await asyncio.sleep(0.001)
    return written


@LOOPS
def test_frames_are_put_together_however_they_are_cut_and_the_end_comes_after_them(
    run: Run, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def scenario() -> None:
        ours, child = pair
        heard = Heard(await ControlSocket.over(ours))
        for byte in LINE:
            child.send(bytes([byte]))
            await asyncio.sleep(0)
        child.send(2 * LINE + LINE[:7])
        child.shutdown(socket.SHUT_WR)
        await heard.ended.wait()
        assert len(heard.frames) == 3
        assert heard.ends == [None]
        # The child may still read.
        heard.control.write(LINE)
        await asyncio.sleep(0.01)
        assert child.recv(len(LINE)) == LINE
        heard.control.close()

    run(scenario())


@LOOPS
def test_a_pause_leaves_frames_with_the_child_and_loses_none(run: Run, pair: tuple[socket.socket, socket.socket]) -> None:
    async def scenario() -> None:
        ours, child = pair
        heard = Heard(await ControlSocket.over(ours))
        heard.control.pause()
        written = await full(child)
        assert written < 4 << 20
        assert heard.frames == []
        heard.control.resume()
        child.setblocking(True)
        rest = LINE[written % len(LINE) :] if written % len(LINE) else b""
        await asyncio.to_thread(child.sendall, rest)
        child.shutdown(socket.SHUT_WR)
        await heard.ended.wait()
        assert len(heard.frames) == (written + len(rest)) // len(LINE)
        heard.control.close()

    run(scenario())


@LOOPS
def test_frames_wait_for_the_next_listener(run: Run, pair: tuple[socket.socket, socket.socket]) -> None:
    async def scenario() -> None:
        ours, child = pair
        control = await ControlSocket.over(ours)
        child.send(LINE + frames.encode(frames.Again()) + b"\0\0\0\x02no")
        assert isinstance(await control.read(), frames.Log)
        await asyncio.sleep(0.01)
        heard = Heard(control)
        assert heard.frames == [frames.Again()]
        (end,) = heard.ends
        assert isinstance(end, FrameError)
        control.close()

    run(scenario())


@LOOPS
def test_a_writer_waits_while_the_child_does_not_read_and_no_longer_than_it_lives(
    run: Run, pair: tuple[socket.socket, socket.socket]
) -> None:
    async def scenario() -> None:
        ours, child = pair
        control = await ControlSocket.over(ours)
        await control.drained()
        control.write(bytes(8 << 20))
        waiting = asyncio.create_task(control.drained())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        child.close()
        await waiting
        control.write(LINE)
        await control.drained()
        control.close()

    run(scenario())


@LOOPS
def test_an_error_of_the_listener_ends_the_listening(run: Run, pair: tuple[socket.socket, socket.socket]) -> None:
    async def scenario() -> None:
        ours, child = pair
        control = await ControlSocket.over(ours)
        ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def fail(_frame: Frame, _size: int) -> None:
            raise KeyError("ours")

        control.listen(fail, ended.set_result)
        child.send(2 * LINE)
        assert isinstance(await ended, KeyError)
        control.close()

    run(scenario())
