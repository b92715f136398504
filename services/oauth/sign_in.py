"""People sign in by OpenID Connect: where their browser is led, and whom what it brings back vouches for (decision 0072)."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import structlog

from services.oauth.answers import LONGEST_TOKEN, Granted
from services.oauth.authorization_store import AuthorizationRequest, AuthorizationStore, hashed
from services.oauth.discovery import Discovered, Discovery
from services.oauth.domain import Kept
from services.oauth.id_tokens import (
    Expected,
    check_algorithm,
    check_claims,
    check_email,
    email_of,
    hashed_nonce,
    lacking,
    roles_of,
    text_of,
)
from services.oauth.providers import Providers, Registered, destination_of
from services.oauth.store import KeptStore
from services.oauth.token_endpoint import TokenEndpoint
from services.oauth.token_requests import OAuthClient, authorizing, exchanging
from services.oauth.vault import Vault
from shared.egress.fetched import FetchedDocuments
from shared.encryption import CannotOpen, Keyring
from shared.envelope import utc_now
from shared.errors import Invalid, MillraceError, NotFound, PermissionDenied, Problem, Unauthenticated, Unavailable
from shared.organizations import PLATFORM
from shared.questions.sign_in import (
    BeginSignIn,
    FinishSignIn,
    GetSignOut,
    Person,
    SignInBegun,
    SignInEnded,
    SignInProvider,
    SignOut,
)
from shared.resources.connection import Connection
from shared.resources.declaration import KINDS
from shared.resources.identity_provider import IdentityProvider
from shared.resources.provider import Provider
from shared.values import decode_sent
from shared.web_tokens import load_keys, parted

# How long a person has at the provider's page.
OPEN = timedelta(minutes=10)
# Providers that are looked at.
MOST = 1000
# Failures of a token request that may be none the next time.
_SOON = {"transient", "throttled", "ambiguous", "malformed"}

_UNKNOWN = "this sign-in was used already, is older than ten minutes, or was begun in another browser: begin again"

_log = structlog.get_logger()


class _Begun(msgspec.Struct, frozen=True):
    """What is sealed of a sign-in that is under way; `nonce` is its hash."""

    verifier: str
    nonce: str
    return_to: str
    user: str | None


class SignIns:
    """Sign-ins that are under way, each to be finished once, by the browser that has begun it."""

    def __init__(
        self,
        *,
        store: KeptStore,
        requests: AuthorizationStore,
        providers: Providers,
        discovery: Discovery,
        documents: FetchedDocuments,
        vault: Vault,
        endpoint: TokenEndpoint,
        keyring: Keyring,
    ) -> None:
        self._store = store
        self._requests = requests
        self._providers = providers
        self._discovery = discovery
        self._documents = documents.of(PLATFORM)
        self._vault = vault
        self._endpoint = endpoint
        self._keyring = keyring

    async def offered(self) -> list[SignInProvider]:
        """Return the providers that are enabled, by name."""
        rows = await self._store.page("identity_provider", PLATFORM, after="", limit=MOST, inherited=False)
        found = [(row.name, spec_of(row)) for row in rows]
        return [SignInProvider(name=name, display_name=spec.display_name or name) for name, spec in found if spec.enabled]

    async def begin(self, command: BeginSignIn) -> SignInBegun:
        """Return the address where a person signs in. Raises `NotFound`, `Invalid`, `TooMany`, `Unavailable`."""
        row = await self._store.named("identity_provider", PLATFORM, command.provider)
        if row is None or row.revoking or not (spec := spec_of(row)).enabled:
            raise NotFound(f"nobody can sign in by {command.provider!r}")
        _, registered = await self._registered(row, spec)
        state, nonce, verifier = (secrets.token_urlsafe(size) for size in (32, 32, 48))
        url = authorizing(
            msgspec.structs.replace(registered.provider, authorize_parameters={"nonce": nonce}),
            registered.address("authorize_url"),
            registered.client.id,
            redirect=command.redirect,
            scope=" ".join(dict.fromkeys(["openid", *spec.scopes])),
            state=state,
            verifier=verifier,
        )
        kept = msgspec.json.encode(_Begun(verifier, hashed_nonce(nonce), command.return_to, command.user)).decode()
        await self._requests.add_sign_in(
            AuthorizationRequest(
                state=hashed(state),
                connection=row.id,
                org=PLATFORM,
                redirect=command.redirect,
                issuer=spec.issuer,
                sealed=self._keyring.seal(kept, PLATFORM, row.id, "verifier"),
                origin=registered.origin,
                browser=command.browser,
                actor=command.actor,
                correlation=command.id,
                expires_at=utc_now() + OPEN,
            )
        )
        return SignInBegun(url=url)

    async def provider_of(self, state: str) -> str:
        """Return the id of the provider of a sign-in that is under way; "" where there is none."""
        request = await self._requests.asked(hashed(state))
        return "" if request is None else request.connection

    async def finish(self, command: FinishSignIn) -> SignInEnded:
        """Return whom a provider vouches for, or why nobody. A `state` is used up by this. Raises `Unavailable` before that."""
        request = await self._requests.consume(hashed(command.state), command.browser)
        row = None if request is None else await self._store.of_id("identity_provider", request.connection)
        if request is None or row is None or row.revoking:
            return SignInEnded(refusal="unknown", reason=_UNKNOWN)
        ended = SignInEnded(provider=row.name)
        try:
            kept = msgspec.json.decode(self._keyring.open(request.sealed or "", PLATFORM, row.id, "verifier"), type=_Begun)
            ended = msgspec.structs.replace(ended, return_to=kept.return_to, user=kept.user)
            person = await self._person(command, request, row, kept)
        except CannotOpen as error:
            return _refused(ended, "unreachable", str(error))
        except MillraceError as error:
            return _refused(ended, "unreachable" if isinstance(error, Unavailable) else "refused", error.detail)
        return msgspec.structs.replace(ended, person=person)

    async def leaving(self, question: GetSignOut) -> SignOut:
        """Return where a person is signed out at their issuer. Raises `Unavailable`."""
        rows = await self._store.page("identity_provider", PLATFORM, after="", limit=MOST, inherited=False)
        of_issuer = [spec for row in rows if (spec := spec_of(row)).issuer == question.issuer]
        if not of_issuer:
            return SignOut(url=None)
        # A disabled one is none that anybody has come from lately.
        spec = max(of_issuer, key=lambda one: one.enabled)
        try:
            address = (await self._discovery.of(PLATFORM, spec.issuer)).end_session_url
        except Invalid:
            address = None
        if address is None:
            return SignOut(url=None)
        parts = urlsplit(address)
        asked = {"client_id": spec.client_id, "post_logout_redirect_uri": question.redirect}
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *asked.items()])
        return SignOut(url=parts._replace(query=query).geturl())

    async def _person(self, command: FinishSignIn, request: AuthorizationRequest, row: Kept, kept: _Begun) -> Person:
        """Return whom an answer vouches for. Raises `Unauthenticated`, `PermissionDenied`, `Invalid`, `Unavailable`."""
        spec = spec_of(row)
        if not spec.enabled:
            raise PermissionDenied("nobody can sign in by this provider any more")
        if command.redirect != request.redirect:
            raise Unauthenticated("it came back to another address than the one that was asked for")
        if command.iss is not None and command.iss != spec.issuer:
            raise Unauthenticated("another issuer than this provider's has answered")
        if command.error is not None:
            raise PermissionDenied(
                "the provider says that it was not allowed" if command.error == "access_denied" else "the provider refused it"
            )
        if command.sealed_code is None:
            raise Unauthenticated("the provider sent no code")
        found, registered = await self._registered(row, spec)
        if request.origin != registered.origin:
            raise Unauthenticated("the provider has another issuer or client than when the sign-in was begun: begin again")
        if found.promises_iss and command.iss is None:
            raise Unauthenticated("the answer does not say which issuer's it is, as this provider's do")
        code = self._keyring.open(command.sealed_code, command.org, command.id, "code")
        granted = await self._endpoint.token(
            PLATFORM, registered, lambda call: exchanging(call, code, request.redirect, kept.verifier)
        )
        if not isinstance(granted, Granted):
            raise (Unavailable if granted.failure in _SOON else Unauthenticated)(granted.reason)
        claims = await self._claims(spec, found, granted, kept.nonce)
        if lacking(spec, claims) and found.provider.userinfo_url is not None:
            # What is signed counts.
            claims = await self._userinfo(found.provider.userinfo_url, granted.access_token, claims["sub"]) | claims
        check_email(spec, claims)
        return Person(
            issuer=spec.issuer,
            subject=claims["sub"],
            roles=roles_of(spec, claims),
            just_in_time=spec.just_in_time,
            preferred_username=text_of(claims, "preferred_username"),
            email=email_of(claims),
            name=text_of(claims, "name"),
        )

    async def _claims(self, spec: IdentityProvider, found: Discovered, granted: Granted, nonce: str) -> dict[str, Any]:
        """Return the claims of the ID token. Raises `Unauthenticated`, `Invalid`, `Unavailable`."""
        if granted.id_token is None:
            raise Unauthenticated("the provider sent no ID token: its client may not be one for OpenID Connect")
        if found.key_set is None:
            raise Invalid("the provider announces no address of its keys (jwks_uri), or one that is none")
        token = parted(granted.id_token, LONGEST_TOKEN)
        check_algorithm(token)
        await load_keys(self._documents, found.key_set, token)
        if not token.is_signed_by(self._documents.known(found.key_set) or ()):
            raise Unauthenticated("the provider's ID token is signed by no key of its issuer's")
        expected = Expected(issuer=spec.issuer, client_id=spec.client_id, nonce=nonce, access_token=granted.access_token)
        check_claims(token, expected, utc_now().timestamp())
        return token.payload

    async def _userinfo(self, url: str, access_token: str, subject: str) -> dict[str, Any]:
        """Return what the provider says of a person besides (section 5.3). Raises `Unauthenticated`, `Unavailable`."""
        answer = await self._endpoint.get(PLATFORM, url, {"Authorization": f"Bearer {access_token}", "Accept": "application/json"})
        try:
            said = decode_sent(answer.body) if answer.status == 200 else None
        except MillraceError:
            said = None
        if not isinstance(said, dict):
            raise Unavailable(f"the provider answered {answer.status} without saying more of the person", retry_after=5)
        if said.get("sub") != subject:
            raise Unauthenticated("what the provider says of the person is about another one")
        return said

    async def _registered(self, row: Kept, spec: IdentityProvider) -> tuple[Discovered, Registered]:
        """Return what an issuer announces, and the provider with its client for token requests. Raises `Invalid`, `Unavailable`."""
        found = await self._discovery.of(PLATFORM, spec.issuer)
        secret = self._vault.opened(row) if row.sealed else None
        registered = Registered(
            f"{PLATFORM}/{spec.client_id}@{urlsplit(spec.issuer).netloc}",
            str(row.version),
            destination_of_client(spec),
            Provider(issuer=spec.issuer),
            OAuthClient(spec.client_id, secret),
            Connection(grant="authorization_code", provider=row.name),
        )
        return found, await self._providers.discovered(PLATFORM, registered)


def spec_of(row: Kept) -> IdentityProvider:
    """Return the spec of an identity provider's row, without its secret."""
    spec: IdentityProvider = KINDS["identity_provider"].spec_of(row.spec)
    return spec


def destination_of_client(spec: IdentityProvider) -> str:
    """Return what stands for a client and the issuer that its secret is sent to."""
    return destination_of(Provider(issuer=spec.issuer), "", spec.client_id, None)


def check_issuer(issuer: str) -> None:
    """Raise `Invalid` for what cannot be an issuer: an address by HTTPS, on the loopback by HTTP, with nothing behind its path."""
    try:
        parts = urlsplit(issuer)
        well = bool(parts.hostname) and parts.port != 0 and not (parts.username or parts.password)
    except ValueError:
        parts, well = urlsplit(""), False
    host = parts.hostname or ""
    is_near = host in {"localhost", "::1"} or (host.startswith("127.") and host.replace(".", "").isdigit())
    plain = all(" " < one <= "~" for one in issuer) and not set("{}?#\\") & set(issuer)
    if not well or not plain or (parts.scheme != "https" and not (parts.scheme == "http" and is_near)):
        detail = "must be an address that begins with https://, without a user, a query and a fragment; http:// is for the loopback"
        raise Invalid(f"issuer {detail}", errors=(Problem("issuer", detail),))


def _refused(ended: SignInEnded, refusal: Any, reason: str) -> SignInEnded:
    _log.warning("sign_in.refused", provider=ended.provider, reason=reason)
    return msgspec.structs.replace(ended, refusal=refusal, reason=reason)
