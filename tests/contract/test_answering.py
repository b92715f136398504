"""Questions are answered side by side, in bounds, and none that nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import structlog

from shared import asking
from shared.asking import Answer, Answering
from shared.bus import Bus
from shared.errors import NotFound, Unavailable
from shared.questions import asked_of
from shared.questions.workflows import FindWorkflow, WorkflowFound
from tests.support.inside import bus_of, eventually
from tests.support.servers import Place

NOTHING = WorkflowFound(seq=0, entry=None)


@asynccontextmanager
async def answering(place: Place, function: Answer, *, at_once: int = 4, each: int = 4) -> AsyncIterator[tuple[Answering, Bus]]:
    """Answer as the executor does; gives the bus of one who asks."""
    async with bus_of(place, "executor") as executor, bus_of(place, "gateway") as gateway:
        served = {asked_of(FindWorkflow).subject: (FindWorkflow, function)}
        one = Answering(executor.client, "executor", "ask", served, None, at_once=at_once, each=each)
        await one.start()
        for _ in range(2):  # as Bus.start
            await executor.client.flush()
        try:
            yield one, gateway
        finally:
            await one.drain(0)


async def ask(bus: Bus, name: str = "w", timeout: float = 30.0, org: str = "default") -> Any:
    return await bus.ask(FindWorkflow(org=org, name=name), timeout=timeout)


async def test_a_slow_answer_holds_up_no_other(place: Place) -> None:
    over = asyncio.Event()

    async def find(question: FindWorkflow, _deps: Any) -> WorkflowFound:
        if question.name == "slow":
            await over.wait()
        return NOTHING

    async with answering(place, find) as (_, gateway):
        slow = asyncio.create_task(ask(gateway, "slow"))
        for _ in range(20):
            assert await ask(gateway) == NOTHING
        assert not slow.done()
        over.set()
        assert await slow == NOTHING


async def test_no_more_are_answered_at_once_than_is_allowed_and_all_are_answered(place: Place) -> None:
    at_once = most = 0

    async def find(_question: FindWorkflow, _deps: Any) -> WorkflowFound:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return NOTHING

    async with answering(place, find, at_once=8) as (_, gateway):
        assert await asyncio.gather(*(ask(gateway) for _ in range(40))) == [NOTHING] * 40
    assert most == 4


async def test_slow_answers_for_one_organization_hold_up_no_other(place: Place) -> None:
    over, begun = asyncio.Event(), 0

    async def find(question: FindWorkflow, _deps: Any) -> WorkflowFound:
        nonlocal begun
        if question.org == "mean":
            begun += 1
            await over.wait()
        return NOTHING

    async with answering(place, find, at_once=4, each=2) as (_, gateway):
        slow = [asyncio.create_task(ask(gateway, org="mean")) for _ in range(40)]
        for _ in range(20):
            assert await ask(gateway) == NOTHING
        assert begun == 2
        over.set()
        assert await asyncio.gather(*slow) == [NOTHING] * 40


async def test_a_question_whose_asker_has_given_up_is_passed_over(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[str] = []
    over = asyncio.Event()

    async def find(question: FindWorkflow, _deps: Any) -> WorkflowFound:
        answered.append(question.name)
        if question.name == "slow":
            await over.wait()
        return NOTHING

    async with answering(place, find, at_once=1) as (_, gateway):
        slow = asyncio.create_task(ask(gateway, "slow"))

        async def begun() -> bool:
            return answered == ["slow"]

        await eventually(begun)
        monkeypatch.setattr(asking, "asked_of", lambda asked: msgspec.structs.replace(asked_of(asked), timeout=0.2))
        with pytest.raises(Unavailable):
            await ask(gateway, "late", timeout=0.3)
        over.set()
        await slow
        await eventually(lambda: ask(gateway, "next"))
    assert answered == ["slow", "next"]


async def test_errors_cross_the_bus_and_end_no_other_answer(place: Place) -> None:
    async def find(question: FindWorkflow, _deps: Any) -> WorkflowFound:
        if question.name == "missing":
            raise NotFound("there is none")
        if question.name == "bug":
            raise RuntimeError("a bug")
        return NOTHING

    async with answering(place, find) as (_, gateway):
        with pytest.raises(NotFound, match="there is none"):
            await ask(gateway, "missing")
        with pytest.raises(Exception, match="see the log of executor"):
            await ask(gateway, "bug")
        assert await ask(gateway) == NOTHING


async def test_what_was_taken_is_answered_before_a_service_ends(place: Place) -> None:
    begun = asyncio.Event()

    async def find(_question: FindWorkflow, _deps: Any) -> WorkflowFound:
        begun.set()
        await asyncio.sleep(0.2)
        return NOTHING

    async with answering(place, find) as (one, gateway):
        asked = asyncio.create_task(ask(gateway))
        await begun.wait()
        await one.drain(5)
        assert await asked == NOTHING
        with pytest.raises(Unavailable):
            await ask(gateway, timeout=0.5)


async def test_a_service_that_ends_leaves_what_is_asked_to_its_replicas(place: Place) -> None:
    async def find(_question: FindWorkflow, _deps: Any) -> WorkflowFound:
        return NOTHING

    async with answering(place, find) as (one, gateway), answering(place, find):
        await one.drain(5)
        for _ in range(20):
            assert await ask(gateway) == NOTHING


async def test_what_one_answer_binds_for_the_log_is_not_seen_by_another(place: Place) -> None:
    bound: list[dict[str, Any]] = []

    async def find(question: FindWorkflow, _deps: Any) -> WorkflowFound:
        bound.append(dict(structlog.contextvars.get_contextvars()))
        structlog.contextvars.bind_contextvars(left_behind=question.name)
        return NOTHING

    async with answering(place, find) as (_, gateway):
        for name in ("a", "b"):
            await ask(gateway, name)
    assert bound == [{"question": "ask.executor.workflow", "command_id": None}] * 2
