"""Every route for every kind of caller: what is answered follows from the route's declaration, and from nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web

from services.gateway.api import application
from services.gateway.api.application import ENDPOINTS
from services.gateway.api.document import USUAL
from services.gateway.api.endpoint import Call, Endpoint, Streamed
from shared.envelope import rfc3339, utc_now
from tests.integration.test_gateway import Client, gateway
from tests.support.inside import eventually
from tests.support.servers import Place
from tests.support.signing_in import Browser, browser_of, user_of

OWN, FOREIGN = "acme", "other"
REACHED = 299
# As many as the gateway has connections to its database, where it looks each session up: who waits long for one is answered 503.
AT_ONCE = 4
ROLES = ("viewer", "operator", "developer", "admin")
# Everything else needs a key. What is added here is for everybody.
PUBLIC = {
    *("/hooks/{id}", "/healthz", "/readyz", "/openapi.json", "/docs", "/asyncapi.json"),
    *("/api/v1/logins", "/api/v1/logins/token", "/device"),
    *("/oauth/authorize", "/oauth/callback", "/api/v1/sessions"),
    *("/auth/{name}", "/auth/callback", "/auth/signed-out", "/api/v1/sign-in-providers"),
    *("/api/v1/invitations/read", "/api/v1/invitations/accept"),
    *("/", "/console/{path:.+}", "/sign-in", "/invitation", "/approve", "/sign-in.js", "/sign-in.css"),
    *("/api/v1/sessions/passkey", "/api/v1/sessions/passkey/options"),
    # Each form has its own role, which these ask for.
    *("/forms/{id}", "/forms/{id}/sent"),
    *("/api/v1/forms/{id}/fields", "/api/v1/forms/{id}/submissions", "/api/v1/forms/{id}/submission"),
}


class Kind(msgspec.Struct, frozen=True):
    """A kind of caller: the organization, role and scopes of its key; without a role the key counts no more, or there is none.

    `roles` are those of a user with a session by organization; `ends`: that session counts no more; `token`: it is shown.
    """

    org: str = OWN
    role: str | None = None
    scopes: tuple[str, ...] = ()
    roles: tuple[tuple[str, str], ...] = ()
    ends: bool = False
    token: bool = True
    nats: bool = False

    @property
    def counts(self) -> bool:
        """Return whether anything may be asked for in the name of this caller."""
        return self.role is not None or (bool(self.roles) and not self.ends)


KINDS: dict[str, Kind] = {
    **{role: Kind(OWN, role) for role in ROLES},
    **{f"platform-{role}": Kind("global", role) for role in ROLES},
    "foreign": Kind(FOREIGN, "admin"),
    "narrowed": Kind(OWN, "admin", ("runs", "keys")),
    "narrowed-to-one": Kind(OWN, "admin", (f"workflow:{USUAL['name']}", f"source:{USUAL['name']}")),
    "narrowed-to-another": Kind(OWN, "admin", ("workflow:another", "source:another")),
    "platform-narrowed": Kind("global", "admin", ("sources", "identity-providers")),
    "platform-key": Kind("global", "admin"),
    "nats": Kind(OWN, "viewer", nats=True),
    "platform-nats": Kind("global", "viewer", nats=True),
    "none": Kind(),
    "unknown": Kind(),
    "expired": Kind(),
    "revoked": Kind(),
    "user": Kind(roles=((OWN, "operator"),)),
    "user-of-two": Kind(roles=((OWN, "viewer"), (FOREIGN, "admin"))),
    "user-of-platform": Kind(roles=((OWN, "admin"), ("global", "operator"))),
    "user-of-nothing": Kind(roles=(("elsewhere", "admin"),)),
    "user-without-token": Kind(roles=((OWN, "admin"),), token=False),
    "user-whose-role-changed": Kind(roles=((OWN, "admin"),), ends=True),
    "user-until-now": Kind(roles=((OWN, "admin"),), ends=True),
}


async def reached(_call: Call[Any, Any]) -> web.Response:
    """Answer for the handler of a route: the caller has come to it."""
    return web.Response(status=REACHED)


def bare(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that is declared as it is, and does nothing."""
    if endpoint.role is None:
        return endpoint
    return msgspec.structs.replace(endpoint, handler=reached, body=Streamed, query=None, audit=None)


def expected(endpoint: Endpoint, kind: Kind, named: str | None, path: dict[str, str]) -> int:
    """Return the status of the answer to a caller who names an organization, or none."""
    if kind.roles and not kind.token and endpoint.method != "GET":
        return 403
    if not kind.counts:
        return 401
    if kind.nats:
        return 403
    if endpoint.own is not None:
        return 403 if endpoint.own == "user" and not kind.roles else REACHED
    if kind.roles:
        return expected_of_user(endpoint, dict(kind.roles), named, path)
    if kind.org != "global":
        if endpoint.platform:
            return 403
        if (path.get("org") or named or kind.org) != kind.org:
            return 404
    if ROLES.index(str(kind.role)) < ROLES.index(str(endpoint.role)):
        return 403
    if not kind.scopes or endpoint.delegates:
        return REACHED
    group = endpoint.path.removeprefix("/api/v1").split("/")[1] if endpoint.path.startswith("/api") else "service"
    allowing = {group}
    if group in {"workflows", "sources"} and "name" in path:
        allowing.add(f"{group[:-1]}:{path['name']}")
    gives_rights = group in {"keys", "identity-providers"} and endpoint.method != "GET"
    return REACHED if allowing & set(kind.scopes) and not gives_rights else 403


def expected_of_user(endpoint: Endpoint, roles: dict[str, str], named: str | None, path: dict[str, str]) -> int:
    """Return the status of the answer to a user: the higher of the roles in the organization and in `global` counts."""
    only = next(iter(roles)) if len(roles) == 1 else None
    org = "global" if endpoint.platform else path.get("org") or named or only or "default"
    held = [ROLES.index(roles[one]) for one in {org, "global"} if one in roles]
    if not held:
        return 403 if endpoint.platform else 404
    return REACHED if max(held) >= ROLES.index(str(endpoint.role)) else 403


@pytest.fixture
async def client(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Client]:
    """A gateway whose routes do nothing, and another beside it that makes keys."""
    async with gateway(place) as maker:
        monkeypatch.setattr(application, "ENDPOINTS", tuple(map(bare, ENDPOINTS)))
        async with gateway(place) as made:
            made.maker = maker  # type: ignore[attr-defined]
            yield made


async def sessions(client: Client, maker: Client, place: Place) -> dict[str, Browser]:
    """Return a browser for every kind of user."""
    found: dict[str, Browser] = {}
    for name, kind in KINDS.items():
        if kind.roles:
            user = await user_of(maker, name, roles=dict(kind.roles))
            found[name] = await browser_of(place, client, user, seconds=0 if name == "user-until-now" else 3600)
    await user_of(maker, "user-whose-role-changed", roles={OWN: "developer"})
    return found


async def keys(maker: Client, place: Place) -> dict[str, str | None]:
    """Return a key for every kind of caller."""
    found: dict[str, str | None] = {"platform-key": place.credentials.admin_key, "none": None, "unknown": "mr_" + "x" * 43}
    for name, kind in KINDS.items():
        if name in found or kind.roles:
            continue
        body = {"name": name, "role": kind.role or "admin", "scopes": kind.scopes, "nats": kind.nats}
        if name == "expired":
            # Time enough to be made first.
            body["expires_at"] = rfc3339(utc_now() + timedelta(seconds=7))
        got = await maker("POST", f"/api/v1/keys?org={kind.org}", json=body)
        assert got.status == 201, got.body
        found[name] = got.json["key"]
    assert (await maker("DELETE", f"/api/v1/keys/revoked?org={OWN}")).status == 204
    return found


async def test_every_route_answers_every_caller_as_it_is_declared(client: Client, place: Place) -> None:
    given = {
        name: {} if key is None else {"Authorization": f"Bearer {key}"}
        for name, key in (await keys(client.maker, place)).items()  # type: ignore[attr-defined]
    }
    browsers = await sessions(client, client.maker, place)  # type: ignore[attr-defined]
    given |= {name: one.changes if KINDS[name].token else one.looks | {"Origin": one.url} for name, one in browsers.items()}

    async def settled() -> bool:
        found = {name: (await client("GET", "/api/v1/me", headers=headers)).status == 401 for name, headers in given.items()}
        return found == {name: not kind.counts for name, kind in KINDS.items()}

    await eventually(settled)
    keyed = [one for one in ENDPOINTS if one.role is not None]
    wrong: list[tuple[Any, ...]] = []
    room = asyncio.Semaphore(AT_ONCE)

    async def send(endpoint: Endpoint, name: str, named: str | None) -> None:
        path = {part: endpoint.example.path.get(part, USUAL[part]) for part in endpoint.parts}
        if "org" in path:
            path["org"] = named or OWN
        address = "/".join(
            path[part[1:-1].partition(":")[0]] if part.startswith("{") else part for part in endpoint.path.split("/")
        )
        async with room:
            query = "" if named is None else f"?org={named}"
            got = await client(endpoint.method, address + query, headers=given[name])
        wanted = expected(endpoint, KINDS[name], named, path)
        if got.status != wanted:
            wrong.append((endpoint.name, name, named, got.status, wanted))

    await asyncio.gather(*(send(one, name, named) for one in keyed for name in KINDS for named in (None, OWN, FOREIGN, "global")))
    assert wrong == []
    assert len(keyed) > 100


def test_what_needs_no_key_is_listed() -> None:
    assert {one.path for one in ENDPOINTS if one.role is None} == PUBLIC
