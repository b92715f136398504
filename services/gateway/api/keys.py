"""/api/v1/keys: keys of an organization, each shown once; and another value for one, while the present one goes on for a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import msgspec

from services.gateway.api.endpoint import CHANGE, ETAG, Answer, Audit, Call, Endpoint, Example, Reply, endpoint
from services.gateway.api.lists import Object
from services.gateway.api.resources import Applying, Resources, check_known, endpoints_of
from services.gateway.identity import NewKey, new_key
from shared.envelope import rfc3339, utc_now
from shared.errors import Conflict, NotFound
from shared.resources import KINDS
from shared.resources.declaration import about

KIND = KINDS["key"]
# Longer than any roll-out, and short enough that a value which is out is over at some time.
LONGEST = 30 * 86_400


class Rotating(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long the present value goes on."""

    overlap: Annotated[
        int, msgspec.Meta(ge=0, le=LONGEST), about("Seconds for which the present value counts beside the new one; 0: no longer.")
    ] = 0


class KeyResources(Resources):
    """The handlers of keys: one that is created gets its value here, and no other process sees that."""

    async def patch(self, call: Call[Applying, Object]) -> Answer:
        """Change the given fields of a key, known to this gateway when this returns."""
        return await _known(call, await super().patch(call))

    async def delete(self, call: Call[None, None]) -> Answer:
        """Revoke a key; here it counts no more when this returns."""
        id_ = (await self._present(call)).fields["id"]
        answer = await super().delete(call)
        check_known(call, is_known=await call.gateway.keys.reflect(id_, None))
        return answer

    async def _put(self, call: Call[Applying, Any], name: str, fields: Object, **given: Any) -> Answer:
        if given.get("patch") or given.get("internal") is not None:
            return await super()._put(call, name, fields, **given)
        key = new_key()
        answer = await super()._put(call, name, fields, **given | {"internal": _kept(key)})
        return await _known(call, answer, key if answer.headers[CHANGE.name] == "created" else None)

    async def rotate(self, call: Call[Any, Rotating]) -> Answer:
        """Give a key another value."""
        key, now = new_key(), utc_now()
        until = None if call.body.overlap == 0 else rfc3339(now + timedelta(seconds=call.body.overlap))
        internal = _kept(key) | {"rotated_at": rfc3339(now), "previous_until": until}
        answer = await self._put(call, call.path["name"], {}, expected=None, patch=True, internal=internal)
        return await _known(call, answer, key)


async def _known(call: Call[Any, Any], answer: Answer, key: NewKey | None = None) -> Answer:
    """Return an answer once this gateway knows what it says of a key; with the key's value, if it is new. Raises `Unavailable`."""
    if call.query.dry_run:
        return answer
    is_known = await call.gateway.keys.reflect(answer.body["id"], answer.body["version"])
    if key is None:
        check_known(call, is_known=is_known)
        return answer
    # Its value is shown only here, and counts a moment later at the latest.
    return msgspec.structs.replace(answer, body=answer.body | {"key": key.text})


def _kept(key: NewKey) -> Object:
    return {"digest": key.digest, "prefix": key.prefix}


_made = KeyResources(KIND)


@endpoint(
    "POST",
    "/api/v1/keys/{name}/rotate",
    role=KIND.write,
    whole=True,
    answers={200: Reply(KIND.shown, headers=(ETAG, CHANGE))},
    errors=(NotFound, Conflict),
    audit=Audit("key", "rotate", "name"),
    example=Example(body={"overlap": 3600}),
)
async def rotate_key(call: Call[Applying, Rotating]) -> Answer:
    """Give a key another value, which this answer shows once; the present one goes on for `overlap` seconds."""
    call.note(overlap=str(call.body.overlap))
    return await _made.rotate(call)


ENDPOINTS: tuple[Endpoint, ...] = (*endpoints_of(KIND, _made, whole=True), rotate_key)
