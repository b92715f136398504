"""The client of the broker: nats-py's own, with its hot paths replaced by lean ones; every use of its private parts is here.

nats-py keeps what it does well: the handshake, its credentials and TLS, reconnecting with all subscriptions, draining. Lean are the
ways of a message: frames are read as they come from the socket (`shared.wire`), handed to a plain function without a queue and a
task in between, and their headers are read when somebody looks at them; commands of one turn of the event loop leave in one write;
a request costs a future and a timer. Counters of messages (`client.stats`) are not kept; that of `count_error` is.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
import structlog
from nats.aio import client as stock
from nats.aio.client import PING_PROTO, Client, Srv
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.nuid import NUID
from nats.protocol.parser import PONG

from shared.addresses import servers_of, tls_of, user_of
from shared.wire import Wire

# Private parts are replaced: of this version, which pyproject.toml pins too. Any other is used as it is, and slower.
LEAN_FOR = "2.16.0"
_NO_RESPONDERS = b"NATS/1.0 503"

OnMessage = Callable[[Msg], None]

# The key in `client.stats` under which `count_error` counts.
JETSTREAM_ERRORS = "jetstream_errors"

# Time for what the server still sends to a subscription that ends.
LAST_MESSAGES = 2.0

_log = structlog.get_logger()
_nuid = NUID()
# Services are forks of a process that has imported this, and each has names of its own.
os.register_at_fork(after_in_child=_nuid.randomize_prefix)


async def connect(servers: str | list[str], **options: Any) -> Client:
    """Connect with the options of nats-py's `connect`; a URL may name several servers, and the first one files for TLS.

    Raises OSError or nats' errors.
    """
    named = [one for url in ([servers] if isinstance(servers, str) else servers) for one in servers_of(url)]
    client = _new_client(named)
    # A server of the cluster tells of others, whose addresses have no user.
    user = user_of(named[0])
    given: dict[str, Any] = {} if user is None else {"user": user[0], "password": user[1]}
    try:
        context = tls_of(named[0])
    except ValueError as error:
        raise nats.errors.Error(f"its address {error}") from error
    if context is not None:
        given["tls"] = context
    await client.connect(named, **(given | options))
    return client


def cluster_of(client: Client) -> str | None:
    """Return the name of the cluster that the server in use belongs to; None when it stands alone."""
    return client._server_info.get("cluster") or None


def count_error(client: Client) -> None:
    """Count an answer of JetStream that refused something, or did not come."""
    client.stats[JETSTREAM_ERRORS] = client.stats.get(JETSTREAM_ERRORS, 0) + 1


def _new_client(servers: list[str]) -> StrictClient:
    installed = importlib.metadata.version("nats-py")
    if installed != LEAN_FOR:
        _log.warning("client.not_lean", installed=installed, lean_for=LEAN_FOR)
        return StrictClient()
    # Over WebSockets frames come wrapped in others.
    return StrictClient() if any(server.startswith(("ws://", "wss://")) for server in servers) else LeanClient()


async def subscribe(client: Client, subject: str, on_message: OnMessage, *, queue: str = "") -> Subscription:
    """Have every message on `subject` handed to the plain function `on_message`, in order, as it arrives.

    `on_message` must not block: what takes time is for a task of its own. An exception of it goes to the client's `error_cb`.
    """
    if isinstance(client, LeanClient):
        return await client.subscribe_directly(subject, on_message, queue)

    async def take(msg: Msg) -> None:
        on_message(msg)

    return await client.subscribe(subject, queue=queue, cb=take)


async def drain(client: Client, subscription: Subscription) -> None:
    """End a subscription once what the server has sent to it was handed over, as far as the server can be reached."""
    if client.is_connected:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            async with asyncio.timeout(LAST_MESSAGES):
                await subscription.drain()  # type: ignore[no-untyped-call]


async def write(client: Client, command: bytes) -> None:
    """Write commands of the NATS client protocol (docs.nats.io, "Client Protocol") after what was published before.

    Returns when they are on their way or in a buffer of bounded size.
    """
    await client._send_command(command)


def unique_name() -> str:
    """Return a short unique name of letters and digits (a NUID), for what the server or the protocol wants named."""
    return _nuid.next().decode()


def is_given_up(client: Client) -> bool:
    """Return whether the client neither is connected nor tries to be: it is closed, or its task that connects again has ended."""
    trying = client._reconnection_task
    return client.is_closed or (not client.is_connected and (trying is None or trying.done()))


@functools.lru_cache(256)
def _header_name(raw: bytes) -> str | None:
    """Return the name of a header, None for one that nats-py does not take: it looks at each character, so once for each name."""
    try:
        name = raw.strip().decode("ascii")
    except UnicodeDecodeError:
        return None
    return None if any(character.isspace() for character in name) else name


def headers_of(head: bytes) -> dict[str, str] | None:
    """Return what a raw head holds, None when nothing; a status of the server is `Status` and `Description`."""
    first, _, lines = head.removeprefix(b"NATS/1.0").partition(b"\r\n")
    found: dict[str, str] = {}
    status, _, description = first.strip().partition(b" ")
    if status.isdigit():
        found["Status"] = status.decode()
    if description:
        found["Description"] = description.decode("utf-8", "replace")
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon and (key := _header_name(name)) is not None:
            found[key] = value.strip().decode("utf-8", "replace")
    return found or None


class LazyMsg(Msg):
    """A message whose headers are read when somebody looks at them."""

    def __init__(self, client: Client, sid: int, subject: str, reply: str, data: bytes, head: bytes) -> None:
        self._client = client
        self._sid = sid
        self.subject = subject
        self.reply = reply
        self.data = data
        self.head = head
        self._headers: dict[str, str] | None = None
        self._ackd = False
        self._metadata = None

    @property
    def headers(self) -> dict[str, str] | None:  # type: ignore[override]
        """The headers, None without any."""
        if self._headers is None and self.head:
            self._headers = headers_of(self.head)
        return self._headers


class DirectSubscription(Subscription):
    """A subscription whose messages go to a plain function."""

    def __init__(self, client: Client, sid: int, subject: str, queue: str, on_message: OnMessage) -> None:
        super().__init__(client, sid, subject, queue=queue)
        self.on_message = on_message


class StrictClient(Client):
    """nats-py's client, but for two of its ways to connect.

    To a server of `tls://` that says it does without TLS it would send its password in the clear, and a server that ends the
    connection in place of an answer it takes for one that it is connected to.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002
        if initial_connection and self._current_server is not None and self._current_server.uri.scheme == "tls":
            if not (info.get("tls_required") or info.get("tls_available")):
                raise nats.errors.SecureConnWantedError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
            if not self.is_connected:
                # As where a certificate is asked for, and there is none. Nobody else would say so, or try again.
                reason = getattr(self._transport, "error", None) or "no reason given"
                raise nats.errors.Error(f"nats: the server has ended the connection within the handshake: {reason}")
        except BaseException:
            for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
                if task is not None:
                    task.cancel()
            if self._transport is not None:
                self._transport.close()  # type: ignore[no-untyped-call]
            raise


class LeanClient(StrictClient):
    """nats-py's client with other ways for messages and commands."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._tokens = itertools.count()
        self._answers_to = ""  # the beginning of the subjects that answers are sent to
        self._is_flush_due = False
        self._behind = asyncio.Event()
        # What needs waiting for, in the order of arrival: control lines, and messages of subscriptions that are nats-py's own.
        self._aside: asyncio.Queue[tuple[Callable[..., Awaitable[None]], Any]] = asyncio.Queue()

    # -- reading --------------------------------------------------------------------------------------------------

    async def _connect_to_server(self, s: Srv) -> None:
        # An attempt that failed after the handshake has left its own, and would report the end of its connection as of the next.
        for task in (self._reading_task, self._flusher_task, self._ping_interval_task):
            if task is not None:
                task.cancel()
        self._transport: Any = Wire()
        await super()._connect_to_server(s)

    async def _read_loop(self) -> None:
        """Have frames delivered, and do what cannot be done at once; ends with the connection."""
        wire, self._aside = self._transport, asyncio.Queue()
        wire.deliver(self)
        try:
            while wire is self._transport and self.is_connected:
                function, argument = await self._aside.get()
                try:
                    await function(argument)
                except Exception as error:
                    await self._error_cb(error)
        finally:
            wire.stop()

    def message(self, sid: int, subject: bytes, reply: bytes, data: bytes, head: bytes) -> None:
        """Take a message from the wire."""
        found = self._subs.get(sid)
        if isinstance(found, DirectSubscription):
            try:
                found.on_message(LazyMsg(self, sid, subject.decode(), reply.decode(), data, head))
            except Exception as error:
                self._aside.put_nowait((self._error_cb, error))
        elif found is not None:
            self._aside.put_nowait((self._process_any, (sid, subject, reply, data, head)))

    def control(self, line: bytes) -> None:
        """Take another line from the wire."""
        self._aside.put_nowait((self._process_line, line))

    def lost(self, error: Exception) -> None:
        """Take notice from the wire that it has ended."""
        self._aside.put_nowait((self._process_lost, error))

    async def _process_any(self, message: tuple[int, bytes, bytes, bytes, bytes]) -> None:
        await self._process_msg(*message)

    async def _process_line(self, line: bytes) -> None:
        operation, _, rest = line.partition(b" ")
        match operation.rstrip():
            case b"PING":
                self._add(PONG)  # without waiting: what comes after it is read by then
            case b"PONG":
                await self._process_pong()
            case b"-ERR":
                await self._process_err(rest.strip().decode().lower())
            case b"INFO":
                await self._process_info(json.loads(rest))

    async def _process_lost(self, error: Exception) -> None:
        await self._error_cb(error)
        await self._process_op_err(error)

    # -- writing --------------------------------------------------------------------------------------------------

    def _add(self, command: bytes) -> None:
        """Have a command leave with all others of this turn of the loop."""
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._is_flush_due = False
        wire = self._transport
        if not self._pending or not self.is_connected or wire.is_closing:
            return
        if wire.is_full:
            self._behind.set()
            return
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        wire.write(b"".join(pending))

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - nats-py's signature
        self._add(cmd)
        if 0 < self._max_pending_size < self._pending_data_size:
            await self._flush_pending(force_flush=True)

    async def _flush_pending(self, force_flush: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's signature
        """Write what waits if the peer takes it; with `force_flush` wait for that while more waits than may."""
        self._flush_now()
        if not force_flush:
            return
        try:
            async with asyncio.timeout(self._flush_timeout):
                while self._pending_data_size > self._max_pending_size and self.is_connected:
                    await self._transport.drain()
                    self._flush_now()
        except TimeoutError:
            await self._error_cb(nats.errors.FlushTimeoutError())
        except OSError:
            pass  # lost, as the wire tells

    async def _flusher(self) -> None:
        """Write on when the peer has caught up, for as long as the connection lasts."""
        wire = self._transport
        while True:
            await self._behind.wait()
            self._behind.clear()
            try:
                await wire.drain()
            except OSError:
                return  # lost, as the wire tells
            self._flush_now()

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        # Behind what waits, or the answer would not tell that the broker has it all; and without waiting, since a missing answer is
        # how a broker that does not read is found out.
        self._pongs.append(future or self._loop.create_future())
        self._add(PING_PROTO)

    async def _close(self, status: int, do_cbs: bool = True) -> None:  # noqa: FBT001, FBT002 - nats-py's signature
        if self._transport is not None and self._transport.is_closing:
            # It would be written, to nobody.
            self._pending, self._pending_data_size = [], 0
        await super()._close(status, do_cbs)

    # -- publishing, asking, subscribing --------------------------------------------------------------------------

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Publish as nats-py does."""
        if self._status != Client.CONNECTED:
            await super().publish(subject, payload, reply, headers)
            return
        if len(payload) > self._max_payload:
            raise nats.errors.MaxPayloadError
        stock._validate_subject(subject)
        if reply:
            stock._validate_subject(reply)
        await self._send_command(_publishing(subject, payload, reply, headers))

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,  # noqa: FBT001, FBT002
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """Ask as nats-py does."""
        if old_style or self._status != Client.CONNECTED:
            return await super().request(subject, payload, timeout, old_style, headers)
        if self._resp_sub_prefix is None:
            await self._init_request_sub()
        token = f"{next(self._tokens):x}"
        answer: asyncio.Future[LazyMsg] = self._loop.create_future()
        self._resp_map[token] = answer
        timer = self._loop.call_later(timeout, _expire, answer)
        try:
            await self.publish(subject, payload, f"{self._answers_to}{token}", headers)
            msg = await answer
        finally:
            timer.cancel()
            self._resp_map.pop(token, None)
        if msg.head.startswith(_NO_RESPONDERS):
            raise nats.errors.NoRespondersError
        return msg

    async def _init_request_sub(self) -> None:
        self._resp_map = {}
        self._answers_to = f"{self.new_inbox()}."
        self._resp_sub_prefix = bytearray(self._answers_to.encode())
        await self.subscribe_directly(f"{self._answers_to}*", self._settle, "")

    def _settle(self, msg: Msg) -> None:
        answer = self._resp_map.get(msg.subject[len(self._answers_to) :])
        if answer is not None and not answer.done():
            answer.set_result(msg)

    async def subscribe_directly(self, subject: str, on_message: OnMessage, queue: str) -> Subscription:
        """Subscribe as `subscribe` of this module promises."""
        stock._validate_subject(subject, strict=True)
        stock._validate_queue(queue)
        if self.is_closed:
            raise nats.errors.ConnectionClosedError
        if self.is_draining:
            raise nats.errors.ConnectionDrainingError
        self._sid += 1
        made = self._subs[self._sid] = DirectSubscription(self, self._sid, subject, queue, on_message)
        await self._send_subscribe(made)
        return made


def _publishing(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> bytes:
    """Return PUB or HPUB with all that follows."""
    if headers is None:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
    lines = ["NATS/1.0\r\n"]
    for name, value in headers.items():
        if not stock._HEADER_KEY_RE.fullmatch(name):
            raise nats.errors.BadHeaderError(name)
        lines.append(f"{name}: {value.translate(stock._HEADER_VALUE_NEWLINES)}\r\n")
    lines.append("\r\n")
    head = "".join(lines).encode()
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (
        subject.encode(), reply.encode(), len(head), len(head) + len(payload), head, payload,
    )  # fmt: skip


def _expire(answer: asyncio.Future[LazyMsg]) -> None:
    if not answer.done():
        answer.set_exception(nats.errors.TimeoutError())
