"""POST /api/v1/runs/{id}/resume: going on with a run that ended without success."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, cast

import msgspec

from services.gateway.api.endpoint import LOCATION, Answer, Audit, Call, Example, Reply, endpoint
from services.gateway.api.runs import kept_input
from services.gateway.starts import Priority, Start, start
from shared.errors import Conflict, Invalid, NotFound
from shared.questions.runs import GetRecord, resumed
from shared.streams import INLINE_BYTES

MOST_NAME = 200


class ResumeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an ended run is to go on."""

    version: Literal["same", "latest"] = "latest"
    """The code: that of the run, or the workflow as it is now."""
    input: dict[str, Any] = {}
    """Changes of the input, as a JSON merge patch (RFC 7396)."""
    forget: Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_NAME)]], msgspec.Meta(max_length=100)] = []
    """Names of steps and waits that are to be done again."""


class RunResumes(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run that goes on where another ended, with so many of its steps and waits, and of its signals.

    `repeated` where this very request had been made before, and nothing was begun.
    """

    id: str
    status: str
    resumes: str
    steps: int = 0
    signals: int = 0
    repeated: bool = False


@endpoint(
    "POST",
    "/api/v1/runs/{id}/resume",
    role="operator",
    answers={202: Reply(RunResumes, headers=(LOCATION,))},
    errors=(NotFound, Conflict),
    audit=Audit("run", "resume", "id"),
    example=Example(body={"version": "latest"}),
)
async def resume_run(call: Call[None, ResumeBody]) -> Answer:
    """Go on with a run that ended without success, in a new one that repeats none of its steps and waits.

    The same request answers the same run; 409 when another one resumes it already, when it succeeded or has not ended.
    """
    gateway, caller, body = call.gateway, call.caller, call.body
    found = await call.ask(GetRecord(org=caller.org, id=call.path["id"], forget=body.forget))
    earlier = found.view
    workflow = await gateway.workflows.find(caller.org, earlier.workflow)
    given, input_ref = earlier.input, earlier.input_ref
    if body.input:
        before = given if input_ref is None else await kept_input(gateway, earlier.id, input_ref)
        given = patched(before, body.input)
        encoded = msgspec.json.encode(given)
        input_ref = None if len(encoded) <= INLINE_BYTES else (await gateway.bodies.put(_whole(encoded))).sha256
    elif input_ref is not None:
        given = await kept_input(gateway, earlier.id, input_ref)
    if body.version == "latest" or workflow.version == earlier.version:
        gateway.workflows.check(workflow, given)
    else:
        workflow = msgspec.structs.replace(workflow, version=earlier.version, org=found.workflow_org or caller.org)
    asked = Start(
        run=resumed(earlier.id),
        org=caller.org,
        workflow=workflow,
        input=given,
        input_ref=input_ref,
        actor=caller.actor,
        timeout=found.timeout if body.version == "same" else None,
        priority=cast("Priority", found.priority),
        concurrency_key=found.concurrency_key,
        repeatable=True,
        resumes=earlier.id,
        record_ref=found.record_ref,
        scheduled_for=earlier.scheduled_for,
        chain=earlier.correlation_id,
        delivery=earlier.delivery,
    )
    call.note(run=asked.run)
    try:
        requested = await start(gateway, asked)
    except Invalid as error:
        if any(problem.path == "Idempotency-Key" for problem in error.errors):
            raise Conflict(f"the run {earlier.id} was resumed already, in another way: by {asked.run}") from error
        raise
    begun = RunResumes(asked.run, "queued", earlier.id, found.steps, found.signals, repeated=requested.request is None)
    return Answer(body=begun, location=f"/api/v1/runs/{asked.run}")


def patched(document: Any, patch: Any) -> Any:
    """Return a document with a JSON merge patch applied (RFC 7396, section 2)."""
    if not isinstance(patch, dict):
        return patch
    found = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = patched(found.get(name), value)
    return found


async def _whole(document: bytes) -> AsyncIterator[bytes]:
    yield document


ENDPOINTS = (resume_run,)
