"""/api/v1/users: the people who sign in, as the platform sees them."""

from __future__ import annotations

from typing import Any

from services.gateway.api.endpoint import Answer, Call, Endpoint
from services.gateway.api.lists import Object
from services.gateway.api.resources import Applying, Resources, check_known, endpoints_of
from shared.resources import KINDS

KIND = KINDS["user"]


class UserResources(Resources):
    """The handlers of users: what one may do, and who is one, counts at this gateway when it is answered."""

    async def delete(self, call: Call[None, None]) -> Answer:
        """Remove a user, with its sessions and what it signs in with."""
        id_ = (await self._present(call)).fields["id"]
        answer = await super().delete(call)
        is_known = await call.gateway.users.reflect(id_, None)
        await call.gateway.sessions.end_all(id_)
        await call.gateway.credentials.forget(id_)
        check_known(call, is_known=is_known)
        return answer

    async def _put(self, call: Call[Applying, Any], name: str, fields: Object, **given: Any) -> Answer:
        answer = await super()._put(call, name, fields, **given)
        if not call.query.dry_run:
            check_known(call, is_known=await call.gateway.users.reflect(answer.body["id"], answer.body["version"]))
        return answer


ENDPOINTS: tuple[Endpoint, ...] = endpoints_of(KIND, UserResources(KIND), whole=True)
