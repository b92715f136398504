r"""`files`: the organization's workspace, to read from and in parts to write to; `shared_files` and `artifacts`: those parts.

In a workflow:

    from millrace import files, workflow

    @workflow
    def count() -> int:
        lines = files.read_text("data/seen.txt").splitlines() if files.exists("data/seen.txt") else []
        files.write("data/seen.txt", "\n".join([*lines, "one more"]))
        return len(lines) + 1

`shared_files.write("seen.txt", …)` is the same file, without the folder before its name. A run leaves what people are to see as an
artifact of its own: `artifacts.write("report.csv", …)`.
"""

import asyncio
import base64
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from millrace import _bounds
from millrace._run import run
from millrace._runtime import channel
from millrace._runtime.channel import Asking
from millrace.errors import Refused

T = TypeVar("T")

_CHUNK = 1 << 20
_AT_ONCE = 3
"""Files that are on their way at a time, by threads and by coroutines each: the supervisor refuses more, for its memory's sake."""
_few = threading.BoundedSemaphore(_AT_ONCE)
_few_of: "WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]" = WeakKeyDictionary()


@dataclass(frozen=True)
class File:
    """A file of the workspace, without its content."""

    path: str
    size: int
    """Bytes."""
    sha256: str
    """Of the content, hexadecimal."""
    updated_at: datetime
    """Aware UTC."""


Listing = list[File]


class Files:
    """Reads what the organization's workspace holds, and what the platform's does where it has no file of that path.

    A run may write and delete only below `data/` and among its artifacts, and no code there (`.py`, `.pyi`, `requirements.txt`):
    what it writes never becomes part of what the organization runs. A file has at most 64 MiB, and all that one attempt writes
    128 MiB. Content is kept as it was written: a credential in it is not masked. Writing is at least once, like everything outside
    a step.

    Each method has a counterpart with an `a` before its name that does not hold up the event loop. All raise `Refused`, which
    says what is missing or not allowed, and `NotInRun` outside a run.
    """

    def __init__(self, folder: Callable[[], str] = str) -> None:
        """`folder` is the part of the workspace, "" or with a slash at its end, that the paths are relative to."""
        self._numbers = itertools.count()
        self._folder = folder

    def read(self, path: str) -> bytes:
        """Answer a file's content."""
        parts: list[bytes] = []
        _done(self._reading(path, parts.append))
        return b"".join(parts)

    async def aread(self, path: str) -> bytes:
        """Answer a file's content."""
        parts: list[bytes] = []
        await _adone(self._reading(path, parts.append))
        return b"".join(parts)

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """Answer a file's content as text. Raises UnicodeDecodeError where it is none."""
        return self.read(path).decode(encoding)

    async def aread_text(self, path: str, encoding: str = "utf-8") -> str:
        """Answer a file's content as text."""
        return (await self.aread(path)).decode(encoding)

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield a file's content in parts of at most 1 MiB, for one that should not be in memory whole."""
        parts: list[bytes] = []
        asking = self._reading(path, parts.append)
        kind, fields = next(asking)
        while True:
            answer = channel.ask("files", kind, **fields)
            try:
                kind, fields = asking.send(answer)
            except StopIteration:
                yield from parts
                return
            yield from parts
            parts.clear()

    def write(self, path: str, content: bytes | str | Iterable[bytes]) -> File:
        """Create or replace a file by bytes, by text in UTF-8, or by what yields bytes, an open binary file among them."""
        return _done(self._writing(path, content))

    async def awrite(self, path: str, content: bytes | str | Iterable[bytes]) -> File:
        """Create or replace a file."""
        return await _adone(self._writing(path, content))

    def list(self, prefix: str = "") -> Listing:
        """Answer the files whose path begins with `prefix`, by path."""
        return _done(self._listing(prefix))

    async def alist(self, prefix: str = "") -> Listing:
        """Answer the files whose path begins with `prefix`, by path."""
        return await _adone(self._listing(prefix))

    def delete(self, path: str) -> None:
        """Delete a file."""
        _done(_one("file_delete", self._at(path)))

    async def adelete(self, path: str) -> None:
        """Delete a file."""
        await _adone(_one("file_delete", self._at(path)))

    def exists(self, path: str) -> bool:
        """Answer whether there is a file of that path."""
        return _done(_existing(self._at(path)))

    async def aexists(self, path: str) -> bool:
        """Answer whether there is a file of that path."""
        return await _adone(_existing(self._at(path)))

    def _reading(self, path: str, take: Any) -> Asking[None]:
        fields = {"path": self._at(path), "reading": next(self._numbers)}
        at = 0
        while True:
            answer = yield "file_read", fields | {"at": at}
            data = base64.b64decode(answer["data"])
            take(data)
            at += len(data)
            if not data or at >= answer["size"]:
                return

    def _writing(self, path: str, content: bytes | str | Iterable[bytes]) -> Asking[File]:
        fields = {"path": self._at(path), "writing": next(self._numbers)}
        at, parts = 0, _even(content)
        part = next(parts, b"")
        while True:
            after = next(parts, None)
            data = base64.b64encode(part).decode()
            answer = yield "file_write", fields | {"at": at, "data": data, "is_last": after is None}
            if after is None:
                return self._file(answer)
            at, part = at + len(part), after

    def _listing(self, prefix: str) -> Asking[Listing]:
        found: Listing = []
        after: str | None = ""
        wanted = self._folder() + _bounds.text(prefix, "a prefix", _bounds.PATH, least=0)
        while after is not None:
            answer = yield "file_list", {"prefix": wanted, "after": after}
            found += map(self._file, answer["items"])
            after = answer["next"]
        return found

    def _at(self, path: object) -> str:
        return self._folder() + _bounds.text(path, "a path", _bounds.PATH)

    def _file(self, answer: dict[str, Any]) -> File:
        updated_at = datetime.fromisoformat(answer["updated_at"]).astimezone(UTC)
        return File(answer["path"].removeprefix(self._folder()), answer["size"], answer["sha256"], updated_at)


def _even(content: bytes | str | Iterable[bytes]) -> Iterator[bytes]:
    """Yield the content in parts that a frame can hold."""
    if not isinstance(content, str | bytes | bytearray | memoryview | Iterable):
        msg = f"a file's content is bytes, text, or what yields bytes, not {type(content).__name__}"
        raise TypeError(msg)
    whole = content.encode() if isinstance(content, str) else content
    buffer = bytearray()
    for piece in [whole] if isinstance(whole, bytes | bytearray | memoryview) else whole:
        if not isinstance(piece, bytes | bytearray | memoryview):
            msg = f"a file's content is bytes or text, not {type(piece).__name__}"
            raise TypeError(msg)
        view = memoryview(piece).cast("B")
        while view:
            room = _CHUNK - len(buffer)
            buffer += view[:room]
            view = view[room:]
            if len(buffer) == _CHUNK:
                yield bytes(buffer)
                buffer.clear()
    if buffer:
        yield bytes(buffer)


def _existing(path: str) -> Asking[bool]:
    try:
        yield from _one("file_find", path)
    except Refused as error:
        if error.kind != "NotFound":
            raise
        return False
    return True


def _one(kind: str, path: str) -> Asking[Any]:
    return (yield kind, {"path": path})


def _done(asking: Asking[T]) -> T:
    """Hold a conversation, waiting for each answer."""
    with _few:
        return channel.held("files", asking)


async def _adone(asking: Asking[T]) -> T:
    """Hold a conversation without holding up the event loop."""
    async with _few_of.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)):
        return await channel.aheld("files", asking)


files = Files()
shared_files = Files(lambda: "data/")
"""Those that all runs of the organization may write: the folder `data/` of its workspace."""
artifacts = Files(lambda: f"artifacts/{run.id}/")
"""Those of the run that writes them: listed with it, and kept for a while after its end."""
