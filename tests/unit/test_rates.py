"""Buckets: how many are let in at once, and how many in the long run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.identity import Keys
from services.gateway.limits import Organizations, RateLimit, RateLimits, headers_of
from services.gateway.principals import Principal
from services.gateway.rates import DefaultRates, Rate, SharedBuckets, TokenBucket, rate_of
from services.gateway.users import Users
from shared.health import Health

RATES = {"key": Rate(5.0, 20), "organization": Rate(0.1)}


def test_a_bucket_lets_a_burst_in_and_then_one_at_a_time() -> None:
    bucket = TokenBucket(Rate(2.0, 3))
    assert [bucket.take(100.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert bucket.wait(100.25) == 0.25
    assert [bucket.take(100.5), bucket.take(100.5)] == [0, 0.5]
    assert [bucket.take(1000.0) for _ in range(4)] == [0, 0, 0, 0.5]


def test_looking_takes_nothing() -> None:
    bucket = TokenBucket(Rate(1.0, 1))
    assert [bucket.wait(5.0) for _ in range(3)] == [0, 0, 0]
    assert bucket.take(5.0) == 0
    assert bucket.take(5.0) == 1.0


def test_without_a_burst_as_many_are_let_in_at_once_as_in_a_second() -> None:
    assert [TokenBucket(Rate(0.5)).take(0.0), TokenBucket(Rate(0.5)).wait(0.0)] == [0, 0]
    bucket = TokenBucket(Rate(2.5))
    assert [bucket.take(0.0) > 0 for _ in range(4)] == [False, False, False, True]


USER = {"is_user": True, "id": "u", "org": "global", "roles": (("acme", "viewer"), ("globex", "admin"))}
KEY = {"id": "k", "org": "acme", "roles": (("acme", "viewer"),)}
OF_PLATFORM = {"id": "p", "org": "global", "roles": (("global", "viewer"),)}


@pytest.mark.parametrize(
    ("caller", "org", "counted"),
    [
        (KEY, "acme", ["key:k", "org:acme"]),
        # It names another one, where it is nobody: nothing of that is used up.
        (KEY, "globex", ["key:k", "org:acme"]),
        (USER, "globex", ["user:u", "org:globex"]),
        (USER, "other", ["user:u"]),
        (USER, "global", ["user:u"]),
        (OF_PLATFORM, "acme", []),
        (OF_PLATFORM | {"id": None}, "acme", []),
    ],
)
def test_whose_limits_count_for_a_caller(caller: dict[str, Any], org: str, counted: list[str]) -> None:
    client: Any = None
    health = Health("gateway")
    keys, organizations = Keys(client, health, "mr_platform", Users(client, health)), Organizations(client, health)
    limits = RateLimits(SharedBuckets(client), keys, organizations, DefaultRates(key=Rate(1.0), org=Rate(2.0)))
    found = limits.of_caller(Principal(actor="x", **caller), org)
    assert [one.bucket.id for one in found] == counted
    assert [one.name for one in found] == [{"org": "organization"}.get(name := id_.partition(":")[0], name) for id_ in counted]


@given(
    per_second=st.floats(0.001, 1e6),
    burst=st.integers(1, 1000),
    steps=st.lists(st.floats(-1, 10), max_size=100),
)
def test_no_pattern_of_requests_gets_more_in_than_burst_and_rate_allow(per_second: float, burst: int, steps: list[float]) -> None:
    bucket = TokenBucket(Rate(per_second, burst))
    begun = now = last = 1000.0
    admitted = 0
    for step in steps:
        # Also a clock that went back gives nothing away.
        now = max(begun, now + step)
        last = max(last, now)
        admitted += bucket.take(now) == 0
    assert admitted <= burst + (last - begun) * per_second + 1e-6


def test_whoever_waits_as_told_gets_in() -> None:
    bucket = TokenBucket(Rate(3.0, 1))
    assert bucket.take(50.0) == 0
    wait = bucket.take(50.0)
    assert bucket.take(50.0 + wait + 1e-9) == 0


@pytest.mark.parametrize("rate", [{}, {"per_second": 0}, {"per_second": -1}, {"per_second": 1, "burst": 0}, {"per_second": "1"}, 5])
def test_a_rate_that_means_nothing_is_refused(rate: object) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError)):
        rate_of({"rate": rate})
    assert rate_of({}) is None
    assert rate_of({"rate": {"per_second": 2.5}}) == Rate(2.5)


def test_what_was_given_elsewhere_is_owed() -> None:
    bucket = TokenBucket(Rate(1.0, 4))
    bucket.spend(6, 10.0)
    assert (bucket.left(10.0), bucket.wait(10.0)) == ((0, 6.0), 3.0)
    assert (bucket.take(12.5), bucket.take(13.0), bucket.left(13.0)) == (0.5, 0, (0, 4.0))


def test_what_a_client_is_told_of_its_limits() -> None:
    client: Any = None
    limits = tuple(RateLimit(name, SharedBuckets(client).bucket(name, rate)) for name, rate in RATES.items())
    assert headers_of(limits) == {
        "RateLimit-Policy": '"key";q=20;w=4, "organization";q=1;w=10',
        "RateLimit": '"key";r=20;t=0, "organization";r=1;t=0',
    }
