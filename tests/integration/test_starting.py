"""A service that waits for something while it starts ends when it is told to."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

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
