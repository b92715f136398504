"""Cleaning of a stored message never fails, whatever it holds."""

from datetime import UTC, datetime

import pytest

from shared.pull import Delivered
from shared.salvage import clean


@pytest.mark.parametrize("depth", [101, 127, 980, 100_000])
@pytest.mark.parametrize("form", ['["\\u0000",%s]', '{"a\\u0000":%s}'])
def test_what_is_nested_deeper_than_may_enter_stays_as_it_is(depth: int, form: str) -> None:
    assert clean(delivered((form % ("[" * depth + "]" * depth)).encode())) is None


@pytest.mark.parametrize("document", [b"", b"\xff", b"\0", b"{", b'{"a":1e999999}', b"9" * 5_000, b'{"a":NaN}'])
def test_what_is_no_json_stays_as_it_is_or_becomes_some(document: bytes) -> None:
    clean(delivered(document))


def delivered(data: bytes) -> Delivered:
    return Delivered("run.a.started", data, 1, datetime(2026, 11, 1, tzinfo=UTC), {}, 0)
