"""One attempt to get a token: claimed, asked for within the claim, and stored or failed by its fence."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Literal

import msgspec
import structlog

from services.oauth.answers import Granted, Ungranted
from services.oauth.domain import Kept
from services.oauth.flows import FLOWS
from services.oauth.outbox import Outbox
from services.oauth.policy import NEAR, TokenState, after
from services.oauth.providers import Providers, Registered
from services.oauth.revocation import Revoker
from services.oauth.sealed_tokens import SealedTokens, Tokens
from services.oauth.spool import Unstored
from services.oauth.store import KeptStore
from services.oauth.storing import TokenWriter
from services.oauth.token_endpoint import TokenEndpoint, not_allowed
from services.oauth.token_requests import REQUESTS, refreshing
from services.oauth.token_store import Claimed, Publication, TokenStore, Unclaimed
from services.oauth.waiting import Gates
from shared import tasks
from shared.egress.fetching import NotAllowed
from shared.envelope import new_id
from shared.errors import Invalid, MillraceError, NotFound, Problem, Unavailable

# A claim ends so long after its holder's last beat: it goes on while the holder lives, however long an answer takes, and is free
# soon after a kill, since some providers take the old token for another minute only.
LEASE = timedelta(seconds=10)
BEAT = 3.0
# Requests to one provider at a time, unless it says otherwise.
AT_ONCE = 8
# Seconds between two looks at a claim that another replica holds.
LOOK, LONGEST_LOOK = 0.05, 0.5

# Why another token is wanted: the one before ends, an API has refused it, or a person wants one now.
Why = Literal["ended", "refused", "demanded"]

# Why there is none, without a failure: none was ever got, or one that ends too soon.
_ABSENT = ("the provider gave no token", f"the provider's tokens end within {NEAR.total_seconds():g} s, too soon for a run")
# Why a token is used for nothing though it may live.
OF_ANOTHER = "its token was given by another provider, or to another client, than it has now"

_log = structlog.get_logger()
_chance = random.SystemRandom().uniform


class NeedsAuthorization(Unavailable):
    """The grant has ended: no token is to be had until a person authorizes the connection again."""


class Attempts:
    """Attempts of this process; of each provider's client some at a time."""

    def __init__(
        self,
        *,
        store: KeptStore,
        tokens: TokenStore,
        providers: Providers,
        outbox: Outbox,
        endpoint: TokenEndpoint,
        sealed: SealedTokens,
        writer: TokenWriter,
        revoker: Revoker,
        token_of: Callable[[Kept], Awaitable[str]],
    ) -> None:
        """Get the token of another connection, which is to be exchanged, by `token_of`."""
        self._store = store
        self._tokens = tokens
        self._providers = providers
        self._outbox = outbox
        self._endpoint = endpoint
        self._sealed = sealed
        self._writer = writer
        self._revoker = revoker
        self._token_of = token_of
        self._owner = new_id()
        self._gates = Gates(2 * AT_ONCE)

    @property
    def busy(self) -> list[str]:
        """Providers with so many attempts waiting that more would only wait as well."""
        return self._gates.busy

    async def store_left(self) -> None:
        """Store tokens that an earlier process could not store."""
        for one in self._writer.left():
            before = one.claimed.before
            if await self._writer.store(one, is_late=True) is not None:
                _log.info("connection.stored_late", connection=before.connection)
                continue
            try:
                row = await self._store.of_id("connection", before.connection)
                if row is not None:
                    tokens = self._sealed.opened(msgspec.structs.replace(before, sealed=one.renewed.sealed))
                    await self._overtaken(row, await self._providers.of(row), one.claimed, tokens)
            except MillraceError as error:
                # Its provider or its key may be gone by now, which must not keep the others from being stored.
                _log.warning("connection.not_revoked_there", connection=before.connection, reason=error.detail)

    async def refused(self, row: Kept, state: TokenState, error: Invalid) -> None:
        """Have on record that a connection's settings cannot work."""
        claimed = await self._tokens.claim(
            row.id, state.provider, "", version=state.version, owner=self._owner, lease=LEASE, hurries=False
        )
        if isinstance(claimed, Claimed):
            await self._failed(row, None, claimed, Ungranted("misconfigured", error.detail, is_local=True))

    async def made(self, row: Kept, registered: Registered, version: int, why: Why) -> TokenState:
        """Return the row after an attempt to get another token than `version`. Raises as `Refresher.live`."""
        subject = await self._subject(row, registered)
        look = LOOK
        while True:
            async with self._gates.turn(registered.key, registered.provider.concurrency or AT_ONCE):
                claimed = await self._tokens.claim(
                    row.id,
                    registered.key,
                    registered.configured,
                    version=version,
                    owner=self._owner,
                    lease=LEASE,
                    hurries=why == "demanded",
                )
                if isinstance(claimed, Claimed):
                    async with self._kept(claimed):
                        return await self._try(row, registered, claimed, subject, forced=why == "refused")
            if claimed is None:
                raise NotFound(f"there is no connection {row.name!r} any more")
            if not claimed.is_held:
                return _unclaimed(row, claimed, version, self._tokens.now())
            await asyncio.sleep(look)
            look = min(2 * look, LONGEST_LOOK)

    @contextlib.asynccontextmanager
    async def _kept(self, claimed: Claimed) -> AsyncIterator[None]:
        """Keep a claim from ending while the block goes on."""
        beats = asyncio.create_task(self._beat(claimed), name="beats of a claim")
        try:
            yield
        finally:
            await tasks.end([beats])

    async def _beat(self, claimed: Claimed) -> None:
        while True:
            await asyncio.sleep(BEAT)
            # Without the database nobody else can claim it either.
            with contextlib.suppress(Unavailable):
                await self._tokens.prolong(claimed, LEASE)

    async def _subject(self, row: Kept, registered: Registered) -> str | Ungranted | None:
        """Return the token that is to be exchanged, if one is: that of another connection, got before anything is claimed."""
        name = registered.spec.exchanges
        try:
            return None if name is None else await self._exchanged(row, registered, name)
        except Invalid as error:
            return Ungranted("misconfigured", error.detail, is_local=True)
        except Unavailable as error:
            return Ungranted("transient", error.detail, is_local=True)

    async def _exchanged(self, row: Kept, registered: Registered, name: str) -> str:
        found = await self._store.usable("connection", row.org, name, by_run=False)
        if found is None:
            raise Invalid(
                f"there is no connection {name!r}, whose token is exchanged", errors=(Problem("exchanges", "is not there"),)
            )
        grant = found.spec.get("grant")
        if grant not in {*FLOWS, "token"}:
            raise Invalid(f"{name!r} is no token, which could be exchanged", errors=(Problem("exchanges", "is no token"),))
        if grant == registered.spec.grant:
            raise Invalid(f"the token of {name!r} is got by an exchange itself", errors=(Problem("exchanges", "is one itself"),))
        return await self._token_of(found)

    async def _try(
        self, row: Kept, registered: Registered, claimed: Claimed, subject: str | Ungranted | None, *, forced: bool
    ) -> TokenState:
        before = claimed.before
        tokens: Tokens | None = None
        try:
            registered = await self._providers.discovered(row.org, registered)
            if not is_own(row) and not is_of(before, registered):
                return await self._failed(row, registered, claimed, Ungranted("dead", OF_ANOTHER, is_local=True))
            tokens = self._sealed.opened(before) if before.sealed is not None and not is_own(row) else None
            outcome = await self._asked(row.org, registered, tokens, subject)
        except Invalid as error:
            outcome = Ungranted("misconfigured", error.detail)
        except NotAllowed as error:
            outcome = not_allowed(error)
        except Unavailable as error:
            # What was got before does not open: its key may come back.
            outcome = Ungranted("transient", error.detail)
        if isinstance(outcome, Ungranted):
            return await self._failed(row, registered, claimed, outcome)
        kept = None if tokens is None else tokens.refresh_token
        renewed = self._sealed.renewed(row, registered, outcome, self._tokens.now(), kept, renews=is_own(row), forced=forced)
        state = await self._writer.store(Unstored(row.name, claimed, renewed, registered.spec.provider or ""))
        if state is None:
            got = Tokens(outcome.access_token, outcome.refresh_token or kept, outcome.token_type)
            return await self._overtaken(row, registered, claimed, got)
        if before.failure == "misconfigured":
            await self._tokens.alarm(registered.key, None)
        _log.info("connection.refreshed", connection=row.id, version=state.version, attempt=claimed.fence)
        await self._outbox.flush(row.id)
        return state

    async def _asked(
        self, org: str, registered: Registered, tokens: Tokens | None, subject: str | Ungranted | None
    ) -> Granted | Ungranted:
        spec = registered.spec
        if isinstance(subject, Ungranted):
            return subject
        if (request := REQUESTS.get(spec.grant)) is not None:
            return await self._endpoint.token(org, registered, lambda call: request(call, spec, subject))
        if tokens is None:
            return Ungranted("dead", "it was never authorized", is_local=True)
        if (token := tokens.refresh_token) is None:
            return Ungranted("dead", "the token has ended, and the provider gave none to refresh it with", is_local=True)
        return await self._endpoint.token(org, registered, lambda call: refreshing(call, token), at=("refresh_url", "token_url"))

    async def _overtaken(self, row: Kept, registered: Registered, claimed: Claimed, got: Tokens) -> TokenState:
        """Return what another attempt has stored meanwhile; tokens of a connection or a client that is gone are revoked."""
        state = (await self._tokens.of([row.id])).get(row.id)
        if state is None or state.sealed is None or state.provider != registered.key or not is_of(state, registered):
            # With the same client they are no strangers, also after a person has authorized it anew: to many providers that is
            # one grant, and revoking what is left of before would end what has just been got.
            self._revoker.begin(row.org, registered, got)
        if state is None:
            raise NotFound(f"there is no connection {row.name!r} any more")
        _log.warning("connection.overtaken", connection=row.id, attempt=claimed.fence)
        return state

    async def _failed(self, row: Kept, registered: Registered | None, claimed: Claimed, refused: Ungranted) -> TokenState:
        before = claimed.before
        if refused.failure == "dead" and is_own(row):
            # No person has granted anything that could have ended.
            refused = msgspec.structs.replace(refused, failure="misconfigured")
        outcome = after(before, refused, self._tokens.now(), _chance)
        published = failed(row, refused, outcome.status) if outcome.is_news else None
        state = await self._tokens.fail(claimed, outcome, refused.failure, refused.reason, published)
        if state is None:
            # The loser of a race: a provider that rotates refuses it, and what the winner has stored is alive.
            state = (await self._tokens.of([row.id])).get(row.id)
            if state is None:
                raise NotFound(f"there is no connection {row.name!r} any more")
            return state
        _log.warning(
            "connection.refresh_failed", connection=row.id, failure=refused.failure, reason=refused.reason, status=state.status
        )
        if registered is not None and outcome.closed_until is not None:
            await self._tokens.close_gate(registered.key, outcome.closed_until)
        if registered is not None and refused.is_of_client and await self._tokens.alarm(registered.key, refused.reason):
            _log.error("provider.misconfigured", provider=registered.spec.provider, org=row.org, reason=refused.reason)
        await self._outbox.flush(row.id)
        return state


def failed(row: Kept, refused: Ungranted, status: str) -> Publication:
    """Return the message of a failure, which is another one where the grant has ended."""
    about = {"connection": row.id, "name": row.name, "provider": row.spec.get("provider"), "reason": refused.reason}
    if status == "needs_reauthorization":
        return Publication(type="connection.needs_reauthorization", data=about)
    return Publication(type="connection.refresh_failed", data=about | {"failure": refused.failure, "status": status})


def is_of(state: TokenState, registered: Registered) -> bool:
    """Return whether a token was got by the client and the addresses that it would be sent to now."""
    return state.origin is None or state.origin == registered.origin


def is_own(row: Kept) -> bool:
    """Return whether the client gets tokens by itself, without anybody's grant."""
    return row.spec.get("grant") in REQUESTS


def _unclaimed(row: Kept, found: Unclaimed, version: int, now: datetime) -> TokenState:
    if found.state.version != version or found.state.is_live(now):
        return found.state
    raise none_of(row, found.state, now, found)


def none_of(row: Kept, state: TokenState, now: datetime, found: Unclaimed | None = None) -> Unavailable:
    """Return the error of a connection without a live token."""
    reason = state.reason or (None if found is None else found.reason) or _ABSENT[state.sealed is not None]
    if state.status == "needs_reauthorization":
        return NeedsAuthorization(f"connection {row.name!r} needs to be authorized again: {reason}")
    until = state.not_before if found is None or found.until is None else found.until
    wait = 5.0 if until is None else max(1.0, (until - now).total_seconds())
    return Unavailable(f"connection {row.name!r} has no live token: {reason}", retry_after=wait)
