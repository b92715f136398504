"""MemoryBudget for bodies: who may hold how much of it, and that all of it comes back."""

from __future__ import annotations

import resource
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.memory_budget import FREE, MIB, SMALL, MemoryBudget
from services.gateway.peers import LEAST, OTHER_DESCRIPTORS, descriptors_for, neighbourhood
from shared.errors import TooMany, Unavailable

LARGEST = 25 * MIB


def test_a_source_holds_two_of_the_largest_bodies_and_an_organization_four() -> None:
    budget = MemoryBudget(LARGEST)
    held = [budget.hold(org="a", source=source) for source in ("s", "s", "t", "t")]
    for one in held:
        one.take(LARGEST)
    for source in ("s", "u"):
        with pytest.raises(TooMany):
            budget.hold(org="a", source=source).take(LARGEST)
    budget.hold(org="b", source="v").take(LARGEST)


def test_an_address_has_half_whatever_it_sends_to() -> None:
    budget = MemoryBudget(LARGEST)
    for number in range(4):
        budget.hold(org=f"o{number}", source=f"s{number}", address="192.0.2.1").take(LARGEST)
    with pytest.raises(TooMany):
        budget.hold(org="b", source="s", address="192.0.2.1").take(LARGEST)
    budget.hold(org="b", source="s", address="192.0.2.2").take(LARGEST)


def test_large_bodies_leave_the_reserve_to_small_ones_and_small_ones_the_rest_to_large_ones() -> None:
    budget = MemoryBudget(LARGEST)
    for number in range(8):
        budget.hold(org=f"o{number}", source=f"s{number}").take(LARGEST)
    with pytest.raises(Unavailable) as refused:
        budget.hold(org="b", source="s").take(SMALL + 1)
    assert refused.value.retry_after
    for number in range(64 * MIB // SMALL):
        budget.hold(org=f"o{number}", source=f"s{number}").take(SMALL)
    with pytest.raises(Unavailable):
        budget.hold(org="b", source="s").take(FREE + 1)
    # What nearly all webhooks have is there whatever others do.
    with budget.hold(org="b", source="s") as held:
        held.take(FREE)


def test_a_source_has_an_eighth_of_the_reserve_and_an_organization_a_quarter() -> None:
    budget = MemoryBudget(LARGEST)
    for source in "st":
        for _ in range(64 * MIB // 8 // SMALL):
            budget.hold(org="a", source=source).take(SMALL)
        with pytest.raises(TooMany):
            budget.hold(org="a", source=source).take(SMALL)
    with pytest.raises(TooMany):
        budget.hold(org="a", source="u").take(SMALL)
    budget.hold(org="b", source="v").take(SMALL)


def test_a_body_is_small_until_it_is_large() -> None:
    budget = MemoryBudget(LARGEST)
    small, large = budget.small.free, budget.large.free
    with budget.hold(org="a", source="s") as held:
        held.take(SMALL)
        assert (budget.small.free, budget.large.free) == (small - SMALL, large)
        held.take(1)
        assert (budget.small.free, budget.large.free) == (small, large - SMALL - 1)
    assert (budget.small.free, budget.large.free) == (small, large)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("stu"), st.sampled_from([None, "x"]), st.lists(st.integers(1, 40 * MIB))),
        max_size=30,
    )
)
def test_what_was_taken_comes_back_whatever_was_refused(bodies: list[tuple[str, str, str | None, list[int]]]) -> None:
    budget = MemoryBudget(LARGEST)
    free = (budget.small.free, budget.large.free)
    held = [(budget.hold(org=org, source=source, address=address), parts) for org, source, address, parts in bodies]
    for one, parts in held:
        for part in parts:
            try:
                one.take(part)
            except (TooMany, Unavailable):
                break
    assert budget.small.free >= 0
    assert budget.large.free >= 0
    for one, _ in held:
        with one:
            pass
    assert (budget.small.free, budget.large.free) == free
    # Everybody has their whole share again.
    for org in "ab":
        budget.hold(org=org, source="s", address="x").take(LARGEST)


def test_an_address_counts_unless_it_stands_for_many() -> None:
    trusted = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    alone = {
        "192.0.2.1": "192.0.2.1",
        "::ffff:192.0.2.1": "192.0.2.1",
        "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::",
        "192.168.1.1": "192.168.1.1",
    }
    many = ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "127.0.0.1", "::1", "", "no address", None]
    assert {one: neighbourhood(one, trusted) for one in alone} == alone
    assert [neighbourhood(one, trusted) for one in many] == [None] * len(many)


def test_there_are_no_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _which, wanted: limits.update(now=wanted))
    assert descriptors_for(500) == 500
    assert limits["now"] == (1024, 4096)
    assert descriptors_for(2000) == 2000
    assert limits["now"] == (2000 + OTHER_DESCRIPTORS, 4096)
    assert descriptors_for(10_000) == 4096 - OTHER_DESCRIPTORS
    assert limits["now"] == (4096, 4096)
    limits["now"] = (100, 100)
    assert descriptors_for(10_000) == LEAST
