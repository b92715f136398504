"""/api/v1/needs: whether the runs of an organization would find what their code needs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from services.gateway.api.endpoint import Call, Endpoint, Example, endpoint
from services.gateway.api.lists import Object
from shared.errors import Invalid, Problem
from shared.organizations import seen_by
from shared.questions.declaration import MOST_ITEMS, Page
from shared.questions.resources import ListResources, of
from shared.values import Name

Names = Annotated[list[Name], msgspec.Meta(max_length=200)]
# Of connections: those of which a run would be given what works.
WORKING = {"active", "healthy", "refreshing", "degraded"}


class Needs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What code needs, by name."""

    connections: Annotated[Names, msgspec.Meta(description="Connections, its own or the platform's.")] = []
    secrets: Annotated[Names, msgspec.Meta(description="Secrets, its own or the platform's.")] = []
    variables: Annotated[Names, msgspec.Meta(description="Variables, its own or the platform's.")] = []
    domains: Annotated[Names, msgspec.Meta(description="Hosts that runs call: `api.example.com`, or with a port.")] = []


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """One of them; `reason` is why it is not met. A connection that is there has a `status`."""

    kind: Literal["connection", "secret", "variable", "domain"]
    name: str
    met: bool
    reason: str | None = None
    status: str | None = None


class NeedList(msgspec.Struct, frozen=True):
    """All that was asked for, in this order: connections, secrets, variables, domains."""

    items: list[Need]
    next_cursor: None = None


@endpoint(
    "POST",
    "/api/v1/needs",
    role="developer",
    example=Example(
        body={"connections": ["github"], "secrets": ["signing"], "variables": ["region"], "domains": ["api.github.com"]}
    ),
)
async def check_needs(call: Call[None, Needs]) -> NeedList:
    """Say what of a list the runs of the organization would find, as it is now; nothing is changed.

    Of a host the egress policy is asked by its name: whether it has an address, and answers, is not tried.
    """
    asked, org = call.body, call.caller.org
    # What is refused is refused before anything is asked.
    domains = [_domain(call, number, name) for number, name in enumerate(asked.domains)]
    connections = await _named(call, "connection") if asked.connections else {}
    items = [_connection(name, connections.get(name), org) for name in asked.connections]
    for kind, names in (("secret", asked.secrets), ("variable", asked.variables)):
        found = await _named(call, kind) if names else {}
        items += [_value(kind, name, found.get(name)) for name in names]
    return NeedList(items + domains)


def _connection(name: str, found: Object | None, org: str) -> Need:
    if found is None:
        return Need(kind="connection", name=name, met=False, reason="is not there")
    met = found["status"] in WORKING
    if found["org"] != org:
        # How it is, is the platform's alone to know.
        return Need(kind="connection", name=name, met=met, reason=None if met else "is the platform's, and does not work")
    reason = None if met else found["reason"] or f"is {found['status']}"
    return Need(kind="connection", name=name, met=met, reason=reason, status=found["status"])


def _value(kind: Any, name: str, found: Object | None) -> Need:
    reason = None
    if found is None:
        reason = "is not there"
    elif found.get("readers") == "services":
        reason = "is kept for services: no run is given it"
    elif found.get("status") == "quarantined":
        reason = "cannot be opened: the key that sealed it is missing"
    return Need(kind=kind, name=name, met=reason is None, reason=reason)


def _domain(call: Call[None, Needs], number: int, name: str) -> Need:
    try:
        reason = call.gateway.fetcher.refusal(call.caller.org, name)
    except ValueError as error:
        raise Invalid(f"{name[:120]!r} is no host: {error}", errors=(Problem(f"domains.{number}", str(error)),)) from error
    return Need(kind="domain", name=name, met=reason is None, reason=reason)


async def _named(call: Call[None, Needs], noun: str) -> dict[str, Object]:
    """Return the resources of a kind that runs of the organization find, by name: its own, else the platform's.

    One that is kept for services is among them where it is its own, and no run finds another.
    """
    found: dict[str, Object] = {}
    for org in reversed(seen_by(call.caller.org)):
        page = Page(limit=MOST_ITEMS)
        while True:
            listed = await call.ask(of(ListResources, noun, org=org, page=page))
            for one in listed.items:
                if one.get("readers") != "services":
                    found[one["name"]] = one
                elif org == call.caller.org:
                    found.setdefault(one["name"], one)
            if listed.next_cursor is None:
                break
            page = Page(limit=MOST_ITEMS, cursor=listed.next_cursor)
    return found


ENDPOINTS: tuple[Endpoint, ...] = (check_needs,)
