"""The short kill matrix: what must be zero is zero."""

import asyncio
import sys
from typing import Any

import msgspec
import pytest

from tests.support.stack import ROOT

# About a minute alone; on a machine that runs other tests beside it, several.
BOUND = 420.0


@pytest.fixture(scope="module")
async def outcome() -> dict[str, Any]:
    """What the quick drill said, after it left nothing behind."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "deploy.chaos", "--quick", "--json"],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        stdin=asyncio.subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        async with asyncio.timeout(BOUND):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    text = said.decode()
    last = text.splitlines()[-1]
    assert last.startswith("{"), text
    found: dict[str, Any] = msgspec.json.decode(last)
    return found | {"exit": process.returncode, "text": text}


@pytest.mark.parametrize("kind", ["lost", "duplicated", "stuck", "failed", "disagrees", "refused"])
async def test_kills_leave_nothing_that_is(outcome: dict[str, Any], kind: str) -> None:
    assert outcome[kind] == 0, outcome["text"]


async def test_every_webhook_was_accepted_and_every_part_came_back(outcome: dict[str, Any]) -> None:
    assert outcome["accepted"] >= 300
    assert [cell["target"] for cell in outcome["cells"] if cell["seconds"] is None] == []
    assert (outcome["unarchived"], outcome["dead"], outcome["clean"], outcome["exit"]) == ({}, [], True, 0), outcome["text"]
