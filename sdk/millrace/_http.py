"""`connections.client(name)`: requests to an API with a connection's credentials."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, Unpack

from millrace import _run, _waiting
from millrace._connections import Connection, connection_of
from millrace._log import log
from millrace._outgoing import Options, Outgoing, outgoing, redirected, secrets_of, with_credentials
from millrace._reply import Reply, masked
from millrace._runtime import channel
from millrace.errors import RequestFailed

P = ParamSpec("P")

_ENDING = timedelta(seconds=30)
"""Before a token's end, within which it is asked for anew: the platform replaces it then."""
_TRIES = 6
"""Of one request that is answered 429 or 503."""
_HOPS = 5
"""Redirects that are followed."""

answered: Callable[[Outgoing], Reply] | None = None
"""Set where nothing is to be sent, as in an author's tests: called with each request."""


class Client:
    """Sends requests with a connection's credentials, from any thread or task; made by `connections.client`.

    Each method waits for the `Reply`, whatever its status; inside a coroutine use its counterpart with an `a`. Raises
    `RequestFailed` where no answer comes, `Refused` where the platform gives no credentials, `NotInRun` outside a run, TypeError or
    ValueError for a request that cannot be sent.

    - A path is below the connection's `base_url`. A whole address must have its scheme, host and port.
    - Answered 401, it reports the token, and sends the request once more where there is a newer one. Where there is none, a line
      of the run, `connection.not_renewed`, says why.
    - Answered 429, or 503 with `Retry-After`, it waits and sends the request again, as long as all waits of one call together are
      within `patience` seconds. Each wait is a line of the run, `connection.waits`.
    - `GET` and `HEAD` follow up to five redirects: to another scheme, host or port without credentials, never from https to http.
    """

    def __init__(self, name: str, *, timeout: float, patience: float, cafile: str | None) -> None:
        self._name = name
        self._timeout = timeout
        self._patience = patience
        self._cafile = cafile
        self._lock = threading.Lock()
        self._job: object = None
        self._held: Connection | None = None
        self._asking: tuple[int | None, Future[Any]] | None = None
        self._unreplaced: int | None = None

    def __repr__(self) -> str:
        """Show the name of the connection, and no credentials."""
        return f"Client({self._name!r})"

    def request(self, method: str, url: str, /, **options: Unpack[Options]) -> Reply:
        """Send a request and wait for its answer. For the options see `Options`; below 64 MiB are answered."""
        told, conversation = None, self._conversation(method, url, options)
        while True:
            try:
                told = conversation.send(told).now()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    async def arequest(self, method: str, url: str, /, **options: Unpack[Options]) -> Reply:
        """Do the same without holding up the event loop. A request that is given up goes on in its thread, up to its time-out."""
        told, conversation = None, self._conversation(method, url, options)
        while True:
            try:
                told = await conversation.send(told).later()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]

    def get(self, url: str, /, **options: Unpack[Options]) -> Reply:
        """Send a `GET`."""
        return self.request("GET", url, **options)

    def post(self, url: str, /, **options: Unpack[Options]) -> Reply:
        """Send a `POST`."""
        return self.request("POST", url, **options)

    def put(self, url: str, /, **options: Unpack[Options]) -> Reply:
        """Send a `PUT`."""
        return self.request("PUT", url, **options)

    def patch(self, url: str, /, **options: Unpack[Options]) -> Reply:
        """Send a `PATCH`."""
        return self.request("PATCH", url, **options)

    def delete(self, url: str, /, **options: Unpack[Options]) -> Reply:
        """Send a `DELETE`."""
        return self.request("DELETE", url, **options)

    def aget(self, url: str, /, **options: Unpack[Options]) -> Coroutine[Any, Any, Reply]:
        """Send a `GET` without holding up the event loop."""
        return self.arequest("GET", url, **options)

    def apost(self, url: str, /, **options: Unpack[Options]) -> Coroutine[Any, Any, Reply]:
        """Send a `POST` without holding up the event loop."""
        return self.arequest("POST", url, **options)

    def aput(self, url: str, /, **options: Unpack[Options]) -> Coroutine[Any, Any, Reply]:
        """Send a `PUT` without holding up the event loop."""
        return self.arequest("PUT", url, **options)

    def apatch(self, url: str, /, **options: Unpack[Options]) -> Coroutine[Any, Any, Reply]:
        """Send a `PATCH` without holding up the event loop."""
        return self.arequest("PATCH", url, **options)

    def adelete(self, url: str, /, **options: Unpack[Options]) -> Coroutine[Any, Any, Reply]:
        """Send a `DELETE` without holding up the event loop."""
        return self.arequest("DELETE", url, **options)

    def _conversation(self, method: str, url: str, options: Options) -> "Generator[_Act, Any, Reply]":
        """Yield what is to be done, one after the other, each to be sent its outcome; return the reply."""
        connection: Connection = yield _Ask(self)
        request = outgoing(self._name, method, url, options, connection, self._timeout)
        waited, tries, hops, is_renewed = 0.0, 1, 0, False
        while True:
            reply: Reply = yield _Send(request, connection, self._cafile)
            if reply.status == 401 and not is_renewed and not request.is_elsewhere:
                is_renewed = True
                newer: Connection = yield _Ask(self, connection)
                if newer.version != connection.version:
                    log.debug("connection.renewed", connection=self._name)
                    connection = newer
                    continue
                self._tell(newer)
            elif (pause := _pause(reply, tries)) is not None and waited + pause <= self._patience:
                log.info("connection.waits", connection=self._name, status=reply.status, seconds=round(pause, 3))
                waited, tries = waited + pause, tries + 1
                yield _Pause(pause)
                continue
            elif reply.status in (301, 302, 303, 307, 308) and hops < _HOPS and "location" in reply.headers:
                further = redirected(request, reply.headers["location"])
                if further is not None:
                    request, hops = further, hops + 1
                    continue
            return reply

    def _tell(self, kept: Connection) -> None:
        """Log once for each token that was reported why there is none newer."""
        with self._lock:
            is_known, self._unreplaced = self._unreplaced == kept.version, kept.version
        if kept.unreplaced is not None and not is_known:
            reason = f"the token was reported; no newer one was got, because {kept.unreplaced}"
            log.warning("connection.not_renewed", connection=self._name, reason=reason)

    def credentials(self, rejected: Connection | None) -> "Connection | Future[Any]":
        """Answer what is held unless it ends or is the rejected one; else the question for another one, which all share."""
        with self._lock:
            if self._job is not _run.job:  # what was given to another run of this process is nothing to this one
                self._job, self._held, self._asking, self._unreplaced = _run.job, None, None, None
            held, version = self._held, None if rejected is None else rejected.version
            if held is not None and held.version != version and not _is_ending(held):
                return held
            if self._asking is None or self._asking[0] != version or self._asking[1].done():
                question = channel.asking("connections", "connection", name=self._name, rejected=version)
                self._asking = version, question
            return self._asking[1]

    def given(self, question: "Future[Any]", answer: Any) -> Connection:
        """Answer the connection of an answer, and hold it for later requests."""
        connection = connection_of(self._name, answer)
        with self._lock:
            if self._asking is not None and self._asking[1] is question:
                self._held, self._asking = connection, None
        return connection


class _Act:
    """One thing that a conversation wants done."""

    def now(self) -> Any:
        """Do it, waiting."""
        raise NotImplementedError

    async def later(self) -> Any:
        """Do it without holding up the event loop."""
        return await asyncio.to_thread(self.now)


@dataclass(frozen=True)
class _Ask(_Act):
    client: Client
    rejected: Connection | None = None

    def now(self) -> Connection:
        found = self.client.credentials(self.rejected)
        return found if isinstance(found, Connection) else self.client.given(found, found.result())

    async def later(self) -> Connection:
        found = self.client.credentials(self.rejected)
        # Shielded: others wait for the same answer.
        return (
            found if isinstance(found, Connection) else self.client.given(found, await asyncio.shield(asyncio.wrap_future(found)))
        )


@dataclass(frozen=True)
class _Send(_Act):
    request: Outgoing
    connection: Connection
    cafile: str | None

    def now(self) -> Reply:
        request, secrets = self.request, secrets_of(self.connection)
        if answered is not None:
            reply = answered(request)
            return replace(reply, method=request.method, url=request.url, secrets=secrets)
        from millrace._runtime import exchange  # see there

        url, headers = with_credentials(request, self.connection)
        try:
            status, reason, fields, content = exchange.exchanged(
                request.method, url, headers, request.body, timeout=request.timeout, cafile=self.cafile
            )
        except exchange.Unanswered as error:
            raise RequestFailed(masked(f"{request.method} {request.url}: {error}", secrets)) from None
        named = {name.lower(): value for name, value in fields}
        return Reply(status, content, named, reason, request.method, request.url, secrets)

    async def later(self) -> Reply:
        return self.now() if answered is not None else await asyncio.to_thread(self.now)


@dataclass(frozen=True)
class _Pause(_Act):
    seconds: float

    def now(self) -> None:
        if _waiting.skipped is not None:
            _waiting.skipped(self.seconds)
        else:
            time.sleep(self.seconds)

    async def later(self) -> None:
        if _waiting.skipped is not None:
            _waiting.skipped(self.seconds)
        else:
            await asyncio.sleep(self.seconds)


def _pause(reply: Reply, tries: int) -> float | None:
    """Answer how long an API wants to be left alone, or None where that is not what it answers."""
    if reply.status not in (429, 503) or tries >= _TRIES:
        return None
    if reply.retry_after is None and reply.status == 429:
        return 2.0 ** (tries - 1) * random.uniform(0.75, 1.25)  # noqa: S311 - so that many do not come back at once
    return reply.retry_after


def _is_ending(connection: Connection) -> bool:
    return connection.expires_at is not None and connection.expires_at - datetime.now(UTC) <= _ENDING
