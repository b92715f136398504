"""A small fuzz: hostile values through every door of a stack hurt nobody."""

from typing import Any

import pytest

from tests.fuzz.fuzzing import DOORS
from tests.support.drills import said_by

# About half a minute alone; on a machine that runs other tests beside it, several.
BOUND = 300.0


@pytest.fixture(scope="module")
async def outcome() -> dict[str, Any]:
    """What the quick fuzz said, after it left nothing behind."""
    # Requests as each role are those of tests/integration/test_documented_answers.py.
    return await said_by("tests.fuzz", BOUND, *(part for door in DOORS for part in ("--door", door)))


@pytest.mark.parametrize("kind", ["failed", "unanswered", "wrong"])
async def test_no_value_is(outcome: dict[str, Any], kind: str) -> None:
    assert outcome[kind] == 0, outcome["text"]


async def test_every_door_took_values_and_said_what_became_of_each(outcome: dict[str, Any]) -> None:
    assert len(outcome["doors"]) == 6
    for door in outcome["doors"]:
        counts = door["counts"]
        assert 0 < counts["values"] == counts["stored"] + counts["refused"], outcome["text"]


async def test_no_process_was_started_again_and_no_projection_stayed_behind(outcome: dict[str, Any]) -> None:
    assert (outcome["restarts"], [door["complaints"] for door in outcome["doors"] if door["complaints"]]) == ({}, []), outcome[
        "text"
    ]


async def test_the_other_organizations_webhooks_all_had_their_runs(outcome: dict[str, Any]) -> None:
    assert outcome["sung"] > 0
    assert outcome["silent"] == [], outcome["text"]
