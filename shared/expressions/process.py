"""One worker process as the service sees it: batches go in, answers come out, and its end shows how far it had come."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import cast

import msgspec

from shared.errors import Unavailable
from shared.expressions import worker

UID = 65531
"""The user of the workers where the service is root: owns nothing and is not the user of sandboxed runs."""
LONGEST_VALUE = 64 * 1024
"""Bytes of JSON of an expression's value."""
_START = 30.0
_LARGEST_FRAME = 64 << 20
_LAST_WORDS = 2000


class Task(msgspec.Struct, frozen=True, array_like=True):
    """A task for a worker: `worker.CHECK` or `worker.EVALUATE`, the expression, and its variables as JSON."""

    kind: int
    source: str
    variables: bytes


class WorkerAnswer(msgspec.Struct, frozen=True, array_like=True):
    """A worker's answer: `payload` is a value as JSON, or else an error as text; and the CPU seconds that it took."""

    is_value: bool
    payload: bytes
    seconds: float


class _Hello(msgspec.Struct):
    walls: list[str]


class Died(Exception):
    """The process has ended. `begun` tasks of those that were given and not answered had been begun: the last of them by itself."""

    def __init__(self, begun: int, code: int) -> None:
        self.begun = begun
        self.code = code
        super().__init__(f"ended with {code}")

    @property
    def by_its_task(self) -> bool:
        """Whether the process ended in a way that only its task can have caused; SIGKILL and SIGTERM come from others as well."""
        return self.code not in {-signal.SIGKILL, -signal.SIGTERM, 0}

    def told(self, seconds: float) -> str:
        """Return the reason for the author of the task, which had so many seconds."""
        if self.code == -signal.SIGPROF:
            return f"it took longer than {seconds:g} s"
        return f"it crashes what evaluates it, or needs more memory than there is for it ({self})"


class Process(asyncio.Protocol):
    """A running worker, from `started` on. Its owner must `end` it."""

    def __init__(self, popen: subprocess.Popen[bytes], progress: mmap.mmap) -> None:
        loop = asyncio.get_running_loop()
        self._popen = popen
        self._progress = progress
        self._transport: asyncio.Transport
        self._received = bytearray()
        self._hello: asyncio.Future[bytes] = loop.create_future()
        self._waiting: deque[tuple[int, asyncio.Future[list[WorkerAnswer]]]] = deque()
        self._answered = 0
        self.ended: asyncio.Future[int] = loop.create_future()
        """Becomes the exit code, negative for a signal."""
        self.walls: list[str] = []

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._popen.pid

    async def greeted(self) -> None:
        """Return when it is behind its walls. Raises `Died`, MsgspecError."""
        self.walls = msgspec.msgpack.decode(await asyncio.shield(self._hello), type=_Hello).walls

    def answers(self, tasks: list[Task]) -> asyncio.Future[list[WorkerAnswer]]:
        """Have a batch done, after those before it; there are fewer answers where it takes long. The future raises `Died`."""
        future: asyncio.Future[list[WorkerAnswer]] = asyncio.get_running_loop().create_future()
        self._waiting.append((len(tasks), future))
        body = msgspec.msgpack.encode(tasks)
        self._transport.write(struct.pack(">I", len(body)) + body)
        return future

    def kill(self) -> None:
        """Kill it; `ended` follows."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._popen.kill()

    async def end(self) -> None:
        """Let it end, and return when it is reaped."""
        self._transport.close()
        try:
            async with asyncio.timeout(1.0):
                await asyncio.shield(self.ended)
        except TimeoutError:
            self.kill()
            await asyncio.shield(self.ended)

    # -- as the event loop calls it -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        # uvloop's is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Settle answered tasks. Bytes that are no answer end the process: a task may have taken it over."""
        self._received += data
        while len(self._received) >= 4:
            (size,) = struct.unpack_from(">I", self._received)
            if size > _LARGEST_FRAME:
                self.kill()
                return
            if len(self._received) < 4 + size:
                return
            body = bytes(memoryview(self._received)[4 : 4 + size])
            del self._received[: 4 + size]
            if not self._hello.done():
                self._hello.set_result(body)
                continue
            try:
                answers = msgspec.msgpack.decode(body, type=list[WorkerAnswer])
            except msgspec.MsgspecError:
                answers = []
            if not self._waiting or not 0 < len(answers) <= self._waiting[0][0]:
                self.kill()
                return
            _, future = self._waiting.popleft()
            self._answered += len(answers)
            if not future.done():
                future.set_result(answers)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - how it ended is told by the process itself
        """Reap it; its socket is only ever closed by its end or by `end`."""
        loop = asyncio.get_running_loop()
        self._reaping = loop.create_task(self._reap())

    async def _reap(self) -> None:
        try:
            code = await asyncio.to_thread(self._popen.wait, 0.5)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            code = await asyncio.to_thread(self._popen.wait)
        begun = int.from_bytes(self._progress[:8], sys.byteorder) - self._answered
        self._progress.close()
        given = sum(count for count, _ in self._waiting)
        died = Died(min(max(begun, 0), given), code)
        self.ended.set_result(code)
        if not self._hello.done():
            self._hello.set_exception(died)
            self._hello.exception()  # the caller may be gone
        while self._waiting:
            count, future = self._waiting.popleft()
            if not future.done():
                future.set_exception(Died(min(died.begun, count), code))
            died.begun = max(died.begun - count, 0)


async def started(*, seconds: float, memory: int, nice: int = 0) -> Process:
    """Start a worker: a task has so many CPU seconds, and the process so many bytes more than it begins with.

    Raises `Unavailable` with the reason where there is none.
    """
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(theirs.close)
        progress, words = (os.memfd_create(name, os.MFD_CLOEXEC) for name in ("progress", "words"))
        stack.callback(os.close, progress)
        stack.callback(os.close, words)
        try:
            os.ftruncate(progress, mmap.PAGESIZE)
            setting = {
                "paths": _paths(),
                "engine": str(engine_path()),
                "uid": UID,
                "parent": os.getpid(),
                "progress": progress,
                "seconds": seconds,
                "memory": memory,
                "nice": nice,
                "longest_value": LONGEST_VALUE,
            }
            popen = subprocess.Popen(  # noqa: ASYNC220 - by vfork, which takes a millisecond
                [sys.executable, "-I", "-S", "-B", worker.__file__, json.dumps(setting)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=words,
                pass_fds=(progress,),
                cwd="/",
                env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            )
        except OSError as error:
            ours.close()
            raise Unavailable(f"the process that evaluates expressions cannot be started: {error}") from error
        theirs.close()
        process = Process(popen, mmap.mmap(progress, mmap.PAGESIZE))
        ours.setblocking(False)  # noqa: FBT003
        await asyncio.get_running_loop().create_unix_connection(lambda: process, sock=ours)
        try:
            async with asyncio.timeout(_START):
                await process.greeted()
        except (TimeoutError, Died, msgspec.MsgspecError) as error:
            await process.end()
            last_words = os.pread(words, _LAST_WORDS, 0).decode(errors="replace").strip().rpartition("\n")[2]
            reason = last_words or str(error) or type(error).__name__
            raise Unavailable(f"the process that evaluates expressions did not start: {reason}") from error
        except asyncio.CancelledError:
            process.kill()
            raise
        return process


def engine_path() -> Path:
    """Return the library's own file, without loading it."""
    found = importlib.util.find_spec("cel")
    places = found.submodule_search_locations if found else None
    for place in places or []:
        for path in Path(place).glob("cel.*.so"):
            return path
    raise FileNotFoundError("the CEL library is not installed")


def _paths() -> list[str]:
    """Return where the worker finds the two packages that it loads."""
    found = [importlib.util.find_spec(name) for name in ("msgspec", "millrace")]
    return [str(Path(spec.origin).parents[1]) for spec in found if spec is not None and spec.origin]
