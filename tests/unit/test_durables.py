"""What waits for handlers is counted for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from shared.durables import count_for_ever
from shared.errors import Unavailable


class Over(Exception):
    """Ends the loop."""


async def counted(*outcomes: Exception | None) -> list[Any]:
    left = list(outcomes)

    async def count() -> None:
        outcome = left.pop(0) if left else Over()
        if outcome is not None:
            raise outcome

    with capture_logs() as logs, pytest.raises(Over):
        await count_for_ever(count, lambda: asyncio.sleep(0), failed="test.not_counted")
    return [(line["event"], line["reason"]) for line in logs]


async def test_a_failure_ends_no_counting_and_is_logged_once_until_the_next_success() -> None:
    first, second = Unavailable("away"), Unavailable("away again")
    assert await counted(first, first, None, None, second, second) == [
        ("test.not_counted", "away"),
        ("test.not_counted", "away again"),
    ]
