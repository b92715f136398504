"""Ranges of bytes and lists of entity tags, as RFC 9110 has them."""

from __future__ import annotations

import pytest

from services.gateway.api.content import part_of
from services.gateway.domain import tags_of
from shared.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-499", (0, 500)),
        ("bytes=500-", (500, 500)),
        ("bytes=-1", (999, 1)),
        ("bytes=-5000", (0, 1000)),
        ("bytes=990-5000", (990, 10)),
        ("BYTES= 1-2 ", (1, 2)),
    ],
)
def test_one_range_is_a_part(header: str, part: tuple[int, int]) -> None:
    assert part_of(header, 1000) == part


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=2-1", "items=0-1", "bytes=a-b", "bytes=-", "", "bytes=0;1"])
def test_what_is_no_single_range_asks_for_the_whole(header: str) -> None:
    assert part_of(header, 1000) is None


@pytest.mark.parametrize(("header", "size"), [("bytes=1000-", 1000), ("bytes=-0", 1000), ("bytes=0-", 0), ("bytes=5000-6000", 9)])
def test_a_part_that_is_not_there_is_refused_with_the_size(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        part_of(header, size)
    assert refused.value.size == size


def test_a_list_of_tags_holds_each_and_weak_ones_only_where_they_count() -> None:
    assert tags_of('"a", W/"b" ,"c"', weak=True) == {"a", "b", "c"}
    assert tags_of('"a", W/"b"', weak=False) == {"a"}
    assert tags_of("", weak=True) == set()
    assert tags_of('"a" "b"', weak=True) is None
    assert tags_of("a", weak=True) is None
