"""A start that does not get ready says who is missing and why."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from deploy.errors import StartError
from deploy.readiness import Asked, wait_until_ready
from deploy.supervise import Program, Supervised

ANSWERS = """
import asyncio, sys
from aiohttp import web

async def main():
    app = web.Application()
    app.router.add_get("/readyz", lambda request: answer())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, sys.argv[1]).start()
    print("listening", flush=True)
    await asyncio.Event().wait()

async def answer():
    return web.json_response({"sandbox": {"tier": "a"}, "detail": "bus"}, status=int(sys.argv[2]))

asyncio.run(main())
"""


@asynccontextmanager
async def service(place: Path, name: str, code: str, status: int = 200) -> AsyncIterator[Asked]:
    socket = place / f"{name}.sock"
    supervised = Supervised(
        Program(
            name=name,
            command=(sys.executable, "-c", code, str(socket), str(status)),
            environment={"PATH": os.defpath},
            directory=place,
            log=place / f"{name}.log",
            pidfile=place / f"{name}.pid",
        )
    )
    await supervised.start()
    try:
        yield Asked(supervised=supervised, socket=socket)
    finally:
        await supervised.stop(grace=5)


async def test_what_ready_services_say_is_returned_by_name(tmp_path: Path) -> None:
    async with service(tmp_path, "executor", ANSWERS) as asked:
        told = await wait_until_ready([asked], within=30)
    assert told == {"executor": {"sandbox": {"tier": "a"}, "detail": "bus"}}


async def test_only_the_late_ones_are_named_with_their_reason_and_log(tmp_path: Path) -> None:
    async with service(tmp_path, "gateway", ANSWERS) as well, service(tmp_path, "events", ANSWERS, 503) as late:
        with pytest.raises(StartError) as raised:
            await wait_until_ready([well, late], within=3)
    said = str(raised.value)
    assert "events: it answers 503" in said
    assert '"detail": "bus"' in said
    assert "listening" in said
    assert "gateway" not in said


async def test_a_service_that_refuses_its_configuration_is_not_waited_for(tmp_path: Path) -> None:
    refuses = "import sys; print('MILLRACE_KEYS is not set', flush=True); sys.exit(2)"
    async with service(tmp_path, "oauth", refuses) as asked:
        with pytest.raises(StartError, match=r"(?s)oauth: it refuses its configuration.*MILLRACE_KEYS is not set"):
            await wait_until_ready([asked], within=30)
