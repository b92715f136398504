"""The short drill of tokens: with replicas killed and paused every grant lives, and what must be zero is zero."""

from typing import Any

import pytest

from tests.chaos.oauth.report import WRONGS
from tests.support.drills import said_by

# About half a minute alone; a kill in the middle of an attempt adds the rest of its claim.
BOUND = 300.0


@pytest.fixture(scope="module")
async def outcome() -> dict[str, Any]:
    """What the quick drill said, after it left nothing behind."""
    return await said_by("tests.chaos.oauth", BOUND)


async def test_replicas_that_are_killed_and_paused_lose_no_grant_and_leave_none_stuck(outcome: dict[str, Any]) -> None:
    assert {wrong: outcome[wrong] for wrong in WRONGS} == dict.fromkeys(WRONGS, 0), outcome["text"]
    assert (outcome["clean"], outcome["exit"]) == (True, 0), outcome["text"]


async def test_each_refresh_was_a_rotation_while_something_was_done_to_the_replicas(outcome: dict[str, Any]) -> None:
    assert outcome["rotations"] >= outcome["refreshes"] >= 100
    assert set(outcome["disturbances"]) == {"kill the first", "pause the second", "kill the second"}, outcome["text"]
