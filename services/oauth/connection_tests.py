"""Asks whether a connection works: the provider itself, by what it has for that; nothing else of a connection is tried."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

from services.oauth.addresses import filled
from services.oauth.credentials import Credential, Credentials
from services.oauth.domain import Kept, Sending
from services.oauth.flows import FLOWS
from services.oauth.providers import Providers, Registered, spec_of
from services.oauth.store import KeptStore
from services.oauth.token_endpoint import TokenEndpoint
from services.oauth.token_requests import introspecting, scope_of
from shared.errors import Invalid, NotFound, Unavailable
from shared.questions.oauth import ConnectionTested, TryConnection
from shared.resources.provider import Provider


class ConnectionTests:
    """Tests of connections. No body of an answer is shown, and no credential."""

    def __init__(self, store: KeptStore, providers: Providers, credentials: Credentials, endpoint: TokenEndpoint) -> None:
        self._store = store
        self._providers = providers
        self._credentials = credentials
        self._endpoint = endpoint

    async def of(self, asked: TryConnection) -> ConnectionTested:
        """Return whether a connection works, as far as its provider can be asked. Raises `NotFound`."""
        row = await self._store.named("connection", asked.org, asked.name)
        if row is None or row.revoking:
            raise NotFound(f"there is no connection {asked.name!r}")
        try:
            credential = await self._credentials.of(row)
        except (Invalid, Unavailable) as error:
            return ConnectionTested(outcome="broken", by="token", detail=error.detail)
        try:
            return _advised(row, await self._tested(row, credential))
        except (Invalid, Unavailable) as error:
            return ConnectionTested(outcome="unknown", by=None, detail=error.detail)

    async def _tested(self, row: Kept, credential: Credential) -> ConnectionTested:
        spec = spec_of(row)
        registered: Registered | None = None
        if spec.grant in FLOWS:
            registered = await self._providers.discovered(row.org, await self._providers.of(row))
            provider = registered.provider
        else:
            provider = await self._providers.described(row.org, spec)
        for field in _ways(provider, registered):
            url = filled(getattr(provider, field), spec.parameters, provider.hosts)
            if field == "introspect_url" and registered is not None:
                return await self._introspected(row.org, registered, credential.token)
            return await self._called(row.org, field, url, credential.sending)
        detail = "the provider names no address to ask (test_url, introspect_url, userinfo_url): nobody knows until it is used"
        return ConnectionTested(outcome="unknown", by=None, detail=detail)

    async def _called(self, org: str, field: str, url: str, sending: Sending) -> ConnectionTested:
        parts = urlsplit(url)
        query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *sending.query.items()])
        answer = await self._endpoint.get(org, parts._replace(query=query).geturl(), sending.headers)
        if 200 <= answer.status < 300:
            return ConnectionTested(outcome="works", by=field, detail=f"{parts.netloc} answered {answer.status}")
        if answer.status == 401:
            return ConnectionTested(
                outcome="broken", by=field, detail=f"{parts.netloc} answered 401: it does not take the credential"
            )
        why = "it does not allow this, whether or not it takes the credential" if answer.status == 403 else "which says neither"
        return ConnectionTested(outcome="unknown", by=field, detail=f"{parts.netloc} answered {answer.status}: {why}")

    async def _introspected(self, org: str, registered: Registered, token: str) -> ConnectionTested:
        by = "introspect_url"
        answer = await self._endpoint.post(org, registered, lambda call: introspecting(call, token), at=(by,))
        try:
            active = msgspec.json.decode(answer.body, type=dict[str, object]).get("active") if answer.status == 200 else None
        except (msgspec.DecodeError, RecursionError):
            active = None
        if active is True:
            return ConnectionTested(outcome="works", by=by, detail="the provider knows the token, and it is active")
        if active is False:
            return ConnectionTested(outcome="broken", by=by, detail="the provider does not know the token, or it has ended")
        return ConnectionTested(outcome="unknown", by=by, detail=f"the provider answered {answer.status}, which says neither")


def _advised(row: Kept, tested: ConnectionTested) -> ConnectionTested:
    """Return the outcome with what is to be done about a credential that is refused."""
    if tested.outcome != "broken":
        return tested
    do = f"get another token: millrace connections refresh {row.name}" if row.spec.get("grant") in FLOWS else "put it again"
    return msgspec.structs.replace(tested, detail=f"{tested.detail}; {do}")


def _ways(provider: Provider, registered: Registered | None) -> list[str]:
    """Return the addresses that tell whether a credential works, best first."""
    fields = ["test_url"]
    if registered is not None:
        fields.append("introspect_url")
        # Of others it is refused, whatever they are good for.
        if "openid" in scope_of(provider, registered.spec.scopes).split():
            fields.append("userinfo_url")
    return [field for field in fields if getattr(provider, field) is not None]
