"""Rules of this service's resources that no schema can state: connections, secrets and variables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from services.oauth.addresses import check_template
from services.oauth.announce import Announcer
from services.oauth.catalogue import KNOWN
from services.oauth.domain import (
    Kept,
    check_client_secret,
    check_connection,
    check_headers,
    check_readers,
    check_secret,
    check_token,
    check_value,
    token_place,
)
from services.oauth.flows import FLOWS
from services.oauth.policy import TokenState, shown_state
from services.oauth.providers import Providers, destination_of, is_discovered, whole
from services.oauth.refresh import Refresher
from services.oauth.sign_in import check_issuer, destination_of_client
from services.oauth.store import KeptStore
from services.oauth.token_store import TokenStore
from services.oauth.vaulted import Vaulted, VaultRules
from shared.bus import Bus
from shared.encryption import Keyring
from shared.errors import Conflict, Invalid, Problem
from shared.organizations import PLATFORM
from shared.owners.catalogued import catalogued
from shared.owners.keeper import Keeper
from shared.owners.rows import ResourceRows
from shared.owners.rules import Draft, Rules
from shared.projection import Projection
from shared.resources.connection import Connection
from shared.resources.declaration import Resource
from shared.resources.identity_provider import SIGNED_IN, IdentityProvider
from shared.resources.provider import ADDRESSES, Provider
from shared.resources.secret import Secret
from shared.resources.variable import Variable

# The connections of a provider that was changed are tried over so long.
SPREAD = timedelta(minutes=1)
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,63}")
# Connections that a refusal names.
MOST_NAMED = 5


class Connections(VaultRules[Connection]):
    """A token can be sent in a header, and a provider's token can be asked for."""

    def __init__(self, providers: Providers, store: KeptStore, tokens: TokenStore, refresher: Refresher, keyring: Keyring) -> None:
        self._store = store
        self._providers = providers
        self._tokens = tokens
        self._refresher = refresher
        self._keyring = keyring

    async def check(self, draft: Draft[Connection]) -> Connection:
        """Return the spec if a token that is given can be one, and the rest makes a connection of its grant."""
        spec = draft.spec
        for token in draft.secrets.values():
            check_token(token, spec.grant)
        kept = draft.kept & draft.before.sealed.keys() if draft.before is not None else frozenset()
        check_connection(spec, has_token=bool(draft.secrets or kept))
        if spec.provider is not None:
            await self._providers.check(draft.org, spec)
        return spec

    async def destination(self, org: str, spec: Connection) -> str | None:
        """Return where the secret of its own client is sent."""
        return await self._providers.destination(org, spec)

    async def changed(self, before: Kept, row: Kept) -> None:
        """Forget a token that is another grant's, client's or provider's, and have a connection that failed tried again."""
        await self._refresher.changed(before, row)
        await self._tokens.hurry(row.id)

    async def shown(self, found: Sequence[Resource[Connection]]) -> Sequence[dict[str, Any]]:
        """Return how the token of each is."""
        granted = [one.id for one in found if one.spec.grant in FLOWS]
        states = await self._tokens.of(granted) if granted else {}
        lacking = await self._lacking(found)
        return [
            shown_state(one.name, one.spec, states.get(one.id), self._opens, self._tokens.now(), lacks=lacking.get(one.id))
            for one in found
        ]

    async def _lacking(self, found: Sequence[Resource[Connection]]) -> dict[str, str]:
        """Return by id the connection whose token each exchanges, of those for which there is none of that name."""
        wanted: dict[str, dict[str, str]] = {}
        for one in found:
            if one.spec.exchanges is not None:
                wanted.setdefault(one.org, {})[one.id] = one.spec.exchanges
        lacking: dict[str, str] = {}
        # Of two organizations at most: the one that asks, and the platform's.
        for org, names in wanted.items():
            there = await self._store.names_of("connection", org, set(names.values()))
            lacking |= {id_: name for id_, name in names.items() if name not in there}
        return lacking

    def _opens(self, state: TokenState) -> bool:
        return self._keyring.opens(state.sealed or "", *token_place(state.org, state.connection))


class ProviderRules(VaultRules[Provider]):
    """A provider's addresses lead where their writer means, whatever a connection fills in."""

    def __init__(self, tokens: TokenStore, store: KeptStore, providers: Providers) -> None:
        self._tokens = tokens
        self._store = store
        self._providers = providers

    async def check(self, draft: Draft[Provider]) -> Provider:
        """Return the spec if its addresses are such, and the known provider is known."""
        spec = draft.spec
        if spec.known is not None and spec.known not in KNOWN:
            raise Invalid(f"no provider {spec.known!r} is known", errors=(Problem("known", "is not known"),))
        provider = whole(spec, "")
        # One with a header of its own may be there for keys only.
        if provider.token_url is None and provider.header is None and not is_discovered(provider):
            problem = Problem("token_url", "is missing, and so is an issuer that announces it; no known provider has it")
            raise Invalid("token_url is missing", errors=(problem,))
        for field in ADDRESSES:
            if (template := getattr(provider, field)) is not None:
                check_template(field, template, provider.hosts)
        check_headers(provider)
        kept = draft.kept & draft.before.sealed.keys() if draft.before is not None else frozenset()
        if (draft.secrets or kept) and spec.client_id is None:
            raise Invalid("client_id is missing", errors=(Problem("client_id", "is missing: the secret is that of a client"),))
        for secret in draft.secrets.values():
            check_client_secret(secret, provider.client_authentication)
        await self._providers.look(draft.org, spec)
        return spec

    async def destination(self, org: str, spec: Provider) -> str | None:
        """Return where the secret of its client is sent."""
        del org
        return None if spec.client_id is None else destination_of(spec, "", spec.client_id, None)

    async def changed(self, before: Kept, row: Kept) -> None:
        """Have its connections tried soon, so that what the change makes of them is seen."""
        del before
        await self._tokens.hasten(row.org, row.name, SPREAD)

    async def check_removal(self, present: Resource[Provider]) -> None:
        """Raise `Conflict` where connections refer to a provider."""
        left = await self._store.referrers(present.org, present.name, MOST_NAMED + 1)
        if left:
            named = ", ".join(one.name if one.org == present.org else f"{one.name} of {one.org}" for one in left[:MOST_NAMED])
            more = ", …" if len(left) > MOST_NAMED else ""
            raise Conflict(f"connections refer to provider {present.name!r}, remove them first: {named}{more}")

    async def shown(self, found: Sequence[Resource[Provider]]) -> Sequence[dict[str, Any]]:
        """Return the documents of the known provider that each is made from, and what is wrong with its issuer."""
        shown: list[dict[str, Any]] = []
        for one in found:
            known = KNOWN.get(one.spec.known or "")
            wrong = self._providers.warning(one.org, one.spec)
            warnings = [] if wrong is None else [msgspec.to_builtins(Problem("issuer", wrong))]
            shown.append({"documents": None if known is None else known.documents, "warnings": warnings})
        return shown


class IdentityProviders(VaultRules[IdentityProvider]):
    """An issuer can be one, and those whom it vouches for may do something."""

    def __init__(self, providers: Providers) -> None:
        self._providers = providers

    async def check(self, draft: Draft[IdentityProvider]) -> IdentityProvider:
        """Return the spec if it is of the platform, and its parts can be what they are called."""
        spec, problems = draft.spec, []
        if draft.org != PLATFORM:
            problems.append(Problem("org", f"must be {PLATFORM}: identity providers are the platform's"))
        if spec.just_in_time and not spec.groups and not spec.default_roles:
            problems.append(Problem("just_in_time", "needs groups or default_roles: a user without a role may do nothing"))
        problems += [
            Problem(f"email_domains[{place}]", "is no domain, as `example.com`")
            for place, one in enumerate(spec.email_domains)
            if not _DOMAIN.fullmatch(one)
        ]
        if problems:
            raise Invalid("; ".join(f"{one.path} {one.message}" for one in problems), errors=tuple(problems))
        check_issuer(spec.issuer)
        for secret in draft.secrets.values():
            check_client_secret(secret, None)
        await self._providers.look(draft.org, Provider(issuer=spec.issuer))
        return spec

    async def destination(self, org: str, spec: IdentityProvider) -> str | None:
        """Return where the secret of its client is sent."""
        del org
        return destination_of_client(spec)

    async def shown(self, found: Sequence[Resource[IdentityProvider]]) -> Sequence[dict[str, Any]]:
        """Return the address that each has to know, and what is wrong with its issuer."""
        warned = [(one, self._providers.warning(one.org, Provider(issuer=one.spec.issuer))) for one in found]
        return [
            {"redirect_url": SIGNED_IN, "warnings": [] if wrong is None else [msgspec.to_builtins(Problem("issuer", wrong))]}
            for _, wrong in warned
        ]


class Secrets(VaultRules[Secret]):
    """A secret can be masked, and one for services stays so: whoever puts a new value in its place may not know of that."""

    async def check(self, draft: Draft[Secret]) -> Secret:
        """Return the spec if a value that is given can be one, and its readers may be these."""
        for value in draft.secrets.values():
            check_secret(value)
        if draft.before is not None:
            check_readers(draft.before.spec.readers, draft.spec.readers)
        return draft.spec


class Variables(Rules[Variable]):
    """A variable fits a message."""

    async def check(self, draft: Draft[Variable]) -> Variable:
        """Return the spec if its value is not too large."""
        check_value(draft.spec.value)
        return draft.spec


def keepers(
    bus: Bus,
    rows: ResourceRows,
    keyring: Keyring,
    catalog: Projection,
    store: KeptStore,
    announcer: Announcer,
    providers: Providers,
    tokens: TokenStore,
    refresher: Refresher,
) -> Mapping[str, Keeper[Any]]:
    """Return the keepers of this service's resources."""
    sealed: dict[str, VaultRules[Any]] = {
        "connection": Connections(providers, store, tokens, refresher, keyring),
        "secret": Secrets(),
        "provider": ProviderRules(tokens, store, providers),
        "identity_provider": IdentityProviders(providers),
    }
    return {
        **catalogued("oauth", {"variable": Variables()}, bus=bus, rows=rows, keyring=keyring, catalog=catalog),
        **{
            noun: Vaulted(noun, rules, bus=bus, store=store, keyring=keyring, announcer=announcer) for noun, rules in sealed.items()
        },
    }
