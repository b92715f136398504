"""/api/v1/orgs and /api/v1/removals: organizations, and their removal with everything that belongs to them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import Answer, Call, Endpoint, Example, Reply, endpoint
from services.gateway.api.lists import Paged
from services.gateway.api.resources import Resources, endpoints_of
from services.gateway.removing.rows import RemovalView
from shared.errors import Conflict, Invalid, NotFound, Problem
from shared.organizations import PLATFORM
from shared.questions import MOST_ITEMS, cursor_after, fitting
from shared.questions.runs import CountUsed
from shared.resources import KINDS
from shared.resources.declaration import about

KIND = KINDS["organization"]
# What an organization leaves once nothing is declared in it any more: alone it does not keep the entry in the list.
HISTORY = {"message", "delivery", "dead_letter", "held", "run", "member"}


class WithErasing(msgspec.Struct, frozen=True, kw_only=True):
    """The query string of a removal."""

    erase: Annotated[bool, about("Remove everything that belongs to it as well, for good: nothing brings it back.")] = False


class RemovalPage(msgspec.Struct, frozen=True):
    """A page of removals."""

    items: list[RemovalView]
    next_cursor: str | None


class Quota(msgspec.Struct, frozen=True):
    """A quota, null where there is none, and how much of it is used."""

    limit: int | None
    used: int


class QuotaView(msgspec.Struct, frozen=True, kw_only=True):
    """The quotas of an organization. A day is one of UTC; bytes are those of the files in its workspace."""

    org: str
    runs_in_flight: Quota
    runs_a_day: Quota
    stored_bytes: Quota
    sources: Quota


_made = Resources(KIND)


async def _delete(call: Call[WithErasing, None]) -> Answer:
    """Remove an organization that has nothing, or, with `erase`, begin to remove it with everything that it has."""
    name, removing = call.path["name"], call.gateway.removing
    KIND.check_name(name)
    if name == PLATFORM:
        raise Invalid(f"{PLATFORM} is the platform's own", errors=(Problem("name", "is the platform's own"),))
    if call.query.erase:
        if not removing.is_removing(name) and not await removing.count(name, call.caller.actor):
            # In the list alone, or not there at all.
            return await _made.delete(call)  # type: ignore[arg-type]
        call.verb = "erase"
        begun = await removing.begin(name, call.caller.actor)
        call.note(removal=begun.id)
        return Answer(body=begun, status=202, location=f"/api/v1/removals/{name}")
    removing.check(name)
    found = await removing.count(name, call.caller.actor)
    if found.keys() - HISTORY:
        has = ", ".join(f"{kind}: {number:,}" for kind, number in found.items())
        raise Conflict(f"the organization {name!r} has {has}; with ?erase=true all of it is removed with it, for good")
    return await _made.delete(call)  # type: ignore[arg-type]


def _deleting(usual: Endpoint) -> Endpoint:
    """Return the endpoint that deletes one, in place of that of any kind."""
    doc = (
        "Remove an organization. 409, with what it has, where it has anything: with `erase` that is removed as well, in all stores "
        "and for good. It goes on until it is done (202); how far it is tells `/api/v1/removals/{name}`."
    )
    return msgspec.structs.replace(
        usual, query=WithErasing, handler=_delete, doc=doc, answers={204: None, 202: Reply(RemovalView)}, errors=(*usual.errors,)
    )


@endpoint("GET", "/api/v1/removals", role="viewer", platform=True)
async def list_removals(call: Call[Paged, None]) -> RemovalPage:
    """List the last removal of each organization that was removed with everything, or is about to be, by name."""
    limit = call.query.page.within(MOST_ITEMS)
    found = await call.gateway.removing.rows.page(call.query.page.after("removals"), limit + 1)
    items = fitting(found[:limit])
    return RemovalPage(items, cursor_after("removals", items[-1].organization) if len(found) > len(items) else None)


@endpoint("GET", "/api/v1/removals/{name}", role="viewer", platform=True, errors=(NotFound,), example=Example(status=404))
async def get_removal(call: Call[None, None]) -> RemovalView:
    """Show how far the last removal of an organization is: what was found, and is removed, at each owner at the last look."""
    found = await call.gateway.removing.rows.of(call.path["name"])
    if found is None:
        raise NotFound(f"no organization {call.path['name'][:80]!r} was removed with everything")
    return found


@endpoint("GET", "/api/v1/orgs/{org}/quotas", role="viewer")
async def get_quotas(call: Call[None, None]) -> QuotaView:
    """Show the quotas of an organization, and how much of each is used now. The platform sets them, at the organization."""
    gateway, org = call.gateway, call.caller.org
    limits, used = gateway.quotas.of(org), await call.ask(CountUsed(org=org))
    return QuotaView(
        org=org,
        runs_in_flight=Quota(limits.runs_in_flight, used.runs_in_flight),
        runs_a_day=Quota(limits.runs_a_day, used.runs_a_day),
        stored_bytes=Quota(limits.stored_bytes, used.stored_bytes),
        sources=Quota(limits.sources, gateway.admission.count(org)),
    )


ENDPOINTS: tuple[Endpoint, ...] = (
    *(_deleting(one) if one.method == "DELETE" else one for one in endpoints_of(KIND, _made)),
    list_removals,
    get_removal,
    get_quotas,
)
