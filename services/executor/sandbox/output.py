"""Reads the author's prints as they come, keeps them up to a limit, and decodes them, in whole lines where there are lines."""

import asyncio
import codecs
import os
from collections.abc import Callable

from services.executor.sandbox.interface import Stream

KEPT = 1 << 20
"""Bytes of both streams together that are kept of an attempt; the rest is counted and dropped."""
FATAL = 64 << 20
"""Bytes after which the attempt is ended: by then it is a flood, and reading it costs the others."""

_PIECE = 65536
_LONGEST_LINE = 65536
_STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")


class ChildOutput:
    """Both pipes of one child. Not bound to an attempt: a child that is not yet in use may already complain."""

    def __init__(self) -> None:
        self._sources: dict[Stream, int] = {}
        self._sinks: dict[Stream, int] = {}
        try:
            for name in _STREAMS:
                self._sources[name], self._sinks[name] = os.pipe2(os.O_CLOEXEC)
        except OSError:
            self.close()
            raise
        self._decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in _STREAMS}
        self._partial: dict[Stream, str] = dict.fromkeys(_STREAMS, "")
        self._ready: list[tuple[Stream, str]] = []
        self._read = 0
        self._is_cut = False
        self.on_text: Callable[[], None] = _nothing
        """Called when there is something to `take`."""
        self.on_flood: Callable[[], None] = _nothing
        """Called once more than `FATAL` bytes came."""

    def writable(self, stream: Stream) -> int:
        """Answer the end that the child gets."""
        return self._sinks[stream]

    def listen(self) -> None:
        """Begin to read, once the child has its ends."""
        loop = asyncio.get_running_loop()
        for name, source in self._sources.items():
            os.close(self._sinks.pop(name))
            os.set_blocking(source, False)
            loop.add_reader(source, self._on_readable, name)

    def take(self) -> list[tuple[Stream, str]]:
        """Return the output since the last call, in the order of arrival."""
        taken, self._ready = self._ready, []
        return taken

    def drain(self) -> None:
        """Read the rest in the pipes and release unfinished lines. For a child that is dead."""
        for name in tuple(self._sources):
            while self._on_readable(name) and self._read <= FATAL:
                pass
        for name in _STREAMS:
            self._keep(name, self._decoders[name].decode(b"", final=True), last=True)

    def settle(self) -> None:
        """Read the rest of one attempt's output from a child that has flushed and goes on; count anew for the next."""
        for name in tuple(self._sources):
            while self._on_readable(name) and self._read <= FATAL:
                pass
        if not self._read:
            return
        for name in _STREAMS:
            self._keep(name, self._decoders[name].decode(b"", final=True), last=True)
            self._decoders[name].reset()
        self._read, self._is_cut = 0, False

    def close(self) -> None:
        """Let go of the descriptors."""
        for name in tuple(self._sources):
            self._shut(name)
        while self._sinks:
            os.close(self._sinks.popitem()[1])

    def _on_readable(self, name: Stream) -> bool:
        try:
            data = os.read(self._sources[name], _PIECE)
        except BlockingIOError:
            return False
        if not data:
            self._shut(name)
            return False
        before, self._read = self._read, self._read + len(data)
        if not self._is_cut:
            self._keep(name, self._decoders[name].decode(data[: KEPT - before]), last=False)
            if self._read > KEPT:
                self._cut(name)
        if before <= FATAL < self._read:
            self.on_flood()
        return True

    def _keep(self, name: Stream, text: str, *, last: bool) -> None:
        text = self._partial[name] + text.replace("\0", "\ufffd")
        end = len(text) if last or len(text) > _LONGEST_LINE else text.rfind("\n") + 1
        self._partial[name] = text[end:]
        if end:
            self._ready.append((name, text[:end]))
            self.on_text()

    def _cut(self, name: Stream) -> None:
        self._is_cut = True
        for stream in _STREAMS:
            self._keep(stream, self._decoders[stream].decode(b"", final=True), last=True)
        self._ready.append((name, f"\n[output is cut here: only the first {KEPT >> 20} MB of an attempt are kept]\n"))
        self.on_text()

    def _shut(self, name: Stream) -> None:
        source = self._sources.pop(name)
        asyncio.get_running_loop().remove_reader(source)
        os.close(source)


def _nothing() -> None:
    pass
