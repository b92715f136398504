"""A service that waits for something while it starts ends when it is told to."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from shared.health import Health
from shared.health_server import metrics_answer
from tests.support.inside import bus_of
from tests.support.servers import Place
from tests.support.stack import ROOT


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_service_that_waits_for_a_registry_ends_at_a_signal(place: Place, number: signal.Signals) -> None:
    async with bus_of(place, "admin") as bus:
        await bus.client.jetstream().delete_key_value("subscriptions")
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "services", "events"],
        env=place.environment("events"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        while b"registry.interrupted" not in (line := await process.stdout.readline()):
            assert line, "it ended by itself"
        process.send_signal(number)
        said = await process.stdout.read()
        assert await process.wait() == 0, said.decode()
    assert b"service.stopped_while_starting" in said
    assert b"Traceback" not in said


async def test_a_count_by_name_is_a_gauge_with_a_label() -> None:
    health = Health("events")
    health.state("projections", {"dead": {"runs": 2, 'a"b': 1}, "salvaged": {}, "last": {"runs": "KeyError at 7"}})
    health.state("pool", {"slots": 3})
    text = str((await metrics_answer(health)(None)).text)  # type: ignore[arg-type]
    assert 'millrace_projections_dead{service="events",of="runs"} 2\n' in text
    assert 'millrace_projections_dead{service="events",of="a\\"b"} 1\n' in text
    assert 'millrace_pool_slots{service="events"} 3\n' in text
    assert "salvaged" not in text
    assert "KeyError" not in text
