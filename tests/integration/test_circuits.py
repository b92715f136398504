"""A service that hangs: its askers are told so soon and together, others notice nothing, and it is asked again once it answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared import circuits
from shared.bus import connected
from shared.errors import NotFound
from shared.health import Health
from shared.questions import ASKED
from shared.questions.runs import GetRun
from shared.questions.workflows import ListWorkflows, WorkflowList
from tests.integration.test_gateway import Client, Cut, answering, gateway
from tests.support.inside import eventually
from tests.support.servers import Place

NONE = WorkflowList(items=[], next_cursor=None)


class Told(Health):
    """The health of a service, and whether it was told."""

    def __init__(self, service: str) -> None:
        super().__init__(service)
        self.was_told = asyncio.Event()

    def document(self) -> dict[str, Any]:
        """Return the document, and note that it was asked for."""
        self.was_told.set()
        return super().document()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubt a service early: no test waits for what is bounded by seconds."""
    monkeypatch.setattr(circuits, "DOUBTED_AFTER", 0.2)
    monkeypatch.setattr(circuits, "PROBED_FOR", 0.3)


async def _listed(_question: ListWorkflows, _deps: Any) -> WorkflowList:
    return NONE


async def _absent(question: Any, _deps: Any) -> Any:
    raise NotFound(type(question).__name__)


def answers(**more: Any) -> dict[Any, Any]:
    return {cls: _absent for asked, cls in ASKED.values() if asked.service == "executor"} | {ListWorkflows: _listed} | more


async def open_circuits(client: Client) -> tuple[list[str], int]:
    said = (await client("GET", "/readyz")).json["circuits"]
    return said["services"], said["opened"]


async def test_a_service_that_hangs_is_refused_at_once_until_it_answers_again_and_others_are_not(place: Place) -> None:
    async with (
        gateway(place) as client,
        answering(place, "logs", {}),
        Cut(place.nats_url("executor")) as cut,
        connected(cut.url, service="executor", health=Health("executor")) as bus,
    ):
        bus.answer(answers(), None)
        await bus.start()
        assert (await client("GET", "/api/v1/workflows")).status == 200
        await cut.freeze()
        got = await asyncio.gather(*(client("GET", "/api/v1/workflows") for _ in range(50)))
        assert {(one.status, one.headers["Retry-After"]) for one in got} == {(503, "2")}
        # All of them at the moment at which it is known, and none at its own deadline.
        assert {one.json["detail"] for one in got} == {"the executor service does not answer"}
        assert await open_circuits(client) == (["executor"], 1)
        assert b'millrace_circuits_open{service="gateway"} 1.0' in (await client("GET", "/metrics")).body
        # A command that may take minutes is refused as well; the other services are asked as ever.
        assert (await client("DELETE", "/api/v1/workspace/files/a.py")).status == 503
        assert (await client("GET", "/api/v1/audit/digests/nothing")).status == 404
        await cut.thaw()

        async def again() -> bool:
            return (await client("GET", "/api/v1/workflows")).status == 200

        await eventually(again)
        assert await open_circuits(client) == ([], 1)


async def test_slow_answers_of_a_service_that_is_well_keep_nobody_out(place: Place) -> None:
    health, answer = Told("executor"), asyncio.Event()

    async def slow(_question: GetRun, _deps: Any) -> Any:
        await answer.wait()
        raise NotFound("no such run")

    async with gateway(place) as client, connected(place.nats_url("executor"), service="executor", health=health) as bus:
        bus.answer(answers() | {GetRun: slow}, None)
        await bus.start()
        asked = [asyncio.create_task(client("GET", "/api/v1/runs/a")) for _ in range(10)]
        async with asyncio.timeout(60):
            await health.was_told.wait()
        assert (await client("GET", "/api/v1/workflows")).status == 200
        answer.set()
        assert [(await one).status for one in asked] == [404] * 10
        assert await open_circuits(client) == ([], 0)


async def test_a_broker_that_is_away_opens_no_circuit(place: Place) -> None:
    async with (
        Cut(place.nats_url("gateway")) as cut,
        gateway(place, MILLRACE_NATS_URL=cut.url) as client,
        answering(place, "executor", {ListWorkflows: _listed}),
    ):
        await cut.close()

        async def refused() -> bool:
            got = await client("GET", "/api/v1/workflows")
            return got.status == 503 and "broker" in got.json["detail"]

        await eventually(refused)
        await cut.open()

        async def again() -> bool:
            return (await client("GET", "/api/v1/workflows")).status == 200

        await eventually(again)
        assert (await open_circuits(client))[0] == []
