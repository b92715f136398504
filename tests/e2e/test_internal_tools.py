"""The tools that docs/internal-tools.md shows, as programs of somebody's, beside a running stack."""

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

import nats
from aiohttp import web

from tests.support.client import Client
from tests.support.command import Command
from tests.support.golden import DOCUMENTS
from tests.support.stack import ROOT, Up

TOOLS = dict(
    re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", (ROOT / "docs" / "internal-tools.md").read_text(), re.DOTALL | re.MULTILINE)
)
FLOW = b"""
from millrace import workflow


@workflow(name="breaks")
def breaks() -> None:
    raise ValueError("no paper")
"""


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


async def test_failed_runs_are_posted_to_a_chat(client: Client, millrace: Command, tmp_path: Path) -> None:
    key = await millrace.json("keys", "create", "--nats", "pager", "--subjects", '["run.*.failed"]')
    await client.put_file("flows/breaks.py", FLOW)
    async with chat() as (address, posted), tool(tmp_path, "tools/failed_runs.py", key, address) as said:
        run = await client.call("POST", "/api/v1/workflows/breaks/runs?wait=60", body={"input": {}})
        async with asyncio.timeout(60):
            text = (await posted.get())["text"]
            assert (await said.readline()).decode() == f"{text}\n"
        assert text == f"run {run['id']} failed: no paper"


async def test_dead_letters_of_all_organizations_are_watched(up: Up, millrace: Command, tmp_path: Path) -> None:
    key = await millrace.json("keys", "create", "--nats", "letters", "--org", "global", "--subjects", '["dead.>"]')
    async with tool(tmp_path, "tools/dead_letters.py", key) as said:
        broker = await nats.connect(up.ready["nats_url"])
        try:
            await broker.jetstream().publish("dead.service-1.verb-1", DOCUMENTS["dead.*"][1])
        finally:
            await broker.close()
        async with asyncio.timeout(60):
            assert (await said.readline()).decode() == "default consumer-1 reason-1 error-1\n"
