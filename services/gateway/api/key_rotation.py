"""The vault of the platform: sealing what it and other services hold with another key."""

from __future__ import annotations

import msgspec

from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, endpoint
from shared.envelope import new_id
from shared.errors import Conflict, Invalid, Problem
from shared.questions.rotation import ROTATING, RotationView
from shared.values import Opaque, Words


class RotationPart(msgspec.Struct, frozen=True):
    """Where to go on: `key` and `next` of the answer before; nothing at the beginning."""

    key: Opaque | None = None
    after: Words = ""


@endpoint(
    "POST",
    "/api/v1/vault/rotate",
    role="admin",
    platform=True,
    errors=(Conflict,),
    audit=Audit("vault", "rotate"),
    example=Example(body={}),
)
async def rotate_keys(call: Call[None, RotationPart]) -> RotationView:
    """Seal a part of what an older key of the services seals with the first one.

    To be called with `key` as the answer before has it, and its `next` as `after`, until `next` is null. Each service seals its
    own anew, one after the other, and `left` is what an older key still seals at `service`. It may be begun anew at any time. 409
    where replicas have different first keys.
    """
    caller = call.caller
    services = list(ROTATING)
    service, _, after = (call.body.after or services[0]).partition("/")
    if service not in ROTATING:
        raise Invalid("no answer has named this place", errors=(Problem("after", "is no place to go on from"),))
    command = ROTATING[service](id=new_id(), org="global", actor=caller.actor, key=call.body.key, after=after)
    part: RotationView = await call.ask(command)
    call.note(target=part.key, service=service, resealed=str(part.resealed), left=str(part.left))
    later = services[services.index(service) + 1 :]
    following = f"{service}/{part.next}" if part.next is not None else f"{later[0]}/" if later else None
    return msgspec.structs.replace(part, next=following)


ENDPOINTS: tuple[Endpoint, ...] = (rotate_keys,)
