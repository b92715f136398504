"""/api/v1/state: the small values that an organization's workflows share."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from services.gateway.api.endpoint import ETAG, IF_MATCH, IF_NONE_MATCH, Answer, Audit, Call, Example, Reply, endpoint
from services.gateway.api.lists import Paged, expected_of
from shared.envelope import new_id
from shared.errors import Malformed, NotFound, PreconditionFailed, TooMany
from shared.questions.state import GetState, ListState, PutState, RemoveState, StateList, StateView
from shared.values import YEAR

KEY = r"/api/v1/state/{path:[\s\S]+}"


class StateQuery(Paged, frozen=True, kw_only=True):
    """Keys of a list."""

    prefix: Annotated[str, msgspec.Meta(max_length=200, description="How the keys begin.")] = ""


class StateBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value, any JSON of at most 16 KiB; `ttl` in seconds, after which it is not there any more."""

    value: Any
    ttl: Annotated[float, msgspec.Meta(gt=0, le=YEAR)] | None = None


@endpoint("GET", "/api/v1/state", role="viewer", errors=(Malformed,))
async def list_state(call: Call[StateQuery, None]) -> StateList:
    """List the values of the organization's state, by key."""
    return await call.ask(ListState(org=call.caller.org, prefix=call.query.prefix, page=call.query.page))


@endpoint("GET", KEY, role="viewer", answers={200: Reply(StateView, headers=(ETAG,))}, errors=(NotFound,))
async def get_state(call: Call[None, None]) -> Answer:
    """Show one value; its version is its tag."""
    found = await call.ask(GetState(org=call.caller.org, key=call.path["path"]))
    return Answer(body=found, tag=found.version)


@endpoint(
    "PUT",
    KEY,
    role="developer",
    answers={200: Reply(StateView, headers=(ETAG,))},
    headers=(IF_MATCH, IF_NONE_MATCH),
    errors=(PreconditionFailed, TooMany),
    audit=Audit("state", "put", "path"),
    example=Example(path={"path": "sync/cursor"}, body={"value": {"after": "2026-01-02"}}),
)
async def put_state(call: Call[None, StateBody]) -> Answer:
    """Give a key a value."""
    put = PutState(
        id=new_id(),
        org=call.caller.org,
        actor=call.caller.actor,
        key=call.path["path"],
        value=call.body.value,
        expected=await _expected(call),
        ttl=call.body.ttl,
    )
    found = await call.ask(put)
    return Answer(body=found, tag=found.version)


@endpoint(
    "DELETE",
    KEY,
    role="developer",
    answers={204: None},
    headers=(IF_MATCH,),
    errors=(NotFound, PreconditionFailed),
    audit=Audit("state", "delete", "path"),
)
async def delete_state(call: Call[None, None]) -> None:
    """Remove a key."""
    caller = call.caller
    expected = await _expected(call)
    await call.ask(RemoveState(id=new_id(), org=caller.org, actor=caller.actor, key=call.path["path"], expected=expected))


async def _expected(call: Call[Any, Any]) -> int | None:
    async def present() -> StateView | None:
        try:
            return await call.ask(GetState(org=call.caller.org, key=call.path["path"]))
        except NotFound:
            return None

    return await expected_of(call.request, present)


ENDPOINTS = (list_state, get_state, put_state, delete_state)
