"""The short drill of outages: while a service and the database are killed nothing is answered 500, and nothing hangs."""

from typing import Any

import pytest

from tests.chaos.outages.__main__ import QUICK
from tests.chaos.outages.report import WRONGS
from tests.support.drills import said_by

# About half a minute alone.
BOUND = 300.0


@pytest.fixture(scope="module")
async def outcome() -> dict[str, Any]:
    """What the quick drill said, after it left nothing behind."""
    return await said_by("tests.chaos.outages", BOUND)


async def test_every_answer_is_a_success_or_says_when_to_try_again(outcome: dict[str, Any]) -> None:
    assert {wrong: outcome[wrong] for wrong in WRONGS} == dict.fromkeys(WRONGS, 0), outcome["text"]
    assert (outcome["clean"], outcome["exit"]) == (True, 0), outcome["text"]
    # Something was refused meanwhile: each part was away, and needed.
    assert [(cell["target"], cell["unavailable"] > 0) for cell in outcome["cells"]] == [(target, True) for target in QUICK]
