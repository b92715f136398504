"""Places to wait in and turns at providers: nobody takes them from others, and nothing is left of who has gone."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from services.oauth.waiting import Gates, WaitingPlaces
from shared.errors import Unavailable


def taken(places: WaitingPlaces, stack: ExitStack, org: str, provider: str, most: int = 100) -> int:
    """Take as many places as there are for an organization and a provider; return how many."""
    for count in range(most):
        try:
            stack.enter_context(places.one(org, provider))
        except Unavailable:
            return count
    return most


def test_one_organization_takes_no_more_places_than_it_leaves_free() -> None:
    places = WaitingPlaces(32, 12)
    with ExitStack() as stack:
        assert taken(places, stack, "acme", "acme/c@slow") == 12
        assert taken(places, stack, "acme", "acme/c@other") == 4
        assert taken(places, stack, "other", "other/c@slow") == 8
        assert taken(places, stack, "third", "third/c@slow") == 4
    assert taken(places, ExitStack(), "acme", "acme/c@slow") == 12


def test_a_provider_that_many_organizations_share_leaves_places_for_others() -> None:
    places = WaitingPlaces(32, 12)
    with ExitStack() as stack:
        assert sum(taken(places, stack, f"org{number}", "global/c@slow", 1) for number in range(40)) == 16
        assert taken(places, stack, "acme", "acme/c@quick", 1) == 1


async def test_a_gate_is_gone_with_its_last_user() -> None:
    gates, let = Gates(3), asyncio.Event()

    async def uses(provider: str) -> None:
        async with gates.turn(provider, 2):
            await let.wait()

    users = [asyncio.create_task(uses(provider)) for provider in ("a", "a", "a", *map(str, range(100)))]
    while len(gates) < 101:
        await asyncio.sleep(0)
    assert gates.busy == ["a"]
    users.pop().cancel()
    let.set()
    await asyncio.gather(*users)
    assert len(gates) == 0


def test_a_place_that_is_not_to_be_had_is_counted_for_nobody() -> None:
    places = WaitingPlaces(2, 1)
    with places.one("acme", "p"):
        for _ in range(3):
            with pytest.raises(Unavailable), places.one("acme", "p"):
                pass
