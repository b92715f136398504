"""/api/v1/runs: asking for runs, looking at them, stopping them."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web

from services.gateway.api.access import Caller, audited, done, gateway_of, note
from services.gateway.api.content import Content, sent
from services.gateway.api.lists import boolean_of, id_of, idempotency_key_of, no_body, object_of, page_of
from services.gateway.causes import Said, why
from services.gateway.domain import ENDED, TERMINAL, UNENDED, chain_began
from services.gateway.idempotency import run_id
from services.gateway.parts import Gateway
from services.gateway.starts import Asked, Priority, Start, ended, known, start
from shared import aggregate
from shared.envelope import Envelope, Sealed, new_id, rfc3339, utc_now
from shared.errors import Conflict, Invalid, NotFound, Problem
from shared.http import body_of, integer_of, json_response
from shared.messages import RunCancelRequested
from shared.questions import Page
from shared.questions.executor import GetRun, ListAttempts, ListLines, ListRuns, ListSteps, RunView, SignalRun
from shared.questions.logs import Chain, LogPage, ReadChain, Search
from shared.values import YEAR, Instant, aside, decode, fitted, later, moment_at

MAX_WAIT = 60.0
MAX_TIMEOUT = 24 * 3600.0
MAX_CONCURRENCY_KEY = 200
MAX_SIGNAL = 1024 * 1024
# Of a run that failed: what is likely to say why.
LAST_LINES = 10


class RunBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run is given; `timeout` in seconds instead of the workflow's own."""

    input: dict[str, Any] = {}
    timeout: Annotated[float, msgspec.Meta(gt=0, le=MAX_TIMEOUT)] | None = None
    priority: Priority = "normal"
    run_at: Instant | None = None
    """RFC 3339, up to a year ahead."""
    deadline: Annotated[float, msgspec.Meta(gt=0, le=YEAR)] | None = None
    """Seconds from the request, or from `run_at`, within which the run has to begin."""
    concurrency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CONCURRENCY_KEY)] | None = None
    """Takes the place of the workflow's own."""


@audited("run", "request", "name")
async def create_run(request: web.Request) -> web.Response:
    """POST: ask for a run; 200 with the whole run if it ended within `?wait=` seconds, else 202 with its id and how it is then."""
    gateway, caller = gateway_of(request)
    wait = _seconds(request)
    key = idempotency_key_of(request)
    body: RunBody = fitted(await object_of(request), RunBody)
    workflow = await gateway.workflows.find(caller.org, request.match_info["name"])
    gateway.workflows.check(workflow, body.input)
    asked = Start(
        run=run_id(caller.org, key),
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
    note(request, run=asked.run)
    with gateway.endings.waiter(asked.run) as end:
        outcome = await start(gateway, asked)
        done(request)
        view = await known(gateway, caller.org, asked.run) if outcome.earlier else None
        if wait and not (view is not None and view.status in ENDED):
            view = await ended(gateway, caller.org, asked.run, end, wait)
    return _answer(outcome, view)


async def list_runs(request: web.Request) -> web.Response:
    """GET: newest first; `status`, `workflow`, `since`, `until` and how the `id` begins narrow."""
    gateway, caller = gateway_of(request)
    narrowed = {name: request.query.get(name) or None for name in ("status", "workflow", "since", "until", "id")}
    if narrowed["status"] not in {None, *UNENDED, *ENDED}:
        known_ones = ", ".join((*UNENDED, *sorted(ENDED)))
        raise Invalid(f"there is no such status: {known_ones}", errors=(Problem("status", "no such status"),))
    return json_response(await gateway.bus.ask(ListRuns(org=caller.org, page=page_of(request), **narrowed)))


async def get_run(request: web.Request) -> web.Response:
    """GET: one run."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(GetRun(org=caller.org, id=id_of(request))))


async def get_result(request: web.Request) -> web.StreamResponse:
    """GET, HEAD: the result of a run that succeeded, however large; the SHA-256 of its JSON is its tag. 404 where there is none."""
    gateway, caller = gateway_of(request)
    view: RunView = await gateway.bus.ask(GetRun(org=caller.org, id=id_of(request)))
    if view.status != "succeeded":
        raise NotFound(f"the run has no result: it is {view.status}")
    inline = None if view.result_ref is not None else msgspec.json.encode(view.result)
    tag = view.result_ref if inline is None else hashlib.sha256(inline).hexdigest()
    size = view.result_bytes if inline is None else len(inline)
    stored = None if inline is not None else gateway.results
    return await sent(request, Content(tag or "", size or 0, "application/json"), stored, inline)


async def get_lines(request: web.Request) -> web.Response:
    """GET: the run's output after line `after`."""
    gateway, caller = gateway_of(request)
    asked = ListLines(
        org=caller.org,
        id=id_of(request),
        after=integer_of(request, "after", 0, minimum=0, maximum=2**53),
        limit=integer_of(request, "limit", 1000, minimum=1, maximum=1000),
    )
    return json_response(await gateway.bus.ask(asked))


async def get_attempts(request: web.Request) -> web.Response:
    """GET: the run's attempts, the first one first."""
    gateway, caller = gateway_of(request)
    return json_response(await gateway.bus.ask(ListAttempts(org=caller.org, id=id_of(request), page=page_of(request))))


async def get_steps(request: web.Request) -> web.Response:
    """GET: the steps that are done and the waits that are over; `results=false` leaves their results out."""
    gateway, caller = gateway_of(request)
    results = boolean_of(request, "results", default=True)
    return json_response(
        await gateway.bus.ask(ListSteps(org=caller.org, id=id_of(request), results=results, page=page_of(request)))
    )


async def get_why(request: web.Request) -> web.Response:
    """GET: the chain that the run is of, as a tree of causes, up to `limit` messages of it; and how it failed, if it did."""
    gateway, caller = gateway_of(request)
    limit = integer_of(request, "limit", 1000, minimum=1, maximum=2000)
    run: RunView = await gateway.bus.ask(GetRun(org=caller.org, id=id_of(request)))
    since = chain_began(run.correlation_id, datetime.fromisoformat(run.requested_at))
    asked = ReadChain(org=caller.org, correlation_id=run.correlation_id, since=rfc3339(since), limit=limit)
    chain: Chain = await gateway.bus.ask(asked)
    found = why(run.id, chain.items, cut=chain.cut)
    if run.status not in ENDED - {"succeeded"}:
        return json_response(found)
    query = f'type:line.logged run:"{run.id}"'
    last: LogPage = await gateway.bus.ask(Search(org=caller.org, q=query, since=rfc3339(since), page=Page(limit=LAST_LINES)))
    lines = [Said(item.time, item.level, item.message, item.fields) for item in reversed(last.items)]
    return json_response(msgspec.structs.replace(found, status=run.status, reason=run.reason, error=run.error, lines=lines))


@audited("run", "cancel", "id")
async def cancel_run(request: web.Request) -> web.Response:
    """POST: ask a run to stop; durable when this answers. 409 when it has ended."""
    gateway, caller = gateway_of(request)
    run = id_of(request)
    await no_body(request)
    identity = new_id()

    async def asked(first: Envelope | None) -> Sealed[RunCancelRequested] | None:
        message = RunCancelRequested(run=run, requested_by=caller.actor)
        return None if first is None else gateway.bus.seal(message, org=caller.org, cause=first, id=identity)

    await aggregate.advance(gateway.bus, lambda: _open_run(gateway, caller, run), asked)
    return json_response({"id": run, "status": "cancelling"}, status=202)


@audited("run", "rerun", "id")
async def rerun_run(request: web.Request) -> web.Response:
    """POST: a new run of the same workflow, as it is now, with the same input."""
    gateway, caller = gateway_of(request)
    await no_body(request)
    earlier: RunView = await gateway.bus.ask(GetRun(org=caller.org, id=id_of(request)))
    workflow = await gateway.workflows.find(caller.org, earlier.workflow)
    given = earlier.input if earlier.input_ref is None else await _kept(gateway, earlier.id, earlier.input_ref)
    gateway.workflows.check(workflow, given)
    asked = Start(
        run=new_id(),
        org=caller.org,
        workflow=workflow,
        input=given,
        input_ref=earlier.input_ref,
        actor=caller.actor,
        rerun_of=earlier.id,
    )
    note(request, run=asked.run)
    return _answer(await start(gateway, asked), None)


@audited("run", "signal", "id")
async def signal_run(request: web.Request) -> web.Response:
    """POST: answer a `wait_for` of the run; the body is the data. On disk when this answers. 409 when the run has ended."""
    gateway, caller = gateway_of(request)
    raw = await body_of(request, MAX_SIGNAL)
    data = await aside(decode, raw, size=len(raw)) if raw else None
    command = SignalRun(
        id=new_id(), org=caller.org, actor=caller.actor, run=id_of(request), name=request.match_info["name"], data=data
    )
    return json_response(await gateway.bus.ask(command), status=202)


async def _kept(gateway: Gateway, run: str, sha256: str) -> Any:
    """Return an input that is too large for a message. Raises `Conflict` when it is no longer kept."""
    try:
        return msgspec.json.decode(await gateway.bodies.read(sha256))
    except NotFound as error:
        raise Conflict(f"the input of run {run} was too large for a message and is no longer kept") from error


async def _open_run(gateway: Gateway, caller: Caller, run: str) -> tuple[Envelope | None, int]:
    """Return a run's first message, None where somebody wants it to stop already, and the sequence of its last.

    What is between them, which may be much, is not read. Raises `NotFound`, `Conflict` when it has ended.
    """
    client = gateway.bus.client
    first = await aggregate.first(client, "run", run)
    if first is not None:
        if first.envelope.org != caller.org:
            raise NotFound(f"there is no run {run!r}")
        last = await aggregate.last(client, "run", run) or first
        if last.envelope.type in TERMINAL:
            raise Conflict(f"the run has ended already: {last.envelope.type.partition('.')[2]}")
        # A request whose first copy was purged may come again after the end, and whatever no service of ours wrote.
        is_doubtful = last.sequence > first.sequence and last.envelope.type in {"run.requested", aggregate.UNREADABLE}
        view = await known(gateway, caller.org, run) if is_doubtful else None
        if view is None or view.status not in ENDED:
            asked = await aggregate.last(client, "run", run, "cancel_requested")
            return first.envelope if asked is None else None, last.sequence
        raise Conflict(f"the run has ended already: {view.status}")
    if await known(gateway, caller.org, run) is None:
        raise NotFound(f"there is no run {run!r}")
    # The bus has forgotten it, as it does with runs that ended long ago.
    raise Conflict("the run has ended already")


def _answer(outcome: Asked, view: RunView | None) -> web.Response:
    headers = {"Location": f"/api/v1/runs/{outcome.run}"}
    if view is not None and view.status in ENDED:
        return json_response(view, headers=headers)
    if view is None:
        return json_response({"id": outcome.run, "status": "queued"}, status=202, headers=headers)
    so_far = {"id": view.id, "status": view.status, "blocked_on": view.blocked_on, "until": view.until}
    return json_response(so_far, status=202, headers=headers)


def _ahead(run_at: str | None) -> str | None:
    """Return a time to begin at as it travels; one that has passed is now."""
    if run_at is None:
        return None
    at = moment_at(run_at, "run_at")
    if at > later(utc_now(), YEAR):
        raise Invalid("run_at is more than a year ahead", errors=(Problem("run_at", "more than a year ahead"),))
    return rfc3339(at)


def _seconds(request: web.Request) -> float:
    raw = request.query.get("wait")
    if raw is None:
        return 0.0
    try:
        seconds = float(raw)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT:
        raise Invalid(f"wait is from 0 to {MAX_WAIT:g} seconds", errors=(Problem("wait", "out of range"),))
    return seconds


ROUTES = [
    web.post("/workflows/{name}/runs", create_run),
    web.get("/runs", list_runs),
    web.get("/runs/{id}", get_run),
    web.get("/runs/{id}/why", get_why),
    web.get("/runs/{id}/attempts", get_attempts),
    web.get("/runs/{id}/steps", get_steps),
    web.get("/runs/{id}/result", get_result),
    web.get("/runs/{id}/logs", get_lines),
    web.post("/runs/{id}/cancel", cancel_run),
    web.post("/runs/{id}/rerun", rerun_run),
    web.post("/runs/{id}/signals/{name}", signal_run),
]
