"""A result that a child sends in parts, on its way to where results are kept: a few parts of it are in memory at a time."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from services.executor.sandbox.documents import Document
from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.interface import LARGEST_RESULT, KeptResult
from services.executor.sandbox.masking import Masker

MOST_PARTS = 2048
"""Parts of one result; the SDK sends a quarter of a million characters in each, which is at most 400 of them."""
_AHEAD = 2
"""Parts that may wait to be stored."""

Keep = Callable[[AsyncIterator[bytes]], Awaitable[KeptResult]]


class TooMuch(Exception):
    """A result is larger than any may be. The message gives both figures."""

    def __init__(self, size: int, *, at_least: bool = False) -> None:
        more = "more than " if at_least else ""
        super().__init__(f"the result has {more}{size} bytes as JSON; at most {LARGEST_RESULT} are kept")


class Incoming:
    """One result. Its creator must `drop` it in every case."""

    def __init__(self, masker: Masker, keep: Keep) -> None:
        self._document = Document(masker)
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
        self._keeping = asyncio.ensure_future(keep(self._pieces()))
        self._parts = 0
        self._size = 0

    async def take(self, text: str) -> float:
        """Take the next part; return the seconds that checking it took.

        Raises `FrameError`, `TooMuch`, and the errors of the store.
        """
        self._parts += 1
        self._size += len(text.encode())
        if self._size > LARGEST_RESULT:
            raise TooMuch(LARGEST_RESULT, at_least=True)
        if self._parts > MOST_PARTS:
            msg = f"a result comes in more than {MOST_PARTS} parts"
            raise FrameError(msg)
        kept, seconds = await asyncio.to_thread(_timed, self._document.feed, text)
        await self._pass_on(kept)
        return seconds

    async def end(self, size: int) -> KeptResult:
        """Return the place of the complete result; `size` is the child's claim.

        Raises `FrameError` for another size or for no JSON, and the errors of the store.
        """
        if size != self._size:
            msg = f"a result of {size} bytes came as {self._size}"
            raise FrameError(msg)
        if rest := self._document.end():
            await self._pass_on(rest)
        await self._pass_on(None)
        return await self._keeping

    async def drop(self) -> None:
        """Release it; an incomplete result is not kept."""
        self._keeping.cancel()
        await asyncio.gather(self._keeping, return_exceptions=True)

    async def _pass_on(self, piece: bytes | None) -> None:
        putting = asyncio.ensure_future(self._waiting.put(piece))
        try:
            await asyncio.wait({putting, self._keeping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if self._keeping.done() and not putting.done():
            await self._keeping  # it failed and takes no more parts

    async def _pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._waiting.get()) is not None:
            yield piece


def _timed(feed: Callable[[str], bytes], text: str) -> tuple[bytes, float]:
    began = time.thread_time()
    kept = feed(text)
    return kept, time.thread_time() - began
