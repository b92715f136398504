"""Answers questions and commands: tokens, secrets and variables for runs; resources as they are declared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import structlog

from services.oauth import removing
from services.oauth.authorization import Authorizations
from services.oauth.catalogue import KNOWN
from services.oauth.connection_tests import ConnectionTests
from services.oauth.credential_cache import CredentialCache
from services.oauth.credentials import Credential, Credentials
from services.oauth.domain import Kept, Outcome, audited
from services.oauth.refresh import Refresher
from services.oauth.sign_in import SignIns
from services.oauth.store import KeptStore
from services.oauth.vault import Vault
from services.oauth.waiting import WaitingPlaces
from shared.asking import Questions
from shared.bus import Bus
from shared.errors import Invalid, NotFound, Unavailable
from shared.owners.answering import questions_of, rotate_keys
from shared.owners.rotation import Rotation
from shared.owners.rows import ResourceRows
from shared.questions.declaration import Done
from shared.questions.oauth import (
    AskedAuthorization,
    AuthorizationBegun,
    AuthorizationEnded,
    AuthorizationOpened,
    AuthorizationView,
    BeginAuthorization,
    ConnectionTested,
    FinishAuthorization,
    GetAskedAuthorization,
    GetAuthorization,
    GetSecret,
    GetToken,
    GetVariable,
    KnownProviderView,
    ListKnownProviders,
    OpenAuthorization,
    RefreshConnection,
    SecretGiven,
    Token,
    TryConnection,
    VariableView,
)
from shared.questions.rotation import RotateVault
from shared.questions.sign_in import (
    BeginSignIn,
    FinishSignIn,
    GetSignOut,
    ListSignInProviders,
    SignInBegun,
    SignInEnded,
    SignInProvider,
    SignOut,
)

_log = structlog.get_logger()
V = TypeVar("V")


class OAuthDeps(removing.OAuthRemovingDeps, Protocol):
    """Dependencies of the answers."""

    bus: Bus
    store: KeptStore
    vault: Vault
    credentials: Credentials
    cache: CredentialCache
    authorizations: Authorizations
    sign_ins: SignIns
    signing_in: WaitingPlaces
    refresher: Refresher
    rotation: Rotation
    tests: ConnectionTests
    waiting: WaitingPlaces
    resources: ResourceRows


async def get_token(asked: GetToken, deps: OAuthDeps) -> Token:
    """Give a live token out."""

    async def live(row: Kept) -> Credential:
        return await deps.credentials.of(row, rejected=asked.rejected)

    stamp, given = await deps.cache.of(asked)
    if stamp is None:
        await _record("connection", asked, deps, None, "not_found")
        raise _absent("connection", asked.name)
    if given is None:
        given = deps.cache.keep(asked, stamp, *await _given("connection", asked, deps, live))
    else:
        await _record("connection", asked, deps, given.row, "ok")
    return Token(
        connection=given.row.id,
        name=given.row.name,
        sealed=deps.vault.given(given.token, asked, "token"),
        request=deps.vault.given(given.request, asked, "request"),
        expires_at=given.expires_at,
        base_url=given.base_url,
        version=given.version,
        unreplaced=given.unreplaced,
    )


async def get_secret(asked: GetSecret, deps: OAuthDeps) -> SecretGiven:
    """Give a secret to a run, or to the service that asks for itself."""

    async def opened(row: Kept) -> str:
        return deps.vault.opened(row)

    row, value = await _given("secret", asked, deps, opened)
    return SecretGiven(name=row.name, owner=row.org, sealed=deps.vault.given(value, asked, "secret"), version=row.version)


async def get_variable(asked: GetVariable, deps: OAuthDeps) -> VariableView:
    """Return the variable of that name for a run of the organization: its own, else the platform's."""
    found = await deps.resources.named("variable", asked.org, asked.name, inherited=True)
    if found is None:
        raise _absent("variable", asked.name)
    return VariableView(
        org=found.org,
        name=found.name,
        value=found.spec.value,
        created_at=found.created_at,
        updated_at=found.updated_at,
        version=found.version,
    )


async def begin_authorization(asked: BeginAuthorization, deps: OAuthDeps) -> AuthorizationBegun:
    """Have a person asked."""
    with deps.waiting.one(asked.org, asked.name):
        return await deps.authorizations.begin(asked)


async def get_authorization(asked: GetAuthorization, deps: OAuthDeps) -> AuthorizationView:
    """Return what has become of an authorization."""
    return await deps.authorizations.of(asked)


async def get_asked_authorization(asked: GetAskedAuthorization, deps: OAuthDeps) -> AskedAuthorization:
    """Return what a person is asked for."""
    with deps.waiting.one(await deps.authorizations.org_of(asked.state), asked.state):
        return await deps.authorizations.asked(asked)


async def open_authorization(asked: OpenAuthorization, deps: OAuthDeps) -> AuthorizationOpened:
    """Lead a browser to the provider."""
    with deps.waiting.one(await deps.authorizations.org_of(asked.state), asked.state):
        return await deps.authorizations.open(asked)


async def finish_authorization(asked: FinishAuthorization, deps: OAuthDeps) -> AuthorizationEnded:
    """Use what a person's browser brought back."""
    with deps.waiting.one(await deps.authorizations.org_of(asked.state), asked.state):
        return await deps.authorizations.finish(asked)


async def list_sign_in_providers(_asked: ListSignInProviders, deps: OAuthDeps) -> list[SignInProvider]:
    """Return the providers that people can sign in by."""
    return await deps.sign_ins.offered()


async def begin_sign_in(asked: BeginSignIn, deps: OAuthDeps) -> SignInBegun:
    """Lead a browser to a provider to sign in."""
    with deps.signing_in.one(asked.org, asked.provider):
        return await deps.sign_ins.begin(asked)


async def finish_sign_in(asked: FinishSignIn, deps: OAuthDeps) -> SignInEnded:
    """Use what a browser brought back from signing in."""
    with deps.signing_in.one(asked.org, await deps.sign_ins.provider_of(asked.state)):
        return await deps.sign_ins.finish(asked)


async def get_sign_out(asked: GetSignOut, deps: OAuthDeps) -> SignOut:
    """Return where a provider signs people out."""
    with deps.signing_in.one(asked.org, asked.issuer):
        return await deps.sign_ins.leaving(asked)


async def refresh_connection(asked: RefreshConnection, deps: OAuthDeps) -> Done:
    """Get another token now."""
    row = await deps.store.named("connection", asked.org, asked.name)
    if row is None or row.revoking:
        raise NotFound(f"there is no connection {asked.name!r}")
    await deps.refresher.renew(row)
    return Done()


async def test_connection(asked: TryConnection, deps: OAuthDeps) -> ConnectionTested:
    """Ask whether a connection works."""
    with deps.waiting.one(asked.org, asked.name):
        return await deps.tests.of(asked)


async def list_known_providers(_asked: ListKnownProviders, _deps: OAuthDeps) -> list[KnownProviderView]:
    """Return the catalogue."""
    return [
        KnownProviderView(
            name=one.name,
            title=one.title,
            documents=one.documents,
            grants=list(one.grants),
            parameters=one.parameters,
            note=one.note,
        )
        for _, one in sorted(KNOWN.items())
    ]


async def _given(noun: str, asked: GetToken | GetSecret, deps: OAuthDeps, opened: Callable[[Kept], Awaitable[V]]) -> tuple[Kept, V]:
    """Return the row that a run means by a name, and its value.

    The record of that, or of a refusal, is on disk before: without a record nothing is given. Raises `NotFound`, `Unavailable`.
    """
    row = await deps.store.usable(noun, asked.org, asked.name, by_run=asked.run is not None)
    if row is None:
        await _record(noun, asked, deps, None, "not_found")
        raise _absent(noun, asked.name)
    try:
        value = await opened(row)
    except (Unavailable, Invalid, NotFound) as error:
        _log.warning(f"{noun}.not_given", reason=error.detail, **{noun: row.id})
        await _record(noun, asked, deps, row, "unavailable")
        raise
    await _record(noun, asked, deps, row, "ok")
    return row, value


async def _record(noun: str, asked: GetToken | GetSecret, deps: OAuthDeps, row: Kept | None, outcome: Outcome) -> None:
    """Have on record, and on disk, that a value is given out, or is not. Raises `Unavailable`."""
    message = audited(noun, asked, row, outcome)
    await deps.bus.publish(deps.bus.seal(message, org=asked.org, correlation=asked.correlation_id))


def _absent(noun: str, name: str) -> NotFound:
    return NotFound(f"there is no {noun} {name!r} in this organization or in global")


QUESTIONS: Questions = {
    **questions_of("oauth"),
    GetToken: get_token,
    GetSecret: get_secret,
    GetVariable: get_variable,
    ListKnownProviders: list_known_providers,
    BeginAuthorization: begin_authorization,
    GetAuthorization: get_authorization,
    GetAskedAuthorization: get_asked_authorization,
    OpenAuthorization: open_authorization,
    FinishAuthorization: finish_authorization,
    ListSignInProviders: list_sign_in_providers,
    BeginSignIn: begin_sign_in,
    FinishSignIn: finish_sign_in,
    GetSignOut: get_sign_out,
    RefreshConnection: refresh_connection,
    RotateVault: rotate_keys,
    TryConnection: test_connection,
    **removing.QUESTIONS,
}
