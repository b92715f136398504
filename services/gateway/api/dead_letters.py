"""/api/v1/dead-letters: messages that no handler could take."""

from __future__ import annotations

from typing import Annotated

import msgspec

from services.gateway.api.endpoint import Audit, Call, endpoint
from services.gateway.api.lists import Paged
from shared.envelope import new_id
from shared.errors import Conflict, Malformed, NotFound
from shared.messages.log import SERVICES
from shared.questions.letters import (
    DeadLetterPage,
    DeadLetterView,
    DiscardDeadLetter,
    GetDeadLetter,
    LetterStatus,
    ListDeadLetters,
    ReplayDeadLetter,
)


class DeadLettersQuery(Paged, frozen=True, kw_only=True):
    """Filters for a list of dead letters."""

    status: LetterStatus | None = None
    service: Annotated[str, msgspec.Meta(description=f"The service that gave them up: {', '.join(SERVICES)}.")] | None = None
    id: Annotated[str, msgspec.Meta(description="How the id begins.")] | None = None


@endpoint("GET", "/api/v1/dead-letters", role="viewer", errors=(Malformed,), every_org=True)
async def list_dead_letters(call: Call[DeadLettersQuery, None]) -> DeadLetterPage:
    """List dead letters, newest first."""
    query = call.query
    return await call.ask(
        ListDeadLetters(org=call.caller.org, page=query.page, status=query.status, service=query.service, id=query.id)
    )


@endpoint("GET", "/api/v1/dead-letters/{id}", role="viewer", errors=(NotFound, Conflict))
async def get_dead_letter(call: Call[None, None]) -> DeadLetterView:
    """Show one dead letter, with the message as it was."""
    return await call.ask(GetDeadLetter(org=call.caller.org, id=call.path["id"]))


@endpoint(
    "POST",
    "/api/v1/dead-letters/{id}/replay",
    role="operator",
    answers={202: DeadLetterView},
    errors=(NotFound, Conflict),
    audit=Audit("dead_letter", "replay", "id"),
)
async def replay_dead_letter(call: Call[None, None]) -> DeadLetterView:
    """Handle the message of a dead letter again: its delivery is retried. 409 where it has its end, or is of no delivery."""
    caller = call.caller
    return await call.ask(ReplayDeadLetter(id=new_id(), org=caller.org, actor=caller.actor, letter=call.path["id"]))


@endpoint(
    "POST",
    "/api/v1/dead-letters/{id}/discard",
    role="operator",
    errors=(NotFound, Conflict),
    audit=Audit("dead_letter", "discard", "id"),
)
async def discard_dead_letter(call: Call[None, None]) -> DeadLetterView:
    """Put a dead letter aside for good; it stays listed as discarded. 409 where it has its end."""
    caller = call.caller
    return await call.ask(DiscardDeadLetter(id=new_id(), org=caller.org, actor=caller.actor, letter=call.path["id"]))


ENDPOINTS = (list_dead_letters, get_dead_letter, replay_dead_letter, discard_dead_letter)
