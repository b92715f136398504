"""Sources, ready to admit webhooks: the registry's entries with their verification compiled, once per entry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_network
from typing import Annotated, Any

import msgspec
import structlog

from services.gateway.config import Network
from services.gateway.domain import REDACTED_HEADERS, REDACTED_PARAMETERS, SecretTexts
from services.gateway.handshakes import Greeting, Handshakes
from services.gateway.message_signatures import MessageScheme
from services.gateway.rates import Rate, rate_of
from services.gateway.schemes import Scheme
from services.gateway.verifier import AnyScheme, Verifier
from services.gateway.web_tokens import TokenScheme
from shared.adapters import CustomAdapters
from shared.egress.fetched import FetchedDocuments, OrganizationDocuments
from shared.encryption import CannotOpen, Keyring
from shared.errors import Gone, MillraceError, NotFound, Unavailable
from shared.jose import public_key_of
from shared.messages.declaration import KEY
from shared.questions.adapters import MOST_PARSED, MOST_VERIFIED, AdapterEntry
from shared.questions.resources import FindResource, Found, of
from shared.registering import REGISTRATION
from shared.registry import Entry, RegistryView
from shared.resources.source import BUILT_IN, SourceEntry
from shared.signatures import key_of
from shared.verification import (
    PUBLIC_KEY,
    Acknowledgement,
    Place,
    Verification,
)

# Addresses that the registry does not know are asked for; a flood of them must not become a flood of questions.
ASKING = 32
# Seconds until a sender comes again to a source of an earlier version; events declares its verification when it starts.
UNDECLARED = 5.0
# Seconds until a sender comes again to a source whose adapter is in its workspace no more.
ABSENT = 60.0
# Methods by which senders ask whether an address takes their webhooks.
GREETING_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST"})
# Below the 2 s within which a sender hears of trouble.
ASK_TIMEOUT = 1.5

# Parts of the names of headers that carry signatures and tokens.
_TELLING = ("auth", "hmac", "key", "secret", "sign", "token")

_log = structlog.get_logger()


Weight = Annotated[int, msgspec.Meta(ge=1, le=10)]
MaxBody = Annotated[int, msgspec.Meta(ge=1)] | None


class AdapterCode(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a source's adapter, in a workspace: whether it verifies, and whether it answers handshakes."""

    adapter: AdapterEntry
    source: SourceEntry
    verifies: bool
    greets: bool


class WebhookEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A source that takes webhooks. `reads_document`: JSON in a genuine body is read, for its sender's id of it or a handshake.

    Headers in `redacted`, parameters in `redacted_parameters` and texts that hold one of `secrets` are neither kept nor shown.

    `rate`: how many are admitted, at all gateways together; None: as many as come. One whose rate was changed begins anew.
    `weight` is the source's share of what may wait, as a multiple of others'. Only addresses in `networks` may send; None: all.
    `max_body` is in bytes; None: what every source takes.
    `code` is that of its adapter, where a request has to be shown to it.
    """

    source: str
    org: str
    adapter: str
    verifier: Verifier
    handshakes: Handshakes
    reads_document: bool
    methods: tuple[str, ...]
    content_types: tuple[str, ...] | None
    redacted: frozenset[str]
    redacted_parameters: frozenset[str]
    secrets: SecretTexts
    rate: Rate | None = None
    weight: int = 1
    networks: tuple[Network, ...] | None = None
    max_body: int | None = None
    acknowledgement: Acknowledgement | None = None
    code: AdapterCode | None = None


def endpoint_of(
    entry: SourceEntry,
    open_secret: Callable[[str], str],
    fetched: OrganizationDocuments | None = None,
    custom: AdapterEntry | None = None,
) -> WebhookEndpoint:
    """Return the endpoint of a source; `open_secret` answers the plaintext of one of its sealed settings.

    `custom` is its adapter, where that is in a workspace. A source that this gateway cannot verify is `Unavailable`, never open: no
    declared verification, or one that this version does not understand, or a secret in the wrong form.
    """
    if custom is None and "verification" not in entry.derived:
        if entry.spec.adapter not in BUILT_IN:
            raise Unavailable("this source's adapter is not in service", retry_after=ABSENT)
        raise Unavailable("what verifies this source's webhooks is not known here yet", retry_after=UNDECLARED)
    try:
        told = entry.derived["verification"] if custom is None else custom.declaration.verification | _networks(entry)
        declared = msgspec.convert(told, Verification)
        if REGISTRATION in entry.spec.settings and "secret" not in entry.sealed:
            raise Unavailable("this source is being registered: its sender has not told the secret yet", retry_after=UNDECLARED)
        opened = {name: open_secret(name) for name in entry.sealed}
        settings = {name: value for name, value in entry.spec.settings.items() if isinstance(value, str)}
        verifier = _verifier(declared, opened, settings, fetched)
        handshakes = Handshakes([Greeting(one, _named(one.keys, opened)) for one in declared.handshakes])
        rate = rate_of(entry.spec.settings)
        weight = msgspec.convert(entry.spec.settings.get("weight", 1), Weight)
        max_body = msgspec.convert(entry.spec.settings.get("max_body"), MaxBody)
        networks = None if declared.networks is None else tuple(ip_network(one) for one in declared.networks)
    except (ValueError, msgspec.ValidationError) as error:
        raise Unavailable(f"the settings of this source make no verification: {error}", retry_after=60) from error
    hidden: list[Place] = [*declared.redacted, *(one.signature for one in declared.schemes if one.signature is not None)]
    hidden += [one.token for one in declared.tokens]
    ids = [place for one in declared.every for place in (one.delivery, *one.delivery_with)]
    return WebhookEndpoint(
        source=entry.id,
        org=entry.org,
        adapter=entry.spec.adapter,
        verifier=verifier,
        handshakes=handshakes,
        reads_document=handshakes.reads_document or any(place is not None and place.json is not None for place in ids),
        methods=declared.methods,
        content_types=declared.content_types,
        redacted=REDACTED_HEADERS | {place.header for place in hidden if place.header is not None},
        redacted_parameters=REDACTED_PARAMETERS | {place.query.lower() for place in hidden if place.query is not None},
        secrets=SecretTexts(opened.values()),
        rate=rate,
        weight=weight,
        networks=networks,
        max_body=max_body if custom is None else min(max_body or MOST_PARSED, _most_read(custom)),
        acknowledgement=declared.acknowledgement,
        code=None if custom is None else _code(entry, custom),
    )


def _networks(entry: SourceEntry) -> dict[str, Any]:
    given = entry.spec.settings.get("networks")
    return {} if given is None else {"networks": [str(ip_network(one, strict=False)) for one in given]}


def _most_read(adapter: AdapterEntry) -> int:
    return MOST_VERIFIED if "verify" in adapter.declaration.code else MOST_PARSED


def _code(source: SourceEntry, adapter: AdapterEntry) -> AdapterCode | None:
    verifies, greets = (name in adapter.declaration.code for name in ("verify", "handshake"))
    return AdapterCode(adapter=adapter, source=source, verifies=verifies, greets=greets) if verifies or greets else None


def _verifier(
    declared: Verification, opened: dict[str, str], settings: dict[str, str], fetched: OrganizationDocuments | None
) -> Verifier:
    """Return the verifier of a source. An open setting is never a symmetric key. Raises ValueError for a key that is none."""
    public = opened | settings
    schemes: list[AnyScheme] = [
        Scheme(one, [key_of(one, key) for key in _named(one.keys, public if one.algorithm in PUBLIC_KEY else opened)], fetched)
        for one in declared.schemes
    ]
    for token in declared.tokens:
        secrets = [key.encode() for key in _named(token.keys, opened)]
        schemes.append(TokenScheme(token, secrets + [public_key_of(key) for key in _named(token.keys, settings)], fetched))
    for message in declared.messages:
        if message.algorithm.startswith("hmac"):
            schemes.append(MessageScheme(message, [key_of(message, key) for key in _named(message.keys, opened)]))
        else:
            schemes.append(MessageScheme(message, [public_key_of(key) for key in _named(message.keys, settings)]))
    return Verifier(schemes)


def _named(names: tuple[str, ...], known: dict[str, str]) -> list[str]:
    return [known[name] for name in names if name in known]


def read_methods(hook: WebhookEndpoint) -> frozenset[str]:
    """Return the methods of requests whose body has to be read to recognize a handshake."""
    return GREETING_METHODS if hook.code is not None and hook.code.greets else hook.handshakes.read_methods


def redacted_of(hook: WebhookEndpoint, names: Iterable[str]) -> frozenset[str]:
    """Return the headers that are neither kept nor shown; where code verifies, all whose names may be those of a credential."""
    if hook.code is None or not hook.code.verifies:
        return hook.redacted
    return hook.redacted | {lower for name in names if any(part in (lower := name.lower()) for part in _TELLING)}


class _Known(msgspec.Struct, frozen=True):
    """An endpoint with the registries' entries that it was made of; they are the same objects until one changes."""

    entry: Entry[SourceEntry]
    adapters: tuple[Entry[AdapterEntry] | None, ...]
    endpoint: WebhookEndpoint | MillraceError


class Admission:
    """Endpoints by source id."""

    def __init__(
        self,
        sources: RegistryView[SourceEntry],
        keyring: Keyring,
        find: Callable[[FindResource, float], Awaitable[Found]],
        fetched: FetchedDocuments,
        adapters: CustomAdapters,
    ) -> None:
        self._sources = sources
        self._adapters = adapters
        self._keyring = keyring
        self._find = find
        self._fetched = fetched
        self._asking = asyncio.Semaphore(ASKING)
        self._endpoints: dict[str, _Known] = {}

    def count(self, org: str) -> int:
        """Return how many sources an organization has."""
        return sum(one.org == org for one in self._sources.values())

    async def endpoint(self, source: str) -> WebhookEndpoint:
        """Return the endpoint of a source.

        Raises `NotFound` (unknown, or switched off: senders try again later, as they should), `Gone` (retired: senders stop),
        `Unavailable` (its owner does not answer, or the source cannot be verified here).
        """
        entry = self._sources.get(source)
        if entry is None:
            entry = await self._asked(source)
        known = self._endpoints.get(source)
        if known is None or known.entry is not entry or (known.adapters and self._has_changed(known, entry.value)):
            known = self._endpoints[source] = self._made_of(entry)
        endpoint = known.endpoint
        if isinstance(endpoint, MillraceError):
            raise type(endpoint)(endpoint.detail, retry_after=endpoint.retry_after)
        return endpoint

    async def _asked(self, source: str) -> Entry[SourceEntry]:
        if not KEY.match(source):
            raise NotFound("there is no such webhook address")
        if self._asking.locked():
            raise Unavailable("too many unknown addresses are being looked up")
        async with self._asking:
            try:
                found = await self._find(of(FindResource, "source", org="global", id=source), ASK_TIMEOUT)
            except NotFound as error:
                raise NotFound("there is no such webhook address") from error
        value = None if found.value is None else msgspec.convert(found.value, SourceEntry)
        entry = Entry(found.seq, value)
        self._sources.learn(source, entry)
        return self._sources.get(source) or entry

    def _has_changed(self, known: _Known, value: SourceEntry | None) -> bool:
        """Return whether the adapter of a workspace has another version than the one that an endpoint was made of."""
        if value is None:
            return False
        now = self._adapters.entries(value.org, value.spec.adapter)
        return any(one is not before for one, before in zip(now, known.adapters, strict=True))

    def _made_of(self, entry: Entry[SourceEntry]) -> _Known:
        value = entry.value
        if value is None or value.spec.adapter in BUILT_IN:
            return _Known(entry, (), self._made(value, None))
        adapters = self._adapters.entries(value.org, value.spec.adapter)
        return _Known(entry, adapters, self._made(value, self._adapters.find(value.org, value.spec.adapter)))

    def _made(self, value: SourceEntry | None, custom: AdapterEntry | None) -> WebhookEndpoint | MillraceError:
        if value is None:
            return Gone("this webhook address was retired")
        if not value.spec.enabled:
            return NotFound("this webhook address is switched off")
        try:
            made = endpoint_of(
                value,
                lambda name: self._keyring.open(value.sealed[name], value.org, value.id, name),
                self._fetched.of(value.org),
                custom,
            )
        except CannotOpen as error:
            _log.error("source.secret_unreadable", source=value.id, org=value.org, reason=str(error))
            return Unavailable("the secret of this source cannot be read; its operator was told", retry_after=60)
        except Unavailable as error:
            _log.error("source.unverifiable", source=value.id, org=value.org, reason=error.detail)
            return error
        return made if made.methods else NotFound("there is no such webhook address")
