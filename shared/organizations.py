"""Whose resources an organization sees: its own, and of the platform's those whose names it has not taken itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

# The platform's own organization: all others see its workspace, workflows and settings.
PLATFORM = "global"

T = TypeVar("T")


def seen_by(org: str) -> tuple[str, ...]:
    """Return the organizations whose resources `org` sees, those that come first first."""
    return (org,) if org == PLATFORM else (org, PLATFORM)


async def first_seen(org: str, find: Callable[[str], Awaitable[T | None]]) -> T | None:
    """Return the result of `find` for the organization itself, else for the platform's; None where there is neither."""
    for owner in seen_by(org):
        found = await find(owner)
        if found is not None:
            return found
    return None
