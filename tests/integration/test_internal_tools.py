"""The tools that docs/internal-tools.md shows, as programs of somebody's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from shared.envelope import new_id
from shared.messages import RunFailed
from shared.messages.run import RunError, RunUsage
from tests.integration.test_subscribers import House, admitting, home
from tests.support.golden import DOCUMENTS
from tests.support.inside import bus_of
from tests.support.stack import ROOT

__all__ = ["admitting", "home"]  # fixtures

TOOLS = dict(
    re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", (ROOT / "docs" / "internal-tools.md").read_text(), re.DOTALL | re.MULTILINE)
)


@asynccontextmanager
async def tool(folder: Path, name: str, key: Any, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run a tool of the document for the block, and give what it says once it listens."""
    program, file = folder / Path(name).name, folder / f"{Path(name).stem}.json"
    program.write_text(TOOLS[name])
    file.write_text(json.dumps(key))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), str(file), *arguments, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert (await process.stdout.readline()).startswith(b"listening")
        yield process.stdout
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def chat() -> AsyncIterator[tuple[str, asyncio.Queue[Any]]]:
    """An address that takes what is posted to it."""
    posted: asyncio.Queue[Any] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        posted.put_nowait(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", posted
    finally:
        await runner.cleanup()


async def test_failed_runs_are_posted_to_a_chat(home: House, tmp_path: Path) -> None:
    key = await home.key("pager", subjects=["run.*.failed"])
    async with chat() as (address, posted), tool(tmp_path, "tools/failed_runs.py", key, address) as said:
        run = new_id()
        error = RunError(type="ValueError", message="no paper")
        failed = RunFailed(run=run, attempt=1, reason="error", error=error, duration_ms=1.0, usage=RunUsage())
        await home.bus.publish(home.bus.seal(failed, org="acme"))
        async with asyncio.timeout(60):
            text = (await posted.get())["text"]
            assert (await said.readline()).decode() == f"{text}\n"
        assert text == f"run {run} failed: no paper"


async def test_dead_letters_of_all_organizations_are_watched(home: House, tmp_path: Path) -> None:
    key = await home.key("letters", org="global", subjects=["dead.>"])
    async with tool(tmp_path, "tools/dead_letters.py", key) as said, bus_of(home.place, "admin") as admin:
        await admin.client.request("dead.service-1.verb-1", DOCUMENTS["dead.*"][1], timeout=10)
        async with asyncio.timeout(60):
            assert (await said.readline()).decode() == "default consumer-1 reason-1 error-1\n"
