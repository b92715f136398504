"""The supervisor's end of one child's control socket: frames in, as they come, and frames out."""

import asyncio
import socket
from collections.abc import Callable
from typing import cast

from services.executor.sandbox.birth import settle
from services.executor.sandbox.frames import Frame, FrameReader

_AHEAD = 64 * 1024
"""Bytes that may wait here for a listener that has paused; the rest stays with the kernel, and the child stands still."""


class ControlSocket(asyncio.Protocol):
    """Frames of one child, for one listener at a time; without one they wait. Its owner must `close` it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._frames = FrameReader()
        self._on_frame: Callable[[Frame, int], None] | None = None
        self._on_end: Callable[[Exception | None], None]
        self._is_paused = False
        self._is_held = False
        """Whether the socket is not read at the moment."""
        self._has_ended = False
        self._delivering = False
        self._room: asyncio.Future[None] | None = None
        """Done when the child has read enough; None while there is room."""

    @classmethod
    async def over(cls, sock: socket.socket) -> "ControlSocket":
        """Take a connected socket over, which does not block."""
        _, made = await asyncio.get_running_loop().create_connection(cls, sock=sock)
        return made

    def listen(self, on_frame: Callable[[Frame, int], None], on_end: Callable[[Exception | None], None]) -> None:
        """Have every frame handed over with its size, until `mute`; those that have arrived already at once.

        `on_end` is called once, after the last frame: with None when the child's end is closed, in a frame or between; with a
        `FrameError` for bytes that are no frame; with an error of `on_frame`. It ends the listening.
        """
        self._on_frame, self._on_end = on_frame, on_end
        self._is_paused = False
        self._deliver()

    def mute(self) -> None:
        """End the listening."""
        self._on_frame = None

    def pause(self) -> None:
        """Hand no frame over until `resume`."""
        self._is_paused = True

    def resume(self) -> None:
        """Go on after a pause."""
        self._is_paused = False
        self._deliver()

    async def read(self) -> Frame | None:
        """Wait for one frame, without another listener; None when the child's end is closed. Raises `FrameError`."""
        found: asyncio.Future[Frame | None] = asyncio.get_running_loop().create_future()

        def take(frame: Frame, _size: int) -> None:
            self.mute()
            settle(found, frame)

        def end(error: Exception | None) -> None:
            if found.done():
                return
            if error is None:
                found.set_result(None)
            else:
                found.set_exception(error)

        self.listen(take, end)
        try:
            return await found
        finally:
            self.mute()

    def write(self, frame: bytes) -> None:
        """Send a frame; one that cannot be sent because the child is gone is lost."""
        if not self._transport.is_closing():  # else uvloop's raises
            self._transport.write(frame)

    async def drained(self) -> None:
        """Return when the child has read enough for more to be written, or is gone."""
        if self._room is not None:
            await asyncio.shield(self._room)

    def close(self) -> None:
        """Let go of the socket at once. A listener hears no end."""
        self.mute()
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """Take the next bytes."""
        self._frames.feed(data)
        self._deliver()

    def eof_received(self) -> bool:
        """Record the end; the child may still read."""
        self._has_ended = True
        self._deliver()
        return True

    def connection_lost(self, _error: Exception | None) -> None:
        """Record the end."""
        self._has_ended = True
        self.resume_writing()
        self._deliver()

    def pause_writing(self) -> None:
        """Have writers wait."""
        self._room = self._room or asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        """Let writers go on."""
        if self._room is not None:
            settle(self._room, None)
            self._room = None

    def _deliver(self) -> None:
        if self._delivering:  # a listener has resumed in the midst of a frame: the loop below goes on
            return
        self._delivering = True
        try:
            while self._on_frame is not None and not self._is_paused:
                try:
                    received = self._frames.next()
                    if received is not None:
                        self._on_frame(*received)
                        continue
                except Exception as error:
                    self._finish(error)
                    break
                if self._has_ended:
                    self._finish(None)
                break
        finally:
            self._delivering = False
        self._hold((self._on_frame is None or self._is_paused) and len(self._frames) > _AHEAD)

    def _finish(self, error: Exception | None) -> None:
        self.mute()
        self._on_end(error)

    def _hold(self, is_held: bool) -> None:  # noqa: FBT001
        if is_held == self._is_held or self._has_ended:
            return
        self._is_held = is_held
        if is_held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
