"""Questions and commands in about the state that an organization's workflows keep."""

from __future__ import annotations

from typing import Protocol

from services.executor.state import StateChange, States, VersionConflict
from shared.asking import Questions
from shared.errors import NotFound, PreconditionFailed
from shared.questions import MOST_ITEMS, Done, cursor_after, fitting
from shared.questions.state import GetState, ListState, PutState, RemoveState, StateList, StateView


class StateDeps(Protocol):
    """Dependencies of the state."""

    states: States


async def get_state(question: GetState, deps: StateDeps) -> StateView:
    """Return one value."""
    return await deps.states.get(question.org, question.key)


async def list_state(question: ListState, deps: StateDeps) -> StateList:
    """Return a page of values, by key."""
    limit = question.page.within(MOST_ITEMS)
    found = await deps.states.page(question.org, question.prefix, question.page.after("state"), limit + 1)
    items = fitting(found[:limit])
    return StateList(items, cursor_after("state", items[-1].key) if len(found) > len(items) else None)


async def put_state(command: PutState, deps: StateDeps) -> StateView:
    """Give a key a value."""
    change = StateChange(org=command.org, key=command.key, by=command.actor, id=command.id)
    try:
        return await deps.states.put(change, command.value, command.expected, command.ttl)
    except VersionConflict as error:
        raise PreconditionFailed(error.detail) from error


async def remove_state(command: RemoveState, deps: StateDeps) -> Done:
    """Remove a key."""
    change = StateChange(org=command.org, key=command.key, by=command.actor, id=command.id)
    try:
        was_there = await deps.states.delete(change, command.expected)
    except VersionConflict as error:
        raise PreconditionFailed(error.detail) from error
    if not was_there:
        raise NotFound(f"there is no {command.key!r} in the state")
    return Done()


QUESTIONS: Questions = {GetState: get_state, ListState: list_state, PutState: put_state, RemoveState: remove_state}
