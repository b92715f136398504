"""Gets tokens from providers: once for all who ask, fenced across replicas, and never within a transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from services.oauth.attempts import OF_ANOTHER, Attempts, NeedsAuthorization, Why, is_of, is_own, none_of
from services.oauth.domain import Kept
from services.oauth.flows import FLOWS
from services.oauth.outbox import Outbox
from services.oauth.policy import REPORTED, TokenState
from services.oauth.providers import Providers, Registered
from services.oauth.revocation import Revoker
from services.oauth.sealed_tokens import SealedTokens, Tokens
from services.oauth.store import KeptStore
from services.oauth.storing import TokenWriter
from services.oauth.token_endpoint import TokenEndpoint
from services.oauth.token_store import TokenStore
from services.oauth.vault import Vault
from services.oauth.waiting import WaitingPlaces
from shared import tasks
from shared.errors import Conflict, Invalid, MillraceError, NotFound, Problem, Unavailable

# Seconds that a question waits for a token; the attempt goes on without it.
WAIT = 20.0
# Questions of one organization for one provider that wait at a time, and of all: most of what is answered at a time stays free.
WAITING_EACH, WAITING = 12, 32
# Seconds that attempts have to end when the service does.
DRAIN = 4.0

_log = structlog.get_logger()


class Live(msgspec.Struct, frozen=True):
    """A live token, its row, and the provider that gave it; why it is there yet though it was reported, None where it was not."""

    tokens: Tokens
    state: TokenState
    registered: Registered
    unreplaced: str | None = None
    # Whether it is got by the settings of now; else the next who asks has another one got.
    is_settled: bool = True


class Refresher:
    """The tokens of connections, kept fresh. Its creator must `close` it."""

    def __init__(
        self,
        *,
        store: KeptStore,
        tokens: TokenStore,
        providers: Providers,
        outbox: Outbox,
        vault: Vault,
        endpoint: TokenEndpoint,
        sealed: SealedTokens,
        writer: TokenWriter,
        revoker: Revoker,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._providers = providers
        self._sealed = sealed
        self._revoker = revoker
        self._attempts = Attempts(
            store=store,
            tokens=tokens,
            providers=providers,
            outbox=outbox,
            endpoint=endpoint,
            sealed=sealed,
            writer=writer,
            revoker=revoker,
            token_of=self._token_of,
        )
        self._vault = vault
        self._flights: dict[tuple[str, str], asyncio.Task[TokenState]] = {}
        self._places = WaitingPlaces(WAITING, WAITING_EACH)

    async def close(self) -> None:
        """Let attempts end, which would cost their tokens, and cancel those that do not in time."""
        flights: list[asyncio.Task[Any]] = [*self._flights.values(), *self._revoker.under_way]
        if flights:
            await asyncio.wait(flights, timeout=DRAIN)
        await tasks.end(flights)

    @property
    def busy(self) -> list[str]:
        """Providers with so many attempts waiting that more would only wait as well."""
        return self._attempts.busy

    async def live(self, row: Kept, *, rejected: int | None = None) -> Live:
        """Return a connection's token, refreshed if it has ended, or if it is the one with the number `rejected`.

        Raises `NeedsAuthorization`, `Unavailable` with the reason, `Invalid` for settings that cannot work.
        """
        registered = await self._providers.of(row)
        state = (await self._tokens.of([row.id])).get(row.id)
        if state is not None and state.is_usable(self._tokens.now()):
            if not is_own(row) and not is_of(state, registered):
                raise NeedsAuthorization(f"connection {row.name!r} needs to be authorized again: {OF_ANOTHER}")
            changed = is_own(row) and registered.configured != state.configured
            refused = rejected == state.version and state.is_replaceable(self._tokens.now())
            if changed or refused:
                state = await self._newest(row, registered, state.version, "refused" if refused else "ended")
        else:
            if state is not None and state.status == "needs_reauthorization":
                raise NeedsAuthorization(f"connection {row.name!r} needs to be authorized again: {state.reason}")
            if not is_own(row) and (state is None or state.sealed is None):
                raise NeedsAuthorization(f"connection {row.name!r} has not been authorized yet")
            state = await self._newest(row, registered, 0 if state is None else state.version, "ended")
        if not state.is_usable(now := self._tokens.now()):
            raise none_of(row, state, now)
        if not is_of(state, registered):
            raise Unavailable(f"connection {row.name!r} was changed meanwhile", retry_after=1)
        unreplaced = None if rejected != state.version else await self._unreplaced(state)
        is_settled = not is_own(row) or state.configured == registered.configured
        return Live(self._sealed.opened(state), state, registered, unreplaced, is_settled)

    async def _unreplaced(self, state: TokenState) -> str:
        """Return why there is no newer token than one that was reported, and have the report on record."""
        if state.reported_at is None:
            await self._tokens.report(state.connection, state.version)
        if not state.is_replaceable(self._tokens.now()):
            return f"it was got for such a report itself, less than {REPORTED.total_seconds():g} s ago"
        return state.reason or "its provider is not asked again yet"

    async def renew(self, row: Kept) -> None:
        """Get another token now, though the one that is there may live.

        Raises `Conflict` where only a person can get one, by an authorization, `Invalid`, `Unavailable` with the reason. What lives
        and cannot be refreshed lives on.
        """
        if row.spec.get("grant") not in FLOWS:
            detail = "is no token of a provider, which could give another one"
            raise Invalid(f"connection {row.name!r} {detail}", errors=(Problem("name", detail),))
        state = (await self._tokens.of([row.id])).get(row.id)
        if not is_own(row) and (state is None or state.sealed is None):
            raise Conflict(f"connection {row.name!r} has not been authorized yet")
        is_live = state is not None and not is_own(row) and state.is_usable(self._tokens.now())
        if state is not None and is_live and self._sealed.opened(state).refresh_token is None:
            detail = "the provider gave no token to refresh it with: authorize it again"
            raise Conflict(f"connection {row.name!r} cannot be refreshed, {detail}")
        version = 0 if state is None else state.version
        after_it = await self._waited(row, await self._providers.of(row), version, "demanded")
        if after_it.version == version:
            why = none_of(row, after_it, self._tokens.now())
            raise Conflict(why.detail) if isinstance(why, NeedsAuthorization) else why

    async def ending(self, row: Kept) -> Callable[[], None]:
        """Return what to call when a row has been deleted: the provider is asked to revoke its tokens, which nobody waits for."""
        if row.noun != "connection" or row.spec.get("grant") not in FLOWS:
            return _nothing
        state = (await self._tokens.of([row.id])).get(row.id)
        try:
            registered = await self._providers.discovered(row.org, await self._providers.of(row))
            tokens = None
            if state is not None and state.sealed is not None and is_of(state, registered):
                tokens = self._sealed.opened(state)
        except (Invalid, Unavailable) as error:
            _log.warning("connection.not_revoked_there", connection=row.id, reason=error.detail)
            return _nothing
        if tokens is None:
            return _nothing

        return lambda: self._revoker.begin(row.org, registered, tokens)

    async def changed(self, before: Kept, row: Kept) -> None:
        """Forget the token of a connection that has another grant, client or provider now; who gave it is asked to revoke it."""
        if await self._origin(row) == await self._origin(before):
            return
        ended = await self.ending(before)
        if await self._tokens.forget(row.id):
            _log.info("connection.token_forgotten", connection=row.id)
            ended()

    async def _origin(self, row: Kept) -> str | None:
        if row.spec.get("grant") not in FLOWS:
            return None
        try:
            return (await self._providers.of(row)).origin
        except (Invalid, Unavailable):
            return None

    async def due(self, id_: str) -> None:
        """Refresh a connection whose time has come; what hinders it is on record."""
        row = await self._store.of_id("connection", id_)
        if row is None or row.revoking:
            return
        if row.spec.get("grant") not in FLOWS:
            # It was changed by who ended before that was done.
            await self._tokens.forget(id_)
            return
        try:
            state = (await self._tokens.of([id_])).get(id_)
            if state is None:
                return
            try:
                registered = await self._providers.of(row)
            except Invalid as error:
                await self._attempts.refused(row, state, error)
                return
            await asyncio.shield(self._flight(row, registered, state.version, "ended"))
        except MillraceError as error:
            _log.warning("connection.not_refreshed", connection=id_, reason=error.detail)

    async def store_left(self) -> None:
        """Store tokens that an earlier process could not store."""
        await self._attempts.store_left()

    async def _token_of(self, row: Kept) -> str:
        """Return the token of a connection, whatever it is."""
        if row.spec.get("grant") in FLOWS:
            return (await self.live(row)).tokens.access_token
        return self._vault.opened(row)

    async def _newest(self, row: Kept, registered: Registered, version: int, why: Why) -> TokenState:
        """Return the row as it is after an attempt: another replica may have replaced or forgotten since what that has stored."""
        await self._waited(row, registered, version, why)
        state = (await self._tokens.of([row.id])).get(row.id)
        if state is None:
            raise NotFound(f"there is no connection {row.name!r} any more")
        return state

    async def _waited(self, row: Kept, registered: Registered, version: int, why: Why) -> TokenState:
        """Return the row after an attempt, for which so many may wait that others are answered all the same."""
        with self._places.one(row.org, registered.key):
            try:
                async with asyncio.timeout(WAIT):
                    return await asyncio.shield(self._flight(row, registered, version, why))
            except TimeoutError as error:
                raise Unavailable(f"connection {row.name!r} is being refreshed, which takes long", retry_after=2) from error

    def _flight(self, row: Kept, registered: Registered, version: int, why: Why) -> asyncio.Task[TokenState]:
        """Return the attempt that is under way for a connection, begun if there is none."""
        # What is under way for another grant or provider is of no use for who asks now.
        place = row.id, registered.origin
        flight = self._flights.get(place)
        if flight is None:
            flight = asyncio.create_task(self._attempts.made(row, registered, version, why))
            self._flights[place] = flight

            def landed(_: asyncio.Task[TokenState]) -> None:
                self._flights.pop(place, None)
                if not flight.cancelled():
                    flight.exception()  # whoever waited has it, and nobody has to have waited

            flight.add_done_callback(landed)
        return flight


def _nothing() -> None:
    """Do nothing."""
