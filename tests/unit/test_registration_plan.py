"""What is due of a registration, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.events.adapters import ADAPTERS
from services.events.adapters.registering import Given, SenderResource, filled, segment
from services.events.registrations import plan
from services.events.registrations.plan import WantedRegistration
from shared.envelope import rfc3339
from shared.errors import Invalid, TooMany, Unavailable
from shared.messages import RegistrationState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
HOUR = timedelta(hours=1)
RESOURCE = SenderResource(collection="c", created={"a": Given.SECRET}, renewed={})
WANTED = WantedRegistration(place="https://x/c", connection="one", resource=RESOURCE, lifetime=60, digest="d")


def state(**fields: Any) -> RegistrationState:
    made = {"source": "s", "source_name": "mail", "adapter": "github", "tried": 5, "due_at": rfc3339(NOW + HOUR), "digest": "d"}
    return RegistrationState(**(made | {"remote": "r"} | fields))


def before(moment: timedelta) -> str:
    return rfc3339(NOW - moment)


@pytest.mark.parametrize(
    ("last", "version", "hurried", "expected"),
    [
        (None, 5, False, "create"),
        (state(), 5, False, "nothing"),
        (state(), 6, True, "nothing"),
        (state(due_at=before(HOUR)), 5, False, "renew"),
        (state(due_at=before(HOUR), remote=None), 5, False, "create"),
        (state(due_at=before(HOUR), notice="create"), 5, False, "create"),
        (state(due_at=before(HOUR), notice="renew"), 5, False, "renew"),
        (state(due_at=before(HOUR), expires_at=before(HOUR)), 5, False, "create"),
        (state(digest="other"), 5, False, "replace"),
        (state(digest="other", error="e"), 5, False, "nothing"),
        (state(digest="other", error="e"), 6, False, "replace"),
        (state(error="e"), 5, True, "renew"),
        (state(error="e", not_before=rfc3339(NOW + HOUR)), 6, True, "nothing"),
        (state(digest="other", not_before=rfc3339(NOW + HOUR)), 6, True, "nothing"),
    ],
)
def test_a_look_does_what_is_due_and_no_more(last: RegistrationState | None, version: int, hurried: bool, expected: str) -> None:
    assert plan.step(last, WANTED, NOW, version=version, hurried=hurried) == expected


@given(st.floats(60, 30 * 86_400), st.floats(0, 1))
def test_a_renewal_comes_before_the_end_and_within_a_day(left: float, chance: float) -> None:
    ends = NOW + timedelta(seconds=left)
    at = plan.renewal(ends, NOW, chance)
    assert NOW < at < ends
    assert at <= NOW + plan.DAY
    assert plan.renewal(None, NOW, chance) <= NOW + plan.DAY


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_pauses_grow_to_a_bound_and_what_the_sender_asks_for_is_the_least(tries: int, chance: float) -> None:
    passing, none = plan.next_try(Unavailable("away"), tries, None, NOW, chance)
    lasting, _ = plan.next_try(Invalid("refused"), tries, None, NOW, chance)
    assert NOW < passing <= NOW + timedelta(seconds=plan.PASSING[1])
    assert passing <= lasting <= NOW + timedelta(seconds=plan.LASTING[1])
    assert none is None
    at, asked = plan.next_try(TooMany("wait", retry_after=7200.0), tries, None, NOW, chance)
    assert asked == NOW + 2 * HOUR <= at
    forever, _ = plan.next_try(TooMany("wait", retry_after=1e9), tries, None, NOW, chance)
    assert forever <= NOW + plan.DAY + timedelta(seconds=1)


def test_what_ends_before_the_next_try_is_looked_at_when_it_does() -> None:
    ends = NOW + timedelta(seconds=10)
    assert plan.next_try(Invalid("refused"), 5, rfc3339(ends), NOW, 0.5) == (ends, None)


def test_a_digest_is_of_everything_that_a_registration_is_made_of() -> None:
    one = ("https://x/c", "one", RESOURCE, "https://me/hooks/1", "v1.sealed")
    other = ("https://y/c", "two", SenderResource(collection="c", created={"a": 1}, renewed={}), "https://me/hooks/2", "v1.other")
    made = {plan.digest_of(*one)} | {plan.digest_of(*one[:n], other[n], *one[n + 1 :]) for n in range(len(one))}
    assert len(made) == len(one) + 1
    assert plan.digest_of(*one) == plan.digest_of(*one)


@pytest.mark.parametrize("url", ["https://example.org", "http://127.0.0.1:8420", "http://[::1]:8420", "http://localhost:1"])
def test_senders_are_given_https_addresses_or_loopback_ones(url: str) -> None:
    assert plan.checked_address(url) == url


@pytest.mark.parametrize(
    "url", [None, "http://example.org", "http://10.0.0.1", "http://127.0.0.1.example.org", "http://localhost.example"]
)
def test_senders_are_given_no_other_address(url: str | None) -> None:
    with pytest.raises(Invalid, match="MILLRACE_PUBLIC_URL"):
        plan.checked_address(url)


def test_no_setting_is_taken_for_a_value_that_is_filled_in() -> None:
    registering = ADAPTERS["microsoft-graph"].registering
    assert registering is not None
    tricks = ["{secret}", "Given.SECRET", "secret", "${secret}"]
    for trick in tricks:
        body = registering.resource({"resource": trick, "changes": ["created"]}).created
        made = filled(body, {Given.SECRET: "hush", Given.CALLBACK: "c", Given.EXPIRES: "e"})
        assert (made["resource"], made["clientState"]) == (trick, "hush")


@pytest.mark.parametrize("part", ["", ".", "..", "x" * 501])
def test_no_part_of_an_address_leads_elsewhere(part: str) -> None:
    with pytest.raises(ValueError, match="part of an address"):
        segment(part)
    assert segment("a/../b?c#d") == "a%2F..%2Fb%3Fc%23d"
