"""The control socket as the child sees it: frames out, answers in.

A frame is four bytes of big-endian length and that many bytes of UTF-8 JSON. Requests carry an id; a reader thread,
which starts with the first request, hands each answer to its caller.
"""

import asyncio
import json
import os
import socket
import struct
import threading
from collections.abc import Generator
from concurrent.futures import Future
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeVar

from millrace._runtime.encode import MAX_FRAME
from millrace.errors import NotInRun, Refused, ResultError

T = TypeVar("T")
Asking = Generator[tuple[str, dict[str, Any]], Any, T]
"""A conversation: yields the kind and the fields of each request, is sent its answer or thrown its `Refused`, returns a result."""

_PIECE = 1 << 16
"""Bytes that are read at a time, for which room is made before they come."""

_CRUMB = 256
"""Bytes of what nobody reads any more: for more the allocator would put its memory in order, which copies it."""

current: "Channel | None" = None
"""The channel of the run that this process serves; None outside a run and in a process that the author forked."""


class Channel:
    """One end of the control socket. Safe to use from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._sending = threading.Lock()
        self._numbers = count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._reader: threading.Thread | None = None
        self._jobs: SimpleQueue[bytes | None] = SimpleQueue()
        """Frames other than answers that came while the reader thread had the socket: the next job, or None at the end."""
        self._closed = False
        self._main_thread = threading.main_thread().ident
        self.is_forking = False
        """Whether the next fork is to go on with the channel in this process's place."""
        self.main_is_sending = False
        self.postponed: BaseException | None = None
        """An exception that a signal handler wants raised in the main thread as soon as its frame is out whole."""

    def open(self) -> None:
        """Make this process the one that serves; its forks may not use the channel. To be called once."""
        os.register_at_fork(after_in_child=self._abandon)

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def announce(self, kind: str, descriptor: int | None = None) -> None:
        """Write the frame that is nothing but its kind, before there is a run.

        A descriptor is handed over with it, and closed here.
        """
        payload = b'{"kind":"%b"}' % kind.encode()
        frame = len(payload).to_bytes(4, "big") + payload
        if descriptor is None:
            self._socket.sendall(frame)
        else:
            self._socket.sendmsg([frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))])
            os.close(descriptor)

    def send(self, frame: dict[str, Any]) -> None:
        """Write one frame, whose values are known to be JSON. After `close_with` nothing is sent any more, silently."""
        payload = json.dumps(frame, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        if len(payload) > MAX_FRAME:
            msg = f"{frame['kind']} of {len(payload)} bytes is over the limit of {MAX_FRAME}"
            raise ResultError(msg)
        self._write(payload, last=False)

    def next_job(self) -> bytes:
        """Begin anew for another run, once this one is closed, and wait for its job. Raises EOFError when there is none.

        Requests get numbers that no earlier run has had, so that no answer is taken for another's.
        """
        self.reopen()
        self.announce("again")
        return self.job()

    def reopen(self) -> None:
        """Begin anew for another run, once this one is closed."""
        self._closed = False
        self.postponed = None
        self._waiting.clear()

    def job(self) -> bytes:
        """Read a frame that is no answer, waiting for it. Raises EOFError when the supervisor is gone."""
        job = self.receive() if self._reader is None else self._jobs.get()
        if job is None:
            raise EOFError
        return job

    def close_with(self, payload: bytes) -> None:
        """Write the terminal frame: the first call decides, later ones and later frames are dropped."""
        self._write(payload, last=True)

    def ask(self, kind: str, **fields: Any) -> "Future[Any]":
        """Send a request. The future ends with the answer, or with `Refused`."""
        number = next(self._numbers)
        answer: Future[Any] = Future()
        self._waiting[number] = answer
        if self._reader is None:
            with self._sending:
                if self._reader is None:
                    self._reader = threading.Thread(target=self._read, name="millrace-answers", daemon=True)
                    self._reader.start()
        try:
            self.send({"kind": kind, "id": number, **fields})
        except BaseException:
            self._waiting.pop(number, None)
            raise
        return answer

    def receive(self) -> bytes:
        """Read one frame's payload, waiting for it. Raises EOFError when the supervisor is gone."""
        # Mostly all of it is there; after a signal, or of what is long, a part is.
        head = self._socket.recv(4, socket.MSG_WAITALL)
        if len(head) < 4:
            head += self._exactly(4 - len(head))
        size = int.from_bytes(head, "big")
        payload = self._socket.recv(min(size, _PIECE), socket.MSG_WAITALL)
        if len(payload) < size:
            payload += self._exactly(size - len(payload))
        return payload

    @property
    def is_asking(self) -> bool:
        """Whether a request is still to be answered."""
        return bool(self._waiting)

    @property
    def threads(self) -> int:
        """The number of this channel's own threads."""
        return int(self._reader is not None)

    def wait_for_end(self) -> None:
        """Wait until the supervisor has closed its end."""
        try:
            while self._socket.recv(_CRUMB):
                pass
        except OSError:
            return

    def _write(self, payload: bytes, *, last: bool) -> None:
        main = threading.get_ident() == self._main_thread
        # A signal that raised between the two halves of a frame would leave a torn frame behind: see `Stopping`.
        self.main_is_sending = main or self.main_is_sending
        try:
            with self._sending:
                if self._closed:
                    return
                self._closed = last
                self._socket.sendall(len(payload).to_bytes(4, "big") + payload)
        finally:
            if main:
                self.main_is_sending = False
        if main and self.postponed is not None:
            postponed, self.postponed = self.postponed, None
            raise postponed

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._socket.recv(min(size, _PIECE))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _read(self) -> None:
        try:
            while True:
                payload = self.receive()
                frame = json.loads(payload)
                if "id" not in frame:
                    self._jobs.put(payload)
                    continue
                answer = self._waiting.get(frame["id"])
                if answer is not None and answer.set_running_or_notify_cancel():
                    if frame.get("error") is not None:
                        answer.set_exception(Refused(frame["error"]["type"], frame["error"]["message"]))
                    else:
                        answer.set_result(frame.get("value"))
                # Only now, when its taker has work to do: between the two the run would look as if nothing went on.
                self._waiting.pop(frame["id"], None)
        except (EOFError, OSError):
            while self._waiting:
                _, answer = self._waiting.popitem()
                if answer.set_running_or_notify_cancel():
                    answer.set_exception(NotInRun("the supervisor is gone"))
            self._jobs.put(None)

    def _abandon(self) -> None:
        """Take a forked process out of the run: two writers on one socket would tear each other's frames."""
        global current  # noqa: PLW0603 - there is one channel in a process
        if self.is_forking:
            return
        current = None
        self._closed = True
        self._sending = threading.Lock()
        self._socket.close()


def ask(what: str, kind: str, /, **fields: Any) -> Any:
    """Ask the supervisor and wait for its answer. Raises `Refused`, and `NotInRun` that names `what`."""
    return asking(what, kind, **fields).result()


async def aask(what: str, kind: str, /, **fields: Any) -> Any:
    """Do the same without holding up the event loop."""
    return await asyncio.wrap_future(asking(what, kind, **fields))


def held(what: str, conversation: Asking[T]) -> T:
    """Hold a conversation, waiting for each answer. Raises like `ask`."""
    try:
        kind, fields = next(conversation)
        while True:
            try:
                answer = ask(what, kind, **fields)
            except Refused as error:
                kind, fields = conversation.throw(error)
            else:
                kind, fields = conversation.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value


async def aheld(what: str, conversation: Asking[T]) -> T:
    """Hold a conversation without holding up the event loop. Raises like `ask`."""
    try:
        kind, fields = next(conversation)
        while True:
            try:
                answer = await aask(what, kind, **fields)
            except Refused as error:
                kind, fields = conversation.throw(error)
            else:
                kind, fields = conversation.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value


def asking(what: str, kind: str, /, **fields: Any) -> "Future[Any]":
    """Ask the supervisor; the future ends with its answer, or with `Refused`. Raises `NotInRun` that names `what`."""
    if current is None:
        msg = f"{what} are known only inside a run"
        raise NotInRun(msg)
    return current.ask(kind, **fields)
