"""/api/v1/erasures: messages are erased for good."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import Audit, Call, Example, endpoint
from services.gateway.api.logs import PARAMETERS
from services.gateway.domain import EVERY_ORG
from shared.envelope import new_id
from shared.errors import Invalid, Malformed, Problem
from shared.organizations import PLATFORM
from shared.questions.erasing import Erased, EraseMessages
from shared.values import Expression, Instant, Opaque


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be erased: the messages of `org` that `q` matches between `from` and `to`, and why. `cursor` goes on."""

    org: Annotated[str, msgspec.Meta(pattern=r"\A([A-Za-z0-9_-]{1,64}|\*)\Z", description="An organization; `*`: all of them.")]
    q: Annotated[Expression, msgspec.Meta(min_length=1, description="As in a search of the logs.")]
    reason: Annotated[
        str, msgspec.Meta(min_length=1, max_length=500, description="Is kept in the audit trail: name no person in it.")
    ]
    since: Annotated[Instant, msgspec.Meta(description="RFC 3339, epoch milliseconds or `now-15m`.")] = msgspec.field(name="from")
    until: Annotated[Instant, msgspec.Meta(description="As `from`.")] | None = msgspec.field(default=None, name="to")
    cursor: Opaque | None = None


@endpoint(
    "POST",
    "/api/v1/erasures",
    role="admin",
    errors=(Malformed,),
    platform=True,
    audit=Audit("archive", "erase"),
    example=Example(
        body={"org": "default", "q": "type:run.succeeded workflow:nothing-is-called-so", "reason": "request 17", "from": "now-1h"}
    ),
)
async def erase_messages(call: Call[None, Erasure]) -> Erased:
    """Erase a part of the messages of a search, of one organization or of all; repeat it with `next_cursor`.

    Those that are still needed are kept, and named in `kept` with the reason. For administrators of the platform.
    """
    body = call.body
    everything = body.org == EVERY_ORG
    # Not what was looked for: who asks to be forgotten is often named there. The records of the archive have the places.
    call.note(target=body.org, reason=body.reason)
    command = EraseMessages(
        id=new_id(),
        org=PLATFORM if everything else body.org,
        actor=call.caller.actor,
        q=body.q,
        reason=body.reason,
        everything=everything,
        since=body.since,
        until=body.until,
        cursor=body.cursor,
    )
    try:
        erased = await call.ask(command)
    except Invalid as error:
        problems = tuple(Problem(PARAMETERS.get(one.path, one.path), one.message) for one in error.errors)
        raise Invalid(error.detail, errors=problems) from error
    call.note(erased=erased.erased, kept=len(erased.kept))
    return erased


ENDPOINTS = (erase_messages,)
