"""The connections of subscribers: answers the broker for new ones, and cuts those whose key is over.

The broker knows which there are, and is asked: so those that another replica, or an earlier process, has admitted are cut as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from services.logs.subscribers import admission
from services.logs.subscribers.admission import Stranger
from services.logs.subscribers.grants import Grant, Grants
from shared.bounded import is_room
from shared.bus import Bus
from shared.client import subscribe
from shared.envelope import new_id
from shared.errors import MillraceError, Unauthenticated
from shared.messages import Audited
from shared.nkeys import Issuer
from shared.organizations import PLATFORM
from shared.questions.key_use import NoteKeyUse
from shared.resources.key import digest_of
from shared.subscribers import ADMITTING, CONNECTIONS, KICK
from shared.trail import Trail

# Subscribers at a time, of one organization and in all. For a slow one the broker holds 64 MiB back at most, for ten seconds.
EACH, MOST = 50, 200
# Seconds between two looks, and in which all servers of the broker have answered.
LOOKS, GATHERED = 5.0, 0.25
# Seconds between two times that the gateway hears which keys were used: `last_used_at` is right to a minute or two.
TELLS = 60.0
# Questions that wait here; a client whose question finds no room comes again.
WAITING = 200
# Seconds after which an admitted connection is there, or never will be.
SETTLED = 1.0
# Subscribers of a server that are told at once: more than there are.
PAGE = 4096

_log = structlog.get_logger()

At = tuple[str, int]


class _Connection(msgspec.Struct):
    cid: int
    authorized_user: str = ""


class _Listed(msgspec.Struct):
    connections: list[_Connection] = []


class _Server(msgspec.Struct):
    id: str


class _Answer(msgspec.Struct):
    server: _Server
    data: _Listed


class Subscribers:
    """Admits subscribers by their grants, and sees that none stays whose grant is over."""

    def __init__(
        self, client: Client, grants: Grants, issuer: Issuer, trail: Trail, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._trail = trail
        self._grants = grants
        self._issuer = issuer
        self._clock = clock
        self._questions: asyncio.Queue[Msg] = asyncio.Queue(WAITING)
        # The name of each connection: as the broker has told at the last look, and of those that were admitted of late, and when.
        self._seen: dict[At, str] = {}
        self._admitted: dict[At, tuple[str, float]] = {}
        self._refused = 0
        # By id of the key: when somebody was there by it, in epoch seconds, while the gateway has not heard of it.
        self._used: dict[str, float] = {}

    def fact(self) -> dict[str, Any]:
        """Return how many there are, and how many were refused."""
        return {"connections": len(self._there()), "refused": self._refused}

    async def start(self) -> None:
        """Answer the broker from now on; replicas share its questions."""
        await subscribe(self._client, ADMITTING, self._arrived, queue="logs")

    async def admit(self) -> None:
        """Answer what the broker asks, for ever."""
        while True:
            msg = await self._questions.get()
            try:
                answer = self._decided(admission.read(msg.data))
            except (ValueError, msgspec.MsgspecError) as error:
                _log.warning("subscriber.unreadable", reason=str(error))
                continue
            with contextlib.suppress(nats.errors.Error):
                await self._client.publish(msg.reply, answer)

    async def watch(self) -> None:
        """Look for ever, and as soon as a grant has come or gone, for connections that do not count any more, and cut those."""
        await self._grants.complete()
        while True:
            self._grants.changed.clear()
            # Those that are known are cut before the broker is asked for others.
            await self._cut(self._there())
            with contextlib.suppress(nats.errors.Error):
                await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOKS):
                    await self._grants.changed.wait()

    async def tell_use(self, bus: Bus) -> None:
        """Tell the gateway now and then, for ever, which keys were used; where it is away it hears of them with the next ones."""
        while True:
            await asyncio.sleep(TELLS)
            used, self._used = self._used, {}
            if not used:
                continue
            try:
                await bus.ask(NoteKeyUse(id=new_id(), org=PLATFORM, actor="logs", used=used))
            except MillraceError as error:
                self._used = used | self._used
                _log.warning("subscriber.use_untold", reason=error.detail)

    def _arrived(self, msg: Msg) -> None:
        with contextlib.suppress(asyncio.QueueFull):
            self._questions.put_nowait(msg)

    def _decided(self, asked: Stranger) -> bytes:
        now = self._clock()
        grant = self._grants.by_digest(digest_of(asked.key))
        reason = None
        if grant is None and not self._grants.is_complete:
            reason = "not all keys are known yet"
        elif grant is None or not grant.counts(now):
            reason = "unknown key" if grant is None else "expired key"
            self._denied(grant, asked.client_info.host, reason)
        else:
            taken = Counter(name.partition("/")[0] for name in self._there().values())
            if not is_room(taken[grant.org], taken.total(), EACH, MOST):
                # Some may have gone since the last look.
                self._grants.changed.set()
                reason = f"{taken.total()} connections, {taken[grant.org]} of {grant.org}, are all that there is room for"
        if grant is None or reason is not None:
            self._refused += 1
            named = {} if grant is None else {"key": grant.name, "of": grant.org}
            _log.warning("subscriber.refused", reason=reason, remote=asked.client_info.host, **named)
            return admission.refused(asked, reason or "", self._issuer, int(now))
        self._admitted[asked.at] = grant.connection, now
        self._used[grant.key] = now
        _log.info("subscriber.admitted", key=grant.name, of=grant.org, remote=asked.client_info.host)
        return admission.admitted(asked, grant, self._issuer, int(now))

    def _denied(self, grant: Grant | None, remote: str, reason: str) -> None:
        """Record a denied attempt in the background; many of one kind are one record, with their number."""
        org = PLATFORM if grant is None else grant.org
        audited = Audited(
            category="access",
            verb="denied",
            actor="unknown" if grant is None else f"key:{grant.name}" if org != PLATFORM else f"key:{PLATFORM}/{grant.name}",
            target=remote,
            outcome=Unauthenticated.kind,
            remote=remote,
            detail={"protocol": "nats", "reason": reason.replace(" ", "_")},
        )
        self._trail.refused(audited, org=org)

    def _there(self) -> dict[At, str]:
        return {at: name for at, (name, _) in self._admitted.items()} | self._seen

    async def _look(self) -> None:
        began, found = self._clock(), {}

        def told(msg: Msg) -> None:
            # Without an account of subscribers the broker says that nobody answers.
            with contextlib.suppress(msgspec.MsgspecError):
                answer = msgspec.json.decode(msg.data, type=_Answer)
                found.update({(answer.server.id, one.cid): one.authorized_user for one in answer.data.connections})

        inbox = self._client.new_inbox()
        subscription = await subscribe(self._client, inbox, told)
        try:
            await self._client.publish(CONNECTIONS, msgspec.json.encode({"auth": True, "limit": PAGE}), reply=inbox)
            await asyncio.sleep(GATHERED)
        finally:
            await subscription.unsubscribe()
        self._seen = found
        self._admitted = {at: one for at, one in self._admitted.items() if at not in found and one[1] > began - SETTLED}
        await self._cut(found)

    async def _cut(self, there: dict[At, str]) -> None:
        now = self._clock()
        for (server, number), name in list(there.items()):
            grant = self._grants.by_connection(name)
            if grant is not None and grant.counts(now):
                self._used[grant.key] = now
                continue
            with contextlib.suppress(nats.errors.Error):
                # The broker does nothing for one who cannot be answered.
                asked = msgspec.json.encode({"cid": number})
                await self._client.publish(KICK.format(server), asked, reply=self._client.new_inbox())
            self._seen.pop((server, number), None)
            _log.info("subscriber.cut", of=name.partition("/")[0])
