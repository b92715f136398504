"""The vault of the platform: sealing what it holds with another key."""

from __future__ import annotations

import msgspec

from services.gateway.api.access import authorize
from services.gateway.api.endpoint import Audit, Call, Endpoint, Example, endpoint
from shared.envelope import new_id
from shared.errors import Conflict
from shared.questions.oauth import RotateKeys, RotationView
from shared.values import Opaque, Words


class RotationPart(msgspec.Struct, frozen=True):
    """Where to go on: `key` and `next` of the answer before; nothing at the beginning."""

    key: Opaque | None = None
    after: Words = ""


@endpoint(
    "POST", "/api/v1/vault/rotate", role="admin", errors=(Conflict,), audit=Audit("vault", "rotate"), example=Example(body={})
)
async def rotate_keys(call: Call[None, RotationPart]) -> RotationView:
    """Seal a part of what an older key of the services seals with the first one.

    To be called with `key` and `next` of each answer, until `next` is null. It may be begun anew at any time. 409 where replicas
    have different first keys.
    """
    caller = call.caller
    # The keys are the platform's, whatever organization is meant.
    authorize(msgspec.structs.replace(caller, org="global"), "admin")
    part = await call.ask(RotateKeys(id=new_id(), org="global", actor=caller.actor, key=call.body.key, after=call.body.after))
    call.note(target=part.key, resealed=str(part.resealed), left=str(part.left))
    return part


ENDPOINTS: tuple[Endpoint, ...] = (rotate_keys,)
