"""The provider that a connection means, with the client to use there: its own, else the provider's."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from services.oauth.addresses import filled, filled_text, parameters_of
from services.oauth.catalogue import KNOWN
from services.oauth.discovery import Discovery
from services.oauth.domain import Kept, place_of
from services.oauth.flows import FLOWS
from services.oauth.lending import A_MINUTE, LentShare
from services.oauth.store import KeptStore
from services.oauth.token_requests import OAuthClient, RequestStamp, TokenCall
from shared.encryption import CannotOpen, Keyring
from shared.errors import Invalid, Problem, Unavailable
from shared.resources.connection import Connection
from shared.resources.declaration import KINDS
from shared.resources.provider import ADDRESSES, FURTHER, Provider

# Addresses that no client's secret is sent to: of browsers, and of what runs may send their tokens to as well.
_OPEN = {"authorize_url", "base_url", "test_url", "userinfo_url"}


class Registered(msgspec.Struct, frozen=True):
    """A provider for one connection; `configured` is the version of all that was read to make this.

    `key` is what a limit or a refusal of the provider's counts for: whose client it is, the client, and the host of the tokens.
    `lent`: the organization's share of a client of another's, None where it is its own.
    `destination` stands for the client and all addresses that its secret and its tokens are sent to.
    """

    key: str
    configured: str
    destination: str
    provider: Provider
    client: OAuthClient
    spec: Connection
    promises_iss: bool = False
    lent: LentShare | None = None

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Registered({self.key!r})"

    @property
    def origin(self) -> str:
        """Return what stands for the grant, the client and the addresses of the tokens that are got by this."""
        return f"{self.spec.grant}:{self.destination}"

    def address(self, *fields: str) -> str:
        """Return the first of these addresses that the provider has, filled. Raises `Invalid` where there is none."""
        return _address(self.provider, self.spec, *fields)

    def call(self, url: str, stamp: RequestStamp) -> TokenCall:
        """Return what a request to an address of the provider is made of."""
        issuer = None if self.provider.issuer is None else self.address("issuer")
        return TokenCall(provider=self.provider, client=self.client, url=url, issuer=issuer, stamp=stamp)


class Providers:
    """Looks providers up: the organization's own, else the platform's, else a known one."""

    def __init__(self, store: KeptStore, keyring: Keyring, discovery: Discovery) -> None:
        self._store = store
        self._keyring = keyring
        self._discovery = discovery

    async def of(self, row: Kept) -> Registered:
        """Return the provider of a connection.

        Raises `Invalid` naming what is missing, `Unavailable` where a secret does not open.
        """
        spec = spec_of(row)
        found, own, provider = await self._found(row.org, spec.provider or "")
        source = f"{found.id}.{found.version}" if found is not None else f"known:{spec.provider}.0"
        owner = row.org
        client_id = spec.client_id or own.client_id or ""
        destination = destination_of(own, spec.provider or "", client_id, spec.parameters)
        if spec.client_id is not None:
            await self._check_destination(row, destination)
            client = OAuthClient(spec.client_id, self._opened(row), spec.key_id)
        elif own.client_id is not None and found is not None:
            _check_lent(found, row.org, spec)
            client, owner = OAuthClient(own.client_id, self._opened(found), own.key_id), found.org
        else:
            raise Invalid(
                "neither the connection nor its provider has a client_id",
                errors=(Problem("client_id", "is missing, and the provider has none either"),),
            )
        host = urlsplit(_address(provider, spec, "issuer" if is_discovered(provider) else "token_url")).netloc
        # Anybody may name another one's client with a secret that is wrong: what comes of that is for its own organization.
        name = f"{owner}/{client.id}@{host}"
        lent = None if owner == row.org else LentShare(f"{owner}/{client.id}", provider.lent_a_minute or A_MINUTE)
        return Registered(name, f"{row.version}.{source}", destination, _filled(provider, spec), client, spec, lent=lent)

    async def discovered(self, org: str, registered: Registered) -> Registered:
        """Return a provider with the addresses that its issuer announces where it has none, for the organization.

        Raises `Invalid`, `Unavailable` with the reason.
        """
        provider = registered.provider
        if not is_discovered(provider):
            return registered
        found = await self._discovery.of(org, registered.address("issuer"))
        ways = (one for one in found.authentications if (one == "private_key_jwt") == registered.client.has_key)
        usual = msgspec.structs.replace(found.provider, client_authentication=next(ways, None))
        return msgspec.structs.replace(registered, provider=provider.over(usual), promises_iss=found.promises_iss)

    async def described(self, org: str, spec: Connection) -> Provider:
        """Return what the provider says of a connection that is no OAuth one: where its API is, and how a key is sent.

        Raises `Invalid` where there is none of its name.
        """
        return Provider() if spec.provider is None else (await self._found(org, spec.provider))[2]

    async def destination(self, org: str, spec: Connection) -> str | None:
        """Return where the secret of a connection's own client is sent; None where it has none, or its token is no provider's."""
        if spec.grant not in FLOWS or spec.client_id is None:
            return None
        found = await self._named(org, spec.provider or "")
        own = KINDS["provider"].spec_of(found.spec) if found is not None else Provider()
        return destination_of(own, spec.provider or "", spec.client_id, spec.parameters)

    async def check(self, org: str, spec: Connection) -> None:
        """Raise `Invalid` where a connection's provider is not there, or its addresses cannot be filled."""
        name = spec.provider or ""
        found, own, provider = await self._found(org, name)
        fields: tuple[str, ...] = ("test_url", "base_url")
        if spec.grant in FLOWS:
            fields = ADDRESSES
            _check_granting(name, own, provider, spec)
            if found is not None:
                _check_lent(found, org, spec)
            _filled(provider, spec)
        for field in fields:
            if (template := getattr(provider, field)) is not None:
                filled(template, spec.parameters, provider.hosts)

    async def look(self, org: str, own: Provider) -> None:
        """Ask the issuer of a provider for its metadata, if it is one that tells its addresses, so that `warning` knows of it."""
        if (issuer := _discoverable(own)) is not None:
            with contextlib.suppress(Invalid, Unavailable):
                await self._discovery.of(org, issuer)

    def warning(self, org: str, own: Provider) -> str | None:
        """Return what is wrong with the issuer of a provider, as far as it was asked lately."""
        issuer = _discoverable(own)
        return None if issuer is None else self._discovery.warning(org, issuer)

    async def _found(self, org: str, name: str) -> tuple[Kept | None, Provider, Provider]:
        """Return a provider's row, if it is no known one, what it says itself, and that with what is known of it."""
        found = await self._named(org, name)
        if found is None and name not in KNOWN:
            detail = f"there is no provider {name!r} in this organization or in global, and none of that name is known"
            raise Invalid(detail, errors=(Problem("provider", detail),))
        own: Provider = KINDS["provider"].spec_of(found.spec) if found is not None else Provider()
        return found, own, whole(own, name)

    async def _named(self, org: str, name: str) -> Kept | None:
        return await self._store.usable("provider", org, name, by_run=False)

    async def _check_destination(self, row: Kept, destination: str) -> None:
        """Raise `Invalid` where a provider leads elsewhere than when the secret of a connection's client was given."""
        if not row.sealed or row.destination == destination:
            return
        if row.destination is not None:
            detail = "was given for other addresses than its provider has now: give it again"
            raise Invalid(f"the client's secret of the connection {row.name!r} {detail}", errors=(Problem("token", detail),))
        await self._store.lead(row, destination)

    def _opened(self, row: Kept) -> str | None:
        if not row.sealed:
            return None
        try:
            return self._keyring.open(row.sealed, *place_of(row.noun, row.org, row.id, row.name))
        except CannotOpen as error:
            raise Unavailable(f"{row.noun} {row.name!r}: {error}", retry_after=60) from error


def is_discovered(provider: Provider) -> bool:
    """Return whether a provider's addresses are those that its issuer announces."""
    return provider.token_url is None and provider.issuer is not None


def _discoverable(own: Provider) -> str | None:
    """Return the issuer that tells a provider's addresses, None where there is none, or it is another one for each connection."""
    provider = whole(own, "")
    issuer = provider.issuer if is_discovered(provider) else None
    return None if issuer is None or parameters_of(issuer) else issuer


def spec_of(row: Kept) -> Connection:
    """Return the spec of a connection's row, without its secret."""
    spec: Connection = KINDS["connection"].spec_of(row.spec)
    return spec


def whole(own: Provider, name: str) -> Provider:
    """Return a provider with the values of the known one that it names, or whose name it has where it is none of its own."""
    found = KNOWN.get(own.known or (name if own == Provider() else ""))
    return own if found is None else own.over(found.provider)


def destination_of(own: Provider, name: str, client_id: str, parameters: Mapping[str, str] | None) -> str:
    """Return what stands for a client and the addresses that its secret and its tokens are sent to, as templates without values.

    `own` is the definition, which may be empty, and `name` how it is referred to, as for `whole`. What is known counts by its
    name: a later release may know other addresses of the same provider. Raises `Invalid` where a value is missing.
    """
    provider = whole(own, name)
    fields = ["issuer"] if is_discovered(provider) else []
    fields += [field for field in ADDRESSES if field.endswith("_url") and field not in _OPEN]
    places: dict[str, str] = {}
    values: dict[str, str] = {}
    for field in fields:
        template = getattr(provider, field)
        values |= {one: (parameters or {}).get(one, "") for one in parameters_of(template or "")}
        # What is not there stands for nothing: another field of a later release changes no destination.
        if (address := getattr(own, field)) is not None:
            places[field] = address
    known = own.known or (name if own == Provider() else None)
    hosts = own.hosts if values else []
    return hashlib.sha256(msgspec.json.encode([client_id, known, places, sorted(values.items()), sorted(hosts)])).hexdigest()


def _address(provider: Provider, spec: Connection, *fields: str) -> str:
    for field in fields:
        if (template := getattr(provider, field)) is not None:
            return filled(template, spec.parameters, provider.hosts)
    raise Invalid(f"the provider {spec.provider!r} has no {fields[-1]}", errors=(Problem("provider", "lacks an address"),))


def _filled(provider: Provider, spec: Connection) -> Provider:
    """Return a provider with a connection's values in its further parameters."""
    texts: dict[str, dict[str, str]] = {field: getattr(provider, field) for field in FURTHER}
    made = {field: {name: filled_text(text, spec.parameters) for name, text in of.items()} for field, of in texts.items()}
    return msgspec.structs.replace(provider, **made)


def _check_granting(name: str, own: Provider, provider: Provider, spec: Connection) -> None:
    """Raise `Invalid` naming what a connection's grant needs of its provider, and it lacks."""
    if spec.client_id is None and own.client_id is None:
        detail = f"is needed: the provider {name!r} has no client of its own"
        raise Invalid(f"client_id {detail}", errors=(Problem("client_id", detail),))
    for field in ("token_url", *FLOWS[spec.grant].addresses):
        if getattr(provider, field) is None and not is_discovered(provider):
            detail = f"has no {field}, which {spec.grant} needs"
            raise Invalid(f"the provider {name!r} {detail}", errors=(Problem("provider", detail),))


def _check_lent(provider: Kept, org: str, spec: Connection) -> None:
    """Raise `Invalid` where a client of the platform's would get tokens for another organization that no person has allowed.

    Without a person the tokens are the client's own: of the platform's account, or of any tenant that has let it in.
    """
    if FLOWS[spec.grant].person is None and spec.client_id is None and provider.org != org:
        detail = f"is needed: the client of {provider.org!r} gives others tokens only where a person authorizes them"
        raise Invalid(f"client_id {detail}", errors=(Problem("client_id", detail),))
