"""The short drill of runs: what must be zero is zero."""

from typing import Any

import pytest

from tests.chaos.runs.kinds import KINDS
from tests.support.drills import said_by

# About a minute alone, most of it a redelivery; on a machine that runs other tests beside it, several.
BOUND = 600.0


@pytest.fixture(scope="module")
async def outcome() -> dict[str, Any]:
    """What the quick drill said, after it left nothing behind."""
    return await said_by("tests.chaos.runs", BOUND)


@pytest.mark.parametrize("kind", ["lost", "duplicated", "stuck", "wrong", "disagrees", "leaked"])
async def test_kills_of_executors_leave_no_run_that_is(outcome: dict[str, Any], kind: str) -> None:
    assert outcome[kind] == 0, outcome["text"]


async def test_runs_of_every_kind_were_asked_for_and_executors_were_killed_and_paused(outcome: dict[str, Any]) -> None:
    assert [row["name"] for row in outcome["kinds"] if row["accepted"]] == [kind.name for kind in KINDS]
    assert outcome["disturbances"]["pause the second"] == 1
    assert outcome["disturbances"]["kill the first"] >= 1
    assert outcome["again"] > 0
    assert (outcome["clean"], outcome["exit"]) == (True, 0), outcome["text"]
