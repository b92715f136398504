"""Asking for runs: once per idempotency key, and waiting for their ends."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Literal

import msgspec

from services.gateway.domain import succeeded
from services.gateway.idempotency import compare
from services.gateway.parts import Gateway
from shared import aggregate, tracing
from shared.envelope import Sealed, open_envelope, open_message
from shared.errors import Invalid, NotFound, TooLarge, Unavailable
from shared.messages import RunRequested
from shared.questions.runs import GetRun, RunView
from shared.questions.workflows import WorkflowEntry
from shared.runs import ENDED

# A message carries the input, and the broker takes messages of 2 MiB.
MAX_INPUT = 1024 * 1024
# Seconds between looks of a waiter for itself, in case that the end passed while the broker was away. Sooner ones cost an executor
# with a backlog more than the runs that wait in it.
LOOKS = (3.0, 5.0)
# Seconds within which the executor's answer has caught up with an end on the bus.
CATCH_UP = 5.0

Priority = Literal["high", "normal", "low"]


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """A requested run. `run` derives from the idempotency key, if one was given: `repeatable`.

    `input_ref` is the place of an input that is kept elsewhere, `record_ref` that of the steps of the run that it `resumes`, whose
    `chain` and `delivery` it goes on with.
    """

    run: str
    org: str
    workflow: WorkflowEntry
    input: Any
    actor: str
    timeout: float | None = None
    priority: Priority = "normal"
    run_at: str | None = None
    deadline: float | None = None
    concurrency_key: str | None = None
    repeatable: bool = False
    rerun_of: str | None = None
    resumes: str | None = None
    record_ref: str | None = None
    scheduled_for: str | None = None
    input_ref: str | None = None
    chain: str | None = None
    delivery: str | None = None


class RequestedRun(msgspec.Struct, frozen=True):
    """A run that is asked for by `request`; None when this very request had been made before."""

    run: str
    request: Sealed[RunRequested] | None


def fingerprint(asked: Start) -> str:
    """Return a digest that distinguishes a request from others with the same key: of all its fields, in any spelling.

    A key stands for the whole payload (IETF draft "The Idempotency-Key HTTP Header Field", section 2.4), not for its input alone.
    """
    payload = (
        asked.workflow.name,
        asked.input,
        asked.timeout,
        asked.priority,
        asked.run_at,
        asked.deadline,
        asked.concurrency_key,
        *([] if asked.resumes is None else [asked.workflow.version, asked.input_ref, asked.record_ref]),
    )
    return hashlib.sha256(msgspec.json.encode(payload, order="deterministic")).hexdigest()


async def start(gateway: Gateway, asked: Start) -> RequestedRun:
    """Ask for a run; on disk when this returns.

    Raises `Invalid` when the idempotency key stands for another request, `Conflict` while the first one with it is being served,
    `TooLarge`, `Unavailable`.
    """
    tracing.begin_chain(asked.chain or asked.run)
    if not asked.repeatable:
        return await _start(gateway, asked, None)
    mark = fingerprint(asked)
    with gateway.starting.alone(asked.run, mark):
        return await _start(gateway, asked, mark)


async def _start(gateway: Gateway, asked: Start, mark: str | None) -> RequestedRun:
    message = RunRequested(
        run=asked.run,
        workflow=asked.workflow.name,
        version=asked.workflow.version,
        input=asked.input if asked.input_ref is None else None,
        input_ref=asked.input_ref,
        requested_by=asked.actor,
        timeout=asked.timeout or asked.workflow.timeout,
        priority=asked.priority,
        group=asked.workflow.policy.group,
        delivery=asked.delivery,
        rerun_of=asked.rerun_of,
        resumes=asked.resumes,
        record_ref=asked.record_ref,
        scheduled_for=asked.scheduled_for,
        run_at=asked.run_at,
        deadline=asked.deadline or asked.workflow.policy.queue_timeout,
        concurrency_key=asked.concurrency_key,
        workflow_org=asked.workflow.org,
        fingerprint=mark,
    )
    if mark is not None:
        # A run that ended long ago is no longer on the bus, where its creation would be refused.
        earlier = await known(gateway, asked.org, asked.run)
        if earlier is not None:
            compare(mark, earlier.fingerprint)
            return RequestedRun(asked.run, None)
    sealed = gateway.bus.seal(message, org=asked.org, id=asked.run, correlation=asked.chain, causation=asked.resumes)
    if len(sealed.document) > MAX_INPUT:
        raise TooLarge(f"the input is larger than {MAX_INPUT} bytes")
    gateway.quotas.admit_run(asked.org)
    ack = await aggregate.append(gateway.bus.client, gateway.bus.journal, sealed, 0)
    if not ack.duplicate:
        return RequestedRun(asked.run, sealed)
    async for stored in aggregate.history(gateway.bus.client, "run", asked.run):
        first = open_message(stored.envelope, RunRequested)
        compare(mark, first.fingerprint)
        break
    return RequestedRun(asked.run, None)


async def known(gateway: Gateway, org: str, run: str) -> RunView | None:
    """Return a run, or None when the organization has none of this id. Raises `Unavailable`."""
    try:
        view = await gateway.bus.ask(GetRun(org=org, id=run))
    except NotFound:
        return None
    return view


async def ended(gateway: Gateway, org: str, outcome: RequestedRun, end: asyncio.Future[bytes], seconds: float) -> RunView | None:
    """Return the run when it ends, or as it is after so many seconds, None if that is not known. `end` is from `Endings`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    looks = iter(LOOKS)
    # A run that was asked for before may have ended before.
    pause = 0.0 if outcome.request is None else next(looks)
    while True:
        left = deadline - loop.time()
        if left <= 0:
            return await _peek(gateway, org, outcome.run)
        await asyncio.wait((end,), timeout=min(left, pause))
        if end.done():
            return _from_end(outcome, end.result()) or await _caught_up(gateway, org, outcome.run)
        view = await _peek(gateway, org, outcome.run)
        if view is not None and view.status in ENDED:
            return view
        pause = next(looks, LOOKS[-1])


def _from_end(outcome: RequestedRun, end: bytes) -> RunView | None:
    """Return the run from its end, without asking the executor; None where the end has too few fields."""
    if outcome.request is None:
        return None
    try:
        return succeeded(outcome.request, open_envelope(end))
    except Invalid:
        return None


async def _caught_up(gateway: Gateway, org: str, run: str) -> RunView | None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CATCH_UP
    pause = 0.005
    while True:
        view = await _peek(gateway, org, run)
        if view is not None and view.status in ENDED:
            return view
        if loop.time() > deadline:
            return view
        await asyncio.sleep(pause)
        pause = min(0.25, pause * 2)


async def _peek(gateway: Gateway, org: str, run: str) -> RunView | None:
    try:
        return await known(gateway, org, run)
    except Unavailable:
        # The run is asked for and on disk: not being able to look at it now is no failure of the request.
        return None
