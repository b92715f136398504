"""A person authorizes a connection: where they are asked, and what their browser brings back (RFC 6749, 7636, 9207)."""

from __future__ import annotations

import secrets
from datetime import timedelta

import msgspec
import structlog

from services.oauth.answers import Granted
from services.oauth.authorization_store import AuthorizationRequest, AuthorizationStore, hashed
from services.oauth.device import Devices
from services.oauth.domain import Kept
from services.oauth.flows import FLOWS
from services.oauth.outbox import Outbox
from services.oauth.providers import Providers, Registered
from services.oauth.revocation import Revoker
from services.oauth.sealed_tokens import SealedTokens, Tokens
from services.oauth.store import KeptStore
from services.oauth.token_endpoint import TokenEndpoint
from services.oauth.token_requests import authorizing, exchanging, scope_of
from services.oauth.token_store import Publication, TokenStore
from shared.encryption import CannotOpen, Keyring
from shared.envelope import rfc3339
from shared.errors import Invalid, MillraceError, NotFound, Problem, Unavailable
from shared.questions.oauth import (
    AskedAuthorization,
    AuthorizationBegun,
    AuthorizationEnded,
    AuthorizationOpened,
    AuthorizationView,
    BeginAuthorization,
    FinishAuthorization,
    GetAskedAuthorization,
    GetAuthorization,
    OpenAuthorization,
)

# How long a person has to agree.
OPEN = timedelta(minutes=10)
# Longer than it takes to exchange what they bring back.
FINISHED = timedelta(minutes=1)

_NONE = "this address was used already, is older than ten minutes, or is that of another browser: begin again"

_log = structlog.get_logger()


class Authorizations:
    """Authorizations that are under way, each to be finished once."""

    def __init__(
        self,
        *,
        store: KeptStore,
        tokens: TokenStore,
        requests: AuthorizationStore,
        providers: Providers,
        sealed: SealedTokens,
        revoker: Revoker,
        endpoint: TokenEndpoint,
        outbox: Outbox,
        keyring: Keyring,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._requests = requests
        self._providers = providers
        self._sealed = sealed
        self._revoker = revoker
        self._endpoint = endpoint
        self._outbox = outbox
        self._keyring = keyring
        self.devices = Devices(
            store=store, requests=requests, providers=providers, endpoint=endpoint, keyring=keyring, stored=self._stored
        )

    async def begin(self, command: BeginAuthorization) -> AuthorizationBegun:
        """Return the address where a person is asked. Raises `NotFound`, `Invalid`, `Unavailable`."""
        row = await self._store.named("connection", command.org, command.name)
        if row is None or row.revoking:
            raise NotFound(f"there is no connection {command.name!r}")
        flow = FLOWS.get(str(row.spec.get("grant")))
        if flow is None or flow.person is None:
            detail = f"is not authorized by a person: it is by {row.spec.get('grant')}"
            raise Invalid(f"the connection {row.name!r} {detail}", errors=(Problem("name", detail),))
        registered = await self._providers.discovered(row.org, await self._providers.of(row))
        if flow.person == "device":
            return await self.devices.begin(command, row, registered, self._tokens.now())
        # What is missing is for who begins it, and not for the person.
        registered.address("authorize_url")
        provider = registered.provider
        state = secrets.token_urlsafe(32)
        verifier = None if provider.pkce is False else secrets.token_urlsafe(48)
        ends = self._tokens.now() + OPEN
        await self._requests.add(
            AuthorizationRequest(
                state=hashed(state),
                connection=row.id,
                org=row.org,
                redirect=command.redirect,
                origin=registered.origin,
                issuer=None if provider.issuer is None else registered.address("issuer"),
                sealed=None if verifier is None else self._keyring.seal(verifier, row.org, row.id, "verifier"),
                actor=command.actor,
                correlation=command.id,
                expires_at=ends,
            )
        )
        return AuthorizationBegun(id=hashed(state), state=state, expires_at=rfc3339(ends))

    async def org_of(self, state: str) -> str:
        """Return the organization of an authorization that waits for its person; "" where there is none."""
        request = await self._requests.asked(hashed(state))
        return "" if request is None else request.org

    async def asked(self, question: GetAskedAuthorization) -> AskedAuthorization:
        """Return what a person is asked for. Raises `NotFound` with a reason for people, `Unavailable`."""
        request = await self._requests.asked(hashed(question.state))
        row, url = await self._leading(request, question.state)
        assert request is not None  # noqa: S101 - it leads somewhere
        return AskedAuthorization(org=row.org, name=row.name, actor=request.actor, url=url)

    async def open(self, command: OpenAuthorization) -> AuthorizationOpened:
        """Return the address of the provider's page for one browser. Raises as `asked`."""
        request = await self._requests.open(hashed(command.state), command.browser)
        _, url = await self._leading(request, command.state)
        return AuthorizationOpened(url=url)

    async def _leading(self, request: AuthorizationRequest | None, state: str) -> tuple[Kept, str]:
        """Return the connection of an authorization, and the address where its person is asked."""
        if request is None:
            raise NotFound(_NONE)
        row = await self._store.of_id("connection", request.connection)
        if row is None or row.revoking:
            raise NotFound("the connection has been removed meanwhile")
        try:
            registered = await self._providers.discovered(row.org, await self._providers.of(row))
            request.check_origin(registered.origin)
            verifier = self._verifier(request, row)
        except (CannotOpen, Invalid) as error:
            raise NotFound(str(error)) from error
        provider = registered.provider
        url = authorizing(
            provider,
            registered.address("authorize_url"),
            registered.client.id,
            redirect=request.redirect,
            scope=scope_of(provider, registered.spec.scopes),
            state=state,
            verifier=verifier,
        )
        return row, url

    def _verifier(self, request: AuthorizationRequest, row: Kept) -> str | None:
        return None if request.sealed is None else self._keyring.open(request.sealed, row.org, row.id, "verifier")

    async def of(self, asked: GetAuthorization) -> AuthorizationView:
        """Return what has become of an authorization. Raises `NotFound`."""
        row = await self._store.named("connection", asked.org, asked.name)
        found = None if row is None else await self._requests.one(asked.org, row.id, asked.authorization)
        if found is None:
            raise NotFound(f"the connection {asked.name!r} has no such authorization, or it ended long ago")
        status, reason = "open" if found.status == "taken" else found.status, found.reason
        if status == "open" and found.expires_at + (FINISHED if found.status == "taken" else timedelta(0)) <= self._tokens.now():
            # Whoever took it may have died meanwhile.
            what = "nobody has allowed it" if found.status == "open" else "it has not ended"
            status, reason = "failed", f"{what} in time: begin again"
        return msgspec.convert(
            {"id": found.state, "status": status, "reason": reason, "expires_at": rfc3339(found.expires_at)}, AuthorizationView
        )

    async def finish(self, command: FinishAuthorization) -> AuthorizationEnded:
        """Exchange what came back for tokens, and return what became of it: a reason for people unless all went well.

        A `state` is used up by its first use, whatever comes of it. Raises `Unavailable` before that.
        """
        request = await self._requests.take(hashed(command.state), command.browser)
        if request is None:
            return AuthorizationEnded(reason=_NONE)
        row = await self._store.of_id("connection", request.connection)
        if row is None or row.revoking:
            return AuthorizationEnded(reason="the connection has been removed meanwhile")
        try:
            reason = await self._finished(command, request, row)
        except MillraceError as error:
            reason = error.detail
        try:
            await self._requests.end(request.state, reason)
        except Unavailable as error:
            # The person learns it all the same.
            _log.warning("authorization.not_ended", connection=row.id, reason=error.detail)
        if reason is not None:
            _log.warning("connection.not_authorized", connection=row.id, reason=reason)
        return AuthorizationEnded(org=row.org, name=row.name, reason=reason)

    async def _finished(self, command: FinishAuthorization, request: AuthorizationRequest, row: Kept) -> str | None:
        if command.error is not None:
            return "the provider says that it was not allowed" if command.error == "access_denied" else "the provider refused it"
        if command.redirect != request.redirect:
            return "it came back to another address than the one that was asked for"
        registered = await self._providers.discovered(row.org, await self._providers.of(row))
        request.check_origin(registered.origin)
        if request.issuer is not None and command.iss is not None and command.iss != request.issuer:
            return "another issuer than this provider's has answered"
        if registered.promises_iss and command.iss is None:
            return "the answer does not say which issuer's it is, as this provider's do"
        if command.sealed_code is None:
            return "the provider sent no code"
        try:
            code = self._keyring.open(command.sealed_code, command.org, command.id, "code")
            verifier = self._verifier(request, row)
        except CannotOpen as error:
            return str(error)
        outcome = await self._endpoint.token(row.org, registered, lambda call: exchanging(call, code, request.redirect, verifier))
        if not isinstance(outcome, Granted):
            return outcome.reason
        return await self._stored(row, registered, request, outcome)

    async def _stored(self, row: Kept, registered: Registered, request: AuthorizationRequest, granted: Granted) -> str | None:
        renewed = self._sealed.renewed(row, registered, granted, self._tokens.now())
        data = {
            "connection": row.id,
            "name": row.name,
            "grant": registered.spec.grant,
            "version": row.version,
            "actor": request.actor,
        }
        published = Publication(type="connection.authorized", data=data)
        try:
            stored = await self._tokens.authorize(row.id, registered.key, registered.configured, renewed, published)
            reason = "the connection has been removed meanwhile" if stored is None else None
        except Unavailable as error:
            stored, reason = None, f"what the provider gave could not be kept, and is given back ({error.detail}): begin again"
        if stored is None:
            # Nobody else has these: kept nowhere, they would live on.
            tokens = Tokens(granted.access_token, granted.refresh_token, granted.token_type)
            self._revoker.begin(row.org, registered, tokens)
            return reason
        _log.info("connection.authorized", connection=row.id, version=stored.version, actor=request.actor)
        await self._outbox.flush(row.id)
        return None
