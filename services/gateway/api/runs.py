"""/api/v1/runs: asking for runs, looking at them, stopping them."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web

from services.gateway.api.access import Caller
from services.gateway.api.content import Content, sent
from services.gateway.api.endpoint import (
    CACHED,
    ETAG,
    IDEMPOTENCY_KEY,
    LOCATION,
    Answer,
    Audit,
    Call,
    Example,
    Reply,
    endpoint,
)
from services.gateway.api.lists import MAX_LIMIT, Paged, idempotency_key_of
from services.gateway.causes import Said, Why, why
from services.gateway.domain import chain_began
from services.gateway.idempotency import run_id
from services.gateway.parts import Gateway
from services.gateway.starts import Priority, RequestedRun, Start, ended, known, start
from shared import aggregate
from shared.envelope import Envelope, Sealed, derived_id, new_id, rfc3339, utc_now
from shared.errors import Conflict, Invalid, Malformed, NotFound, Problem
from shared.messages import RunCancelRequested
from shared.questions import Page
from shared.questions.logs import ReadChain, Search
from shared.questions.runs import (
    AttemptList,
    GetRun,
    LineList,
    ListAttempts,
    ListLines,
    ListRuns,
    ListSteps,
    RunList,
    RunView,
    Signalled,
    SignalRun,
    StepList,
)
from shared.runs import END_TYPES, ENDED, StatusOfRun
from shared.values import YEAR, Instant, later, moment_at

MAX_WAIT = 60.0
MAX_TIMEOUT = 24 * 3600.0
MAX_CONCURRENCY_KEY = 200
MAX_SIGNAL = 1024 * 1024
# Of a run that failed: the lines that are likely to show why.
LAST_LINES = 10


class RunBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run to start; `timeout` in seconds instead of the workflow's own."""

    input: dict[str, Any] = {}
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT)] | None = None
    priority: Priority = "normal"
    run_at: Instant | None = None
    """RFC 3339, up to a year ahead."""
    deadline: Annotated[float, msgspec.Meta(gt=0, le=YEAR)] | None = None
    """Seconds from the request, or from `run_at`, within which the run has to begin."""
    concurrency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CONCURRENCY_KEY)] | None = None
    """Takes the place of the workflow's own."""


class WaitQuery(msgspec.Struct, frozen=True):
    """The time that a request for a run waits for its end."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT, description="Seconds.")] = 0.0


class RunsQuery(Paged, frozen=True, kw_only=True):
    """Filters for a list of runs."""

    status: StatusOfRun | None = None
    workflow: Annotated[str, msgspec.Meta(description="A workflow's name.")] | None = None
    since: Annotated[str, msgspec.Meta(description="RFC 3339; asked for then or later.")] | None = None
    until: Annotated[str, msgspec.Meta(description="RFC 3339; asked for before.")] | None = None
    id: Annotated[str, msgspec.Meta(description="How the id begins.")] | None = None


class LinesQuery(msgspec.Struct, frozen=True):
    """A selection of a run's lines."""

    after: Annotated[int, msgspec.Meta(ge=0, le=2**53, description="The number of a line; those behind it are meant.")] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = MAX_LIMIT


class StepsQuery(Paged, frozen=True, kw_only=True):
    """A page of steps, and the form of their results."""

    results: Annotated[bool, msgspec.Meta(description="Whether their results are shown, or only how large they are.")] = True


class WhyQuery(msgspec.Struct, frozen=True):
    """Bounds for reading a chain."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=2000, description="Messages of the chain.")] = 1000


class RunBegun(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run that has not ended; `blocked_on` and `until` say why one does not go on now."""

    id: str
    status: str
    blocked_on: str | None = None
    until: str | None = None


REQUESTED = Reply(RunBegun, headers=(LOCATION,))


@endpoint(
    "POST",
    "/api/v1/workflows/{name}/runs",
    role="operator",
    answers={202: REQUESTED, 200: Reply(RunView, headers=(LOCATION,))},
    headers=(IDEMPOTENCY_KEY,),
    errors=(NotFound, Conflict),
    audit=Audit("run", "request", "name"),
    example=Example(body={"input": {"limit": 20}}),
)
async def create_run(call: Call[WaitQuery, RunBody]) -> Answer:
    """Ask for a run: 200 with the whole run if it ended within `wait` seconds, else 202 with its id and how it is then."""
    gateway, caller = call.gateway, call.caller
    asked = await requested(call)
    with gateway.endings.waiter(asked.run) as end:
        outcome = await start(gateway, asked)
        call.done()
        view = await known(gateway, caller.org, asked.run) if outcome.request is None else None
        if call.query.wait and not (view is not None and view.status in ENDED):
            view = await ended(gateway, caller.org, outcome, end, call.query.wait)
    return _answer(outcome, view)


@endpoint("GET", "/api/v1/runs", role="viewer", errors=(Malformed,), example=Example(query={"status": "failed", "limit": "20"}))
async def list_runs(call: Call[RunsQuery, None]) -> RunList:
    """List runs, newest first."""
    query = call.query
    return await call.ask(
        ListRuns(
            org=call.caller.org,
            page=query.page,
            status=query.status,
            workflow=query.workflow,
            since=query.since,
            until=query.until,
            id=query.id,
        )
    )


@endpoint("GET", "/api/v1/runs/{id}", role="viewer", errors=(NotFound,))
async def get_run(call: Call[None, None]) -> RunView:
    """Show one run."""
    return await _run(call)


@endpoint(
    "GET",
    "/api/v1/runs/{id}/result",
    role="viewer",
    answers={200: Reply(Any, headers=(ETAG,)), 304: None},
    headers=(CACHED,),
    errors=(NotFound,),
)
async def get_result(call: Call[None, None]) -> web.StreamResponse:
    """Send the result of a run that succeeded, however large; the SHA-256 of its JSON is its tag. 404 where there is none."""
    view = await _run(call)
    if view.status != "succeeded":
        raise NotFound(f"the run has no result: it is {view.status}")
    inline = None if view.result_ref is not None else msgspec.json.encode(view.result)
    tag = view.result_ref if inline is None else hashlib.sha256(inline).hexdigest()
    size = view.result_bytes if inline is None else len(inline)
    stored = None if inline is not None else call.gateway.results
    return await sent(call.request, Content(tag or "", size or 0, "application/json", in_parts=False), stored, inline)


@endpoint("GET", "/api/v1/runs/{id}/logs", role="viewer", errors=(NotFound,))
async def get_lines(call: Call[LinesQuery, None]) -> LineList:
    """List the lines of a run's output, in order."""
    return await call.ask(ListLines(org=call.caller.org, id=call.path["id"], after=call.query.after, limit=call.query.limit))


@endpoint("GET", "/api/v1/runs/{id}/attempts", role="viewer", errors=(NotFound,))
async def get_attempts(call: Call[Paged, None]) -> AttemptList:
    """List a run's attempts, the first one first."""
    return await call.ask(ListAttempts(org=call.caller.org, id=call.path["id"], page=call.query.page))


@endpoint("GET", "/api/v1/runs/{id}/steps", role="viewer", errors=(NotFound,))
async def get_steps(call: Call[StepsQuery, None]) -> StepList:
    """List the steps of a run that are done and the waits that are over."""
    return await call.ask(ListSteps(org=call.caller.org, id=call.path["id"], results=call.query.results, page=call.query.page))


@endpoint("GET", "/api/v1/runs/{id}/why", role="viewer", errors=(NotFound,))
async def get_why(call: Call[WhyQuery, None]) -> Why:
    """Show the chain that a run is of, as a tree of causes; and how the run failed, if it did."""
    org = call.caller.org
    run = await _run(call)
    since = chain_began(run.correlation_id, datetime.fromisoformat(run.requested_at))
    asked = ReadChain(org=org, correlation_id=run.correlation_id, since=rfc3339(since), limit=call.query.limit)
    chain = await call.ask(asked)
    found = why(run.id, chain.items, cut=chain.cut)
    if run.status not in ENDED or run.status == "succeeded":
        return found
    query = f'type:line.logged run:"{run.id}"'
    last = await call.ask(Search(org=org, q=query, since=rfc3339(since), page=Page(limit=LAST_LINES)))
    lines = [Said(item.time, item.level, item.message, item.fields) for item in reversed(last.items)]
    return msgspec.structs.replace(found, status=run.status, reason=run.reason, error=run.error, lines=lines)


@endpoint(
    "POST",
    "/api/v1/runs/{id}/cancel",
    role="operator",
    answers={202: RunBegun},
    errors=(NotFound, Conflict),
    audit=Audit("run", "cancel", "id"),
)
async def cancel_run(call: Call[None, None]) -> RunBegun:
    """Ask a run to stop; durable when this answers. 409 when it has ended."""
    gateway, caller, run = call.gateway, call.caller, call.path["id"]
    identity = new_id()

    async def read() -> tuple[tuple[Envelope, bool], int]:
        first, sequence, cancelling = await _open_run(gateway, caller, run)
        return (first, cancelling), sequence

    async def asked(found: tuple[Envelope, bool]) -> Sealed[RunCancelRequested] | None:
        first, cancelling = found
        message = RunCancelRequested(run=run, requested_by=caller.actor)
        return None if cancelling else gateway.bus.seal(message, org=caller.org, cause=first, id=identity)

    await aggregate.advance(gateway.bus, read, asked)
    return RunBegun(run, "cancelling")


@endpoint(
    "POST",
    "/api/v1/runs/{id}/rerun",
    role="operator",
    answers={202: REQUESTED},
    headers=(IDEMPOTENCY_KEY,),
    errors=(NotFound, Conflict),
    audit=Audit("run", "rerun", "id"),
)
async def rerun_run(call: Call[None, None]) -> Answer:
    """Ask for a new run of the same workflow, as it is now, with the same input."""
    gateway, caller = call.gateway, call.caller
    earlier = await _run(call)
    if earlier.erased:
        raise Conflict(f"the input of run {earlier.id} was erased: start another one")
    workflow = await gateway.workflows.find(caller.org, earlier.workflow)
    given = earlier.input if earlier.input_ref is None else await kept_input(gateway, earlier.id, earlier.input_ref)
    gateway.workflows.check(workflow, given)
    key = idempotency_key_of(call.request)
    asked = Start(
        run=new_id() if key is None else derived_id(earlier.id, "rerun", key),
        org=caller.org,
        workflow=workflow,
        input=given,
        input_ref=earlier.input_ref,
        actor=caller.actor,
        repeatable=key is not None,
        rerun_of=earlier.id,
        scheduled_for=earlier.scheduled_for,
    )
    call.note(run=asked.run)
    return _answer(await start(gateway, asked), None)


@endpoint(
    "POST",
    "/api/v1/runs/{id}/signals/{name}",
    role="operator",
    answers={202: Signalled},
    body_limit=MAX_SIGNAL,
    errors=(NotFound, Conflict),
    audit=Audit("run", "signal", "id"),
    example=Example(path={"name": "approved"}, body={"by": "ops@example.org"}),
)
async def signal_run(call: Call[None, Any]) -> Signalled:
    """Answer a `wait_for` of a run; the body is the data. On disk when this answers. 409 when the run has ended."""
    caller = call.caller
    return await call.ask(
        SignalRun(id=new_id(), org=caller.org, actor=caller.actor, run=call.path["id"], name=call.path["name"], data=call.body)
    )


async def requested(call: Call[Any, RunBody]) -> Start:
    """Return the run that a call asks for. Raises `NotFound` for no workflow, `Invalid` for an input that does not fit it."""
    gateway, caller, body = call.gateway, call.caller, call.body
    key = idempotency_key_of(call.request)
    workflow = await gateway.workflows.find(caller.org, call.path["name"])
    gateway.workflows.check(workflow, body.input)
    asked = Start(
        run=new_id() if key is None else run_id(caller.org, key, gateway.removing.last_of(caller.org)),
        org=caller.org,
        workflow=workflow,
        input=body.input,
        actor=caller.actor,
        timeout=body.timeout,
        priority=body.priority,
        run_at=_ahead(body.run_at),
        deadline=body.deadline,
        concurrency_key=body.concurrency_key,
        repeatable=key is not None,
    )
    call.note(run=asked.run)
    return asked


async def _run(call: Call[Any, Any]) -> RunView:
    return await call.ask(GetRun(org=call.caller.org, id=call.path["id"]))


async def kept_input(gateway: Gateway, run: str, sha256: str) -> Any:
    """Return an input that is too large for a message. Raises `Conflict` when it is no longer kept."""
    try:
        return msgspec.json.decode(await gateway.bodies.read(sha256))
    except NotFound as error:
        raise Conflict(f"the input of run {run} was too large for a message and is no longer kept") from error


async def _open_run(gateway: Gateway, caller: Caller, run: str) -> tuple[Envelope, int, bool]:
    """Return a run's first message, the sequence of its last, and whether a stop was requested already.

    The messages in between, which may be many, are not read. Raises `NotFound`, `Conflict` when the run has ended.
    """
    client = gateway.bus.client
    first = await aggregate.first(client, "run", run)
    if first is not None:
        if first.envelope.org != caller.org:
            raise NotFound(f"there is no run {run!r}")
        last = await aggregate.last(client, "run", run) or first
        if last.envelope.type in END_TYPES:
            raise Conflict(f"the run has ended already: {last.envelope.type.partition('.')[2]}")
        # A request whose first copy was purged may come again after the end, and so may foreign messages.
        is_doubtful = last.sequence > first.sequence and last.envelope.type in {"run.requested", aggregate.UNREADABLE}
        view = await known(gateway, caller.org, run) if is_doubtful else None
        if view is None or view.status not in ENDED:
            asked = await aggregate.last(client, "run", run, "cancel_requested")
            return first.envelope, last.sequence, asked is not None
        raise Conflict(f"the run has ended already: {view.status}")
    if await known(gateway, caller.org, run) is None:
        raise NotFound(f"there is no run {run!r}")
    # The bus has forgotten it, as it does with runs that ended long ago.
    raise Conflict("the run has ended already")


def _answer(outcome: RequestedRun, view: RunView | None) -> Answer:
    location = f"/api/v1/runs/{outcome.run}"
    if view is not None and view.status in ENDED:
        return Answer(status=200, body=view, location=location)
    begun = RunBegun(outcome.run, "queued") if view is None else RunBegun(view.id, view.status, view.blocked_on, view.until)
    return Answer(body=begun, location=location)


def _ahead(run_at: str | None) -> str | None:
    """Return a time to begin at as it travels; one that has passed is now."""
    if run_at is None:
        return None
    at = moment_at(run_at, "run_at")
    if at > later(utc_now(), YEAR):
        raise Invalid("run_at is more than a year ahead", errors=(Problem("run_at", "more than a year ahead"),))
    return rfc3339(at)


ENDPOINTS = (
    create_run,
    list_runs,
    get_run,
    get_why,
    get_attempts,
    get_steps,
    get_result,
    get_lines,
    cancel_run,
    rerun_run,
    signal_run,
)
