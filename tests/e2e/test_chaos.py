"""The short kill matrix: what must be zero is zero."""

from typing import Any

import pytest

from tests.support.drills import said_by

# About a minute alone; on a machine that runs other tests beside it, several.
BOUND = 420.0


@pytest.fixture(scope="module")
async def outcome() -> dict[str, Any]:
    """What the quick drill said, after it left nothing behind."""
    return await said_by("tests.chaos.webhooks", BOUND)


@pytest.mark.parametrize("kind", ["lost", "duplicated", "stuck", "failed", "disagrees", "refused"])
async def test_kills_leave_nothing_that_is(outcome: dict[str, Any], kind: str) -> None:
    assert outcome[kind] == 0, outcome["text"]


async def test_every_webhook_was_accepted_and_every_part_came_back(outcome: dict[str, Any]) -> None:
    assert outcome["accepted"] >= 300
    assert [cell["target"] for cell in outcome["cells"] if cell["seconds"] is None] == []
    assert (outcome["unarchived"], outcome["dead"], outcome["clean"], outcome["exit"]) == ({}, [], True, 0), outcome["text"]
