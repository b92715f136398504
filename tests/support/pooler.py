"""A pooler in front of Postgres that gives every transaction another session than the last, as PgBouncer does from 1.21 on.

It knows prepared statements: one that a session lacks is prepared there before it is used. Everything else that a session keeps is
some other client's, and shows as an error or a wrong answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
from collections import deque
from typing import Self
from urllib.parse import parse_qs, urlsplit

_TLS, _CANCEL = 80877103, 80877102
# Authentication requests that the client answers: clear text, MD5, SASL and its continuation.
_ANSWERED = {3, 5, 10, 11}


class Session:
    """One session of the server: the statements that it knows, and for each Parse on its way its name and whose wish it was."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.known: set[bytes] = set()
        self.parsing: deque[tuple[bytes, bool]] = deque()


class Pooler:
    """The pooler. `queries`: texts that clients had. `executed` counts statements but the bounds of
    transactions, `switched` transactions in another session than the one before.
    """

    def __init__(self, url: str) -> None:
        """Stand before the server of `url`, on whose socket all databases are."""
        self._socket = f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"
        self._free: asyncio.Queue[Session] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._clients = itertools.count()
        self.queries: list[str] = []
        self.executed = 0
        self.switched = 0

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def url(self, url: str) -> str:
        """Return the address of the same database by way of the pooler."""
        parts = urlsplit(url)
        port = self._server.sockets[0].getsockname()[1]
        return f"postgresql://{parts.username}:{parts.password}@127.0.0.1:{port}{parts.path}?sslmode=disable"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                first = await _begun(reader, writer)
                if first is not None:
                    await _Client(self, next(self._clients), reader, writer).serve(await self._opened(first, reader, writer))
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _opened(self, first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Session:
        """Have the client log in to a session of its own, which then is for all."""
        session = Session(*await asyncio.open_unix_connection(self._socket))
        self._writers.append(session.writer)
        session.writer.write(first)
        while True:
            kind, body = await _message(session.reader)
            writer.write(_framed(kind, body))
            if kind == b"R" and struct.unpack("!i", body[:4])[0] in _ANSWERED:
                session.writer.write(_framed(*await _message(reader)))
            if kind in {b"E", b"X"}:
                raise ConnectionError(body)
            if kind == b"Z":
                return session

    async def take(self, last: Session | None) -> Session:
        """Return the session that rested longest, and not the last one where there is another."""
        session = await self._free.get()
        if session is last and not self._free.empty():
            self._free.put_nowait(session)
            session = self._free.get_nowait()
        return session

    def give(self, session: Session) -> None:
        """Take a session back."""
        self._free.put_nowait(session)


class _Client:
    def __init__(self, pooler: Pooler, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pooler = pooler
        self._prefix = b"c%d_" % number
        self._reader = reader
        self._writer = writer
        self._prepared: dict[bytes, bytes] = {}
        self._last: Session | None = None

    async def serve(self, session: Session) -> None:
        self._pooler.give(session)
        arriving: asyncio.Future[tuple[bytes, bytes]] = asyncio.ensure_future(_message(self._reader))
        try:
            while True:
                if (await asyncio.shield(arriving))[0] == b"X":
                    return
                session = await self._pooler.take(self._last)
                self._pooler.switched += self._last not in {None, session}
                self._last = session
                arriving = await self._transaction(session, arriving)
                self._pooler.give(session)
        finally:
            arriving.cancel()

    async def _transaction(
        self, session: Session, arriving: asyncio.Future[tuple[bytes, bytes]]
    ) -> asyncio.Future[tuple[bytes, bytes]]:
        """Pass messages both ways until the server is idle and all was answered; returns the future of the next message."""
        unanswered = 0
        answering: asyncio.Future[tuple[bytes, bytes]] = asyncio.ensure_future(_message(session.reader))
        try:
            while True:
                await asyncio.wait((arriving, answering), return_when=asyncio.FIRST_COMPLETED)
                if answering.done():
                    kind, body = answering.result()
                    if not (kind == b"1" and session.parsing.popleft()[1]):
                        self._writer.write(_framed(kind, body))
                    if kind == b"Z":
                        # What was to be prepared after an error was not.
                        session.known -= {name for name, _ in session.parsing}
                        session.parsing.clear()
                        unanswered -= 1
                        if body == b"I" and not unanswered:
                            return arriving
                    if kind == b"X":
                        raise ConnectionError("the session has ended")
                    answering = asyncio.ensure_future(_message(session.reader))
                if arriving.done():
                    kind, body = arriving.result()
                    unanswered += kind in {b"S", b"Q"}
                    session.writer.write(_framed(kind, self._rewritten(session, kind, body)))
                    if kind == b"X":
                        raise ConnectionError("the client has gone")
                    arriving = asyncio.ensure_future(_message(self._reader))
        except BaseException:
            arriving.cancel()
            raise
        finally:
            answering.cancel()

    def _rewritten(self, session: Session, kind: bytes, body: bytes) -> bytes:
        """Return a message with the names of its statements as they are in the session, where they are by then."""
        if kind == b"Q":
            text = body[:-1].decode()
            self._pooler.queries.append(text)
            self._pooler.executed += not text.upper().startswith(("BEGIN", "COMMIT", "ROLLBACK"))
        elif kind == b"P":
            name, _, rest = body.partition(b"\0")
            self._pooler.queries.append(rest.partition(b"\0")[0].decode())
            mapped = self._prefix + name if name else b""
            session.parsing.append((mapped, False))
            if name:
                self._prepared[name] = rest
                session.known.add(mapped)
            return mapped + b"\0" + rest
        elif kind == b"B":
            self._pooler.executed += 1
            portal, _, rest = body.partition(b"\0")
            name, _, rest = rest.partition(b"\0")
            return portal + b"\0" + self._there(session, name) + b"\0" + rest
        elif kind == b"D" and body[:1] == b"S":
            return b"S" + self._there(session, body[1:-1]) + b"\0"
        elif kind == b"C" and body[:1] == b"S":
            session.known.discard(self._prefix + body[1:-1])
            return b"S" + self._prefix + body[1:]
        return body

    def _there(self, session: Session, name: bytes) -> bytes:
        if not name:
            return b""
        mapped = self._prefix + name
        if mapped not in session.known:
            session.writer.write(_framed(b"P", mapped + b"\0" + self._prepared[name]))
            session.known.add(mapped)
            session.parsing.append((mapped, True))
        return mapped


async def _begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
    """Return a client's first message; None for one that wants something cancelled, which would be some other client's by now."""
    while True:
        head = await reader.readexactly(8)
        size, code = struct.unpack("!ii", head)
        if code == _CANCEL:
            return None
        if code != _TLS:
            return head + await reader.readexactly(size - 8)
        writer.write(b"N")


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Return the next message; at the end of the connection one that says so, as a client does."""
    try:
        kind = await reader.readexactly(1)
        (size,) = struct.unpack("!i", await reader.readexactly(4))
        return kind, await reader.readexactly(size - 4)
    except (asyncio.IncompleteReadError, OSError):
        return b"X", b""


def _framed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
