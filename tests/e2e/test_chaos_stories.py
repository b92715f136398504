"""The short drill of stories: each webhook has exactly one, and what must be zero is zero."""

from typing import Any

import pytest

from tests.chaos.stories.verdict import WRONGS
from tests.support.drills import said_by

# About half a minute alone, more where a kill leaves a redelivery; on a machine that runs other tests beside it, several.
BOUND = 420.0


@pytest.fixture(scope="module")
async def outcome() -> dict[str, Any]:
    """What the quick drill said, after it left nothing behind."""
    return await said_by("tests.chaos.stories", BOUND)


@pytest.mark.parametrize("kind", WRONGS)
async def test_kills_of_events_leave_no_webhook_that_is(outcome: dict[str, Any], kind: str) -> None:
    assert outcome[kind] == 0, outcome["text"]


async def test_each_of_the_webhooks_has_one_story_though_some_came_twice(outcome: dict[str, Any]) -> None:
    assert (outcome["stories"], outcome["webhooks"], outcome["sources"], outcome["kills"]) == (400, 400, 20, 2)
    assert outcome["sendings"] > 420
    assert all(row["accepted"] for row in outcome["kinds"])
    assert (outcome["refused"], outcome["clean"], outcome["exit"]) == (0, True, 0), outcome["text"]
