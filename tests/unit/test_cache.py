"""When a cached answer is given, and when it is made anew."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shared.cache import CacheEntry, Terms, Worked, judge, made
from shared.errors import ErrorDocument

seconds = st.floats(0.001, 86_400)
drawn = st.floats(0, 1, exclude_min=True)
terms = st.builds(lambda fresh, stale: Terms(fresh=fresh, stale=stale, limit=60), seconds, seconds)
ANSWER = Worked(msgspec.Raw(b"1"), 1e9)


@given(terms, seconds, drawn, st.floats(0, 200_000))
def test_an_answer_is_never_given_beyond_its_limit_and_always_within(kept: Terms, took: float, one: float, later: float) -> None:
    entry = made(ANSWER, kept, took, one)
    verdict = judge(entry, ANSWER.at + later, one)
    assert (verdict == "missing") == (ANSWER.at + later >= entry.usable_until)
    assert (verdict in {"hit", "early"}) == (ANSWER.at + later < entry.fresh_until)


@given(terms, seconds, drawn, drawn)
def test_an_answer_that_took_longer_is_made_anew_no_later(kept: Terms, took: float, one: float, part: float) -> None:
    quick, slow = (made(ANSWER, kept, how, one) for how in (took, 2 * took))
    now = ANSWER.at + part * kept.fresh
    assert judge(quick, now, one) == judge(slow, now, one) or judge(slow, now, one) == "early"
    assert judge(slow, now, 1.0) != "early"


@given(terms, st.lists(drawn, min_size=2, max_size=2, unique=True))
def test_answers_that_were_made_together_do_not_end_together(kept: Terms, two: list[float]) -> None:
    ends = [made(ANSWER, kept, 0.1, one).fresh_until - ANSWER.at for one in two]
    assert all(0.9 * kept.fresh - 1e-6 <= end <= kept.fresh + 1e-6 for end in ends)


def test_a_failure_without_an_answer_is_told_until_it_is_tried_again() -> None:
    failed = CacheEntry(error=ErrorDocument("invalid", "it is broken"), retry_at=10.0)
    assert [judge(failed, now, 0.5) for now in (9.0, 10.0)] == ["failed", "missing"]
