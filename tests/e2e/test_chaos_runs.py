"""The short drill of runs: what must be zero is zero."""

import asyncio
import sys
from typing import Any

import msgspec
import pytest

from deploy.chaos.runs.kinds import KINDS
from tests.support.stack import ROOT

# About a minute alone, most of it a redelivery; on a machine that runs other tests beside it, several.
BOUND = 600.0


@pytest.fixture(scope="module")
async def outcome() -> dict[str, Any]:
    """What the quick drill said, after it left nothing behind."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "deploy.chaos.runs", "--quick", "--json"],
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


@pytest.mark.parametrize("kind", ["lost", "duplicated", "stuck", "wrong", "disagrees", "leaked"])
async def test_kills_of_executors_leave_no_run_that_is(outcome: dict[str, Any], kind: str) -> None:
    assert outcome[kind] == 0, outcome["text"]


async def test_runs_of_every_kind_were_asked_for_and_executors_were_killed_and_paused(outcome: dict[str, Any]) -> None:
    assert [row["name"] for row in outcome["kinds"] if row["accepted"]] == [kind.name for kind in KINDS]
    assert outcome["disturbances"]["pause the second"] == 1
    assert outcome["disturbances"]["kill the first"] >= 1
    assert outcome["again"] > 0
    assert (outcome["clean"], outcome["exit"]) == (True, 0), outcome["text"]
