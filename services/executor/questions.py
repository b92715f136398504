"""Questions and commands in: files, workflows, runs, and what adapters make of requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from services.executor import removing, state_questions
from services.executor.repositories import questions as repositories
from services.executor.runs import approvals, run_state, steps, usage
from services.executor.runs.awaiting import answer_wait
from services.executor.runs.concurrency import ConcurrencySlots
from services.executor.runs.erasing import erase
from services.executor.runs.groups import WorkerGroups
from services.executor.runs.inherited import RecordDeps, get_record
from services.executor.runs.looks import Looks
from services.executor.runs.recent import Recent
from services.executor.runs.run_state import RunState
from services.executor.runs.signals import signal_run
from services.executor.runs.steps import Step
from services.executor.runs.views import attempt_view, run_view
from services.executor.store import ExecutorStore
from services.executor.workspaces import adapters, commits, history_questions, installed, rewriting
from services.executor.workspaces.views import file_view
from shared import aggregate
from shared.aggregate import Stored
from shared.asking import Questions
from shared.db import transaction
from shared.envelope import utc_now
from shared.errors import Malformed, NotFound, Problem, Unavailable
from shared.messages.line import Lines
from shared.organizations import first_seen, seen_by
from shared.projection import Projection
from shared.questions import MOST_ITEMS, PAGE_BYTES, cursor_after, fitting
from shared.questions.adapters import AdapterFound, AskAdapter, FindAdapter
from shared.questions.environments import BuildEnvironments, EnvironmentList, ListEnvironments
from shared.questions.erasing import EraseInExecutor
from shared.questions.files import (
    CommitFiles,
    FileList,
    FileView,
    GetFile,
    ListFiles,
    ListProblems,
    MoveFiles,
    PutFile,
    RemoveFile,
    RestoreFiles,
)
from shared.questions.runs import (
    AnswerWait,
    AttemptList,
    CountParkedRuns,
    CountUsed,
    GetRecord,
    GetRun,
    LineList,
    LineView,
    ListAttempts,
    ListLines,
    ListRuns,
    ListStates,
    ListSteps,
    ParkedRuns,
    RunAt,
    RunList,
    RunStates,
    RunView,
    SignalRun,
    StepList,
    Used,
    resumed,
)
from shared.questions.workflows import FindWorkflow, ListWorkflows, WorkflowFound, WorkflowList
from shared.runs import RESUMABLE
from shared.values import moment_at

# A run with more messages than this, or more bytes of them, is followed from its row: each is a look into the broker.
MOST_FOLDED = 200
# Runs are counted up to so many for a person.
MOST_COUNTED = 10_000_000
MOST_READ = 4 * 1024 * 1024


class QuestionDeps(removing.ExecutorRemovingDeps, adapters.AdapterDeps, RecordDeps, state_questions.StateDeps, Protocol):
    """Dependencies of questions and commands."""

    store: ExecutorStore
    concurrency: ConcurrencySlots
    groups: WorkerGroups
    lines: Projection
    looks: Looks
    recent: Recent


async def find_workflow(question: FindWorkflow, deps: QuestionDeps) -> WorkflowFound:
    """Return an organization's own workflow, else the platform's."""
    found = await first_seen(question.org, lambda org: deps.store.workflow(org, question.name))
    if found is None:
        raise NotFound(f"there is no workflow {question.name!r}")
    return WorkflowFound(found[1], found[0])


async def find_adapter(question: FindAdapter, deps: QuestionDeps) -> AdapterFound:
    """Return an organization's own adapter, else the platform's."""
    found = await first_seen(question.org, lambda org: deps.store.adapter(org, question.name))
    if found is None:
        raise NotFound(f"there is no adapter {question.name!r}")
    return AdapterFound(found[1], found[0])


async def list_workflows(question: ListWorkflows, deps: QuestionDeps) -> WorkflowList:
    """Return a page of workflows by name; an organization's own hide the platform's of the same name."""
    limit = question.page.within(MOST_ITEMS)
    after, only = question.page.after("workflows"), "options" if question.data_providers else "tool" if question.tools else ""
    found = await deps.store.workflows(seen_by(question.org), after, limit + 1, only=only)
    items = fitting(found[:limit])
    return WorkflowList(items, cursor_after("workflows", items[-1].name) if len(found) > len(items) else None)


async def get_file(question: GetFile, deps: QuestionDeps) -> FileView:
    """Return one file."""
    rows = await deps.store.described(question.org, path=question.path)
    if not rows:
        raise NotFound(f"there is no file {question.path}")
    return file_view(rows[0], rows[0]["workflows"], [], rows[0]["adapters"])


async def list_files(question: ListFiles, deps: QuestionDeps) -> FileList:
    """Return a page of files, by path."""
    limit = question.page.within(MOST_ITEMS)
    after = question.page.after("files")
    rows = await deps.store.described(question.org, prefix=question.prefix, after=after, limit=limit + 1)
    items = [file_view(row, row["workflows"], [], row["adapters"]) for row in rows[:limit]]
    return FileList(items, cursor_after("files", items[-1].path) if len(rows) > limit else None)


async def get_run(question: GetRun, deps: QuestionDeps) -> RunView:
    """Return a run: from its row once it has ended, else from the stream as it is now."""
    state = await _run(question.org, question.id, deps)
    waits_for_slot = state.status == "waiting" and state.blocked_on == "concurrency" and state.slot is not None
    view = run_view(state, deps.groups, await deps.concurrency.holders(state.slot.key) if waits_for_slot and state.slot else None)
    if state.status not in RESUMABLE:
        return view
    later = resumed(state.id)
    return msgspec.structs.replace(view, resumed_by=later) if await deps.store.has_run(question.org, later) else view


async def list_attempts(question: ListAttempts, deps: QuestionDeps) -> AttemptList:
    """Return a page of attempts; the cursor is the number of the last one."""
    limit = question.page.within(MOST_ITEMS)
    after = question.page.cursor or "0"
    if not after.isascii() or not after.isdigit() or len(after) > 18:
        raise Malformed("this cursor was not given out by this list", errors=(Problem("cursor", "malformed"),))
    state = await _run(question.org, question.id, deps)
    left = [attempt_view(attempt) for attempt in state.attempts if attempt.attempt > int(after)]
    items = fitting(left[:limit])
    return AttemptList(items, str(items[-1].attempt) if len(left) > len(items) else None)


async def list_steps(question: ListSteps, deps: QuestionDeps) -> StepList:
    """Return a page of records: from the rows once the run has ended, else from the stream as it is now."""
    after, limit = steps.place_of(question.page.cursor), question.page.within(MOST_ITEMS)
    state = await deps.store.run(question.org, question.id)
    found: list[Step] = []
    if state is not None:
        found = await deps.store.steps(question.id, after, limit + 1, 2 * PAGE_BYTES, results=question.results)
        page = steps.page_of(found, question.page, results=question.results)
        if state.ended or page.next_cursor is not None:
            return page
        # Steps stored after the run's row was read come once more from the stream.
        found = [step for step in found if step.place[0] <= state.last_seq]
    async with deps.looks.place():
        async for stored in _history(question.id, deps, after=0 if state is None else state.last_seq):
            message = stored.message()
            if message is None:
                continue
            state = run_state.evolve(state, stored.envelope, message, stored.sequence)
            if state is None:
                continue
            found += [step for step in steps.steps_of(state, stored.envelope, message, stored.sequence) if step.place > after]
            if len(found) > limit or (len(found) > 1 and steps.size_of(found, results=question.results) > PAGE_BYTES):
                break
    if state is None or state.org != question.org:
        raise NotFound(f"there is no run {question.id[:80]}")
    return steps.page_of(found, question.page, results=question.results)


async def _run(org: str, id_: str, deps: QuestionDeps) -> RunState:
    """Return a run. Raises `NotFound`."""
    recent = deps.recent.of(org, id_)
    if recent is not None:
        return recent
    state = await deps.store.run(org, id_)
    if state is None or not state.ended:
        state = await deps.looks.state(id_) or state
    if state is None or state.org != org:
        raise NotFound(f"there is no run {id_[:80]}")
    return state


async def _history(run: str, deps: QuestionDeps, after: int = 0) -> AsyncIterator[Stored]:
    try:
        async for stored in aggregate.history(deps.bus.client, "run", run, after=after):
            yield stored
    except ValueError as error:
        raise NotFound(f"there is no run {run[:80]}") from error


async def list_runs(question: ListRuns, deps: QuestionDeps) -> RunList:
    """Return a page of runs, newest first."""
    limit = question.page.within(MOST_ITEMS)
    states = await deps.store.runs(
        question.org,
        status=question.status,
        workflow=question.workflow,
        prefix=question.id,
        since=None if question.since is None else moment_at(question.since, "since"),
        until=None if question.until is None else moment_at(question.until, "until"),
        before=question.page.before(),
        limit=limit + 1,
    )
    items = fitting([run_view(state, deps.groups) for state in states[:limit]])
    return RunList(items, f"{items[-1].requested_at}|{items[-1].id}" if len(states) > len(items) else None)


async def list_states(question: ListStates, deps: QuestionDeps) -> RunStates:
    """Return how a run changed since; of a run with very many messages, or whose messages are purged, only how it is."""
    row = await deps.store.run(question.org, question.id)
    async with deps.looks.place():
        states = await _states(question.id, row, question.after, deps)
    if not states or states[-1].org != question.org:
        raise NotFound(f"there is no run {question.id[:80]}")
    # Beyond the last is a place in a stream that was made anew since.
    after = question.after if question.after <= states[-1].last_seq else 0
    items: list[RunAt] = []
    size = 0
    for state in states:
        if state.last_seq > after:
            item = RunAt(state.last_seq, run_view(state, deps.groups))
            size += len(msgspec.json.encode(item))
            if items and size > PAGE_BYTES:
                return RunStates(items, ended=False, more=True)
            items.append(item)
    return RunStates(items, ended=states[-1].ended, more=False)


async def _states(run: str, row: RunState | None, after: int, deps: QuestionDeps) -> list[RunState]:
    """Return a run after each of its messages, those beyond `after` at least; `row` is the projection's row of it."""
    states: list[RunState] = []
    size = 0
    if row is None or after < row.last_seq:
        async for stored in _history(run, deps):
            message = stored.message()
            if message is None:
                continue
            state = run_state.evolve(states[-1] if states else None, stored.envelope, message, stored.sequence)
            if state is None:
                break  # its first messages are purged already, and the others are about to be
            states.append(state)
            size += len(memoryview(stored.envelope.data))
            if (len(states) == MOST_FOLDED or size > MOST_READ) and row is not None:
                states = []
                break
    if states or row is None:
        return states
    states = [row]
    if not row.ended:
        async for stored in _history(run, deps, after=row.last_seq):
            message = stored.message()
            state = None if message is None else run_state.evolve(states[-1], stored.envelope, message, stored.sequence)
            states += [state] if state is not None else []
    return states


async def list_lines(question: ListLines, deps: QuestionDeps) -> LineList:
    """Return lines of a run in order; the cursor is the number of the last one."""
    await _run(question.org, question.id, deps)
    if question.settled:
        last = await aggregate.last(deps.bus.client, "line", question.id)
        if last is not None and not await deps.lines.caught_up(last.sequence):
            raise Unavailable("the rows of the run's lines are behind")
    limit = max(1, min(question.limit, MOST_ITEMS))
    # A page may end by its size as well: whether anything comes after it is asked for.
    rows = await deps.store.lines(question.id, question.after, limit + 1, PAGE_BYTES)
    items = [LineView(row["n"], row["attempt"], msgspec.convert(row["line"], Lines)) for row in rows[:limit]]
    more = len(rows) > limit or (bool(items) and bool(await deps.store.lines(question.id, items[-1].n, 1, 0)))
    return LineList(items, str(items[-1].n) if more else None)


async def count_parked_runs(_question: CountParkedRuns, deps: QuestionDeps) -> ParkedRuns:
    """Return how many runs wait for their organization's share."""
    return ParkedRuns(await deps.store.parked() + sum((await deps.store.queued_in_groups()).values()))


async def list_environments(question: ListEnvironments, deps: QuestionDeps) -> EnvironmentList:
    """Return the environments that serve, and those that are being built or could not be."""
    return EnvironmentList(await installed.environments(question.org, deps, has_locks=question.locks), None)


async def count_used(question: CountUsed, deps: QuestionDeps) -> Used:
    """Return how much of its quotas an organization uses."""
    async with transaction(deps.engine) as connection:
        going = await usage.unended(connection, question.org, MOST_COUNTED)
        today = await usage.since_midnight(connection, question.org, utc_now(), MOST_COUNTED)
    return Used(going, today, await usage.stored(deps.engine, question.org))


QUESTIONS: Questions = {
    AskAdapter: adapters.ask_adapter,
    FindAdapter: find_adapter,
    ListEnvironments: list_environments,
    BuildEnvironments: commits.build_environments,
    ListProblems: commits.list_problems,
    FindWorkflow: find_workflow,
    ListWorkflows: list_workflows,
    PutFile: commits.put_file,
    RemoveFile: commits.remove_file,
    CommitFiles: commits.commit_files,
    MoveFiles: rewriting.move_files,
    RestoreFiles: rewriting.restore_files,
    GetFile: get_file,
    ListFiles: list_files,
    GetRun: get_run,
    GetRecord: get_record,
    ListAttempts: list_attempts,
    ListSteps: list_steps,
    ListStates: list_states,
    ListRuns: list_runs,
    ListLines: list_lines,
    CountParkedRuns: count_parked_runs,
    CountUsed: count_used,
    SignalRun: signal_run,
    AnswerWait: answer_wait,
    EraseInExecutor: erase,
    **history_questions.QUESTIONS,
    **removing.QUESTIONS,
    **repositories.QUESTIONS,
    **state_questions.QUESTIONS,
    **approvals.QUESTIONS,
}
