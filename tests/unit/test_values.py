from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import charsets, values
from shared.errors import Invalid, Malformed, MillraceError, Problem

ANY_TEXT = st.text(st.characters(exclude_categories=()))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=20,
)


def may_enter(value: Any) -> bool:
    match value:
        case dict():
            return all(may_enter(one) for pair in value.items() for one in pair)
        case list():
            return all(may_enter(one) for one in value)
        case str():
            return not any(one == "\0" or 0xD800 <= ord(one) < 0xE000 for one in value)
        case int() if not isinstance(value, bool):
            return -(2**63) <= value < 2**64
        case float():
            return abs(value) < float("inf")
    return True


@given(JSON)
def test_what_may_not_enter_is_refused_wherever_it_stands_and_nothing_else(value: Any) -> None:
    raw = json.dumps(value).encode()
    if may_enter(value):
        values.check(value)
        assert values.decode(raw) == values.decode_sent(raw) == value
        return
    with pytest.raises(Invalid):
        values.check(value)
    with pytest.raises(MillraceError):
        values.decode(raw)


@given(JSON)
def test_what_a_sender_sent_is_cleaned_or_refused_with_a_path(value: Any) -> None:
    try:
        sent = values.decode_sent(json.dumps(value, allow_nan=False, ensure_ascii=True).encode())
    except (Invalid, Malformed, ValueError):
        return
    assert may_enter(sent)
    assert msgspec.json.decode(msgspec.json.encode(sent)) == sent


@given(st.binary() | ANY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_make_a_decoder_raise_anything_else(raw: bytes) -> None:
    for decode in (values.decode, values.decode_sent):
        with contextlib.suppress(Invalid, Malformed):
            decode(raw)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"a":{"b":["\\u0000"]}}', "a.b.0"),
        (b'{"a":{"b":["\\ud800x"]}}', "a.b.0"),
        (b'{"a":[1,18446744073709551616]}', "a.1"),
        (b'{"a":[1,-9223372036854775809]}', "a.1"),
        (b'{"a":%s}' % (b"1" * 5000), "a"),
        (b'{"a":[1e309, 1234567890123456789]}', "a.0"),
        (b'{"settings":{"n":-1E+400}}', "settings.n"),
        (b'{"a":{"\\u0000":1}}', "a"),
    ],
)
def test_a_refusal_names_the_place(raw: bytes, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        values.decode(raw)
    assert [problem.path for problem in refused.value.errors] == [path]
    assert path in refused.value.detail


@pytest.mark.parametrize("levels", [values.DEPTH + 1, 980, 100_000])
@pytest.mark.parametrize("pair", [(b"[", b"]"), (b'{"a":', b"}")])
def test_deep_nesting_is_refused_and_the_bound_itself_is_not(levels: int, pair: tuple[bytes, bytes]) -> None:
    opening, closing = pair
    for decode in (values.decode, values.decode_sent):
        decode(opening * (values.DEPTH - 1) + b"[]" + closing * (values.DEPTH - 1))
        with pytest.raises(Malformed, match="nested deeper"):
            decode(opening * (levels - 1) + b"[]" + closing * (levels - 1))


@pytest.mark.parametrize("raw", [b"[" + b"[]," * values.MOST_VALUES + b"0]", b"[" + b"0," * values.MOST_VALUES + b"0]"])
def test_more_values_than_may_be_are_refused_before_they_are_made(raw: bytes) -> None:
    for decode in (values.decode, values.decode_sent):
        with pytest.raises(Invalid, match="250,000 values"):
            decode(raw)


@pytest.mark.parametrize("number", [b"1e308", b"-5e-324", b"1" + b"0" * 300 + b".5", b"0." + b"0" * 310 + b"1", b"1E0308"])
def test_few_numbers_that_take_long_to_be_read_are_taken_and_many_are_not(number: bytes) -> None:
    few, many = (b'{"a":[' + b",".join([number] * count) + b"]}" for count in (values.MOST_EXTREME, values.MOST_EXTREME + 1))
    for decode in (values.decode, values.decode_sent):
        assert len(decode(few)["a"]) == values.MOST_EXTREME
        with pytest.raises(Invalid, match="more than 100 numbers"):
            decode(many)


def test_what_looks_like_many_values_within_a_text_is_one() -> None:
    text = '[{"a,' * values.MOST_VALUES + '\\"'
    for decode in (values.decode, values.decode_sent):
        assert decode(json.dumps([text]).encode()) == [text]


def test_a_refusal_does_not_repeat_a_whole_input() -> None:
    with pytest.raises(Invalid) as refused:
        values.check({"x" * 100_000: "\0"})
    assert len(refused.value.detail) < 500


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":"\\ud800"}', {"a": "\ufffd"}),
        (b'{"a\\u0000":"b\\u0000"}', {"a\ufffd": "b\ufffd"}),
        (b'{"a":"caf\xe9"}', {"a": "caf\ufffd"}),
        (b'{"a":"\\ud83d\\ude00"}', {"a": "\U0001f600"}),
    ],
)
def test_what_a_sender_sent_is_read(sent: bytes, read: Any) -> None:
    assert values.decode_sent(sent) == read


def test_nothing_but_escapes_of_nul_is_replaced_in_a_document() -> None:
    text = '\0 \\u0000 \\\0 "\\'
    assert json.loads(values.without_nul(json.dumps(text).encode())) == text.replace("\0", "\ufffd")


@given(JSON.filter(lambda value: isinstance(value, dict | list)))
def test_cleaning_leaves_nothing_that_postgres_or_utf8_refuses(value: Any) -> None:
    cleaned = json.dumps(values.cleaned(value), ensure_ascii=False)
    cleaned.encode()
    # A backslash of the text itself is two here.
    assert "\\u0000" not in cleaned.replace("\\\\", "")


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00", "2026-01-01T24:00:00Z", "", "soon", "\0"],
)
def test_times_outside_the_calendar_or_without_a_zone_are_refused(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        values.moment_at(text, "run_at")
    assert [problem.path for problem in refused.value.errors] == ["run_at"]


def test_times_within_the_calendar_come_out_in_utc() -> None:
    assert values.moment_of("2026-01-01T01:00:00+01:00") == datetime(2026, 1, 1, tzinfo=UTC)
    assert values.moment_of("0001-01-02T00:00:00Z") == values.FIRST


@given(st.datetimes(timezones=st.just(UTC)), st.floats())
def test_no_number_of_seconds_leads_out_of_the_calendar(moment: datetime, seconds: float) -> None:
    assert values.FIRST <= values.later(moment, seconds) <= values.LAST


class Body(msgspec.Struct):
    name: values.Name
    wait: values.Seconds = 0


@pytest.mark.parametrize(
    ("raw", "path"),
    [(b'{"name":""}', "name"), (b'{"name":"%s"}' % (b"x" * 201), "name"), (b'{"name":"a","wait":31622401}', "wait")],
)
def test_bounds_are_those_of_the_types(raw: bytes, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        values.decode(raw, Body)
    assert [problem.path for problem in refused.value.errors] == [path]


class Several(msgspec.Struct):
    names: list[values.Name]


def test_paths_are_dotted_whoever_found_the_fault() -> None:
    for raw in (b'{"names":["a",""]}', b'{"names":["a","\\u0000"]}'):
        with pytest.raises(Invalid) as refused:
            values.decode(raw, Several)
        assert [problem.path for problem in refused.value.errors] == ["names.1"]


def test_a_missing_field_is_named() -> None:
    with pytest.raises(Invalid) as refused:
        values.decode(b"{}", Body)
    assert refused.value.errors == (Problem("name", "is missing"),)


class Choosing(msgspec.Struct):
    policy: Literal["wait", "skip"] | None = None
    each: list[Literal["a", "b"]] = []


@pytest.mark.parametrize(
    ("raw", "path", "choices"), [(b'{"policy":"x"}', "policy", "wait, skip"), (b'{"each":["a","c"]}', "each.1", "a, b")]
)
def test_a_misfit_of_few_choices_names_them(raw: bytes, path: str, choices: str) -> None:
    with pytest.raises(Invalid) as refused:
        values.decode(raw, Choosing)
    assert refused.value.errors == (Problem(path, f"is none of {choices}"),)


@pytest.mark.parametrize(
    ("content_type", "media", "charset"),
    [
        ("application/json", "application/json", None),
        ("Text/Plain; Charset=ISO-8859-1", "text/plain", "iso-8859-1"),
        ('text/plain; boundary=x ;charset = "UTF-16" ; a=b', "text/plain", "utf-16"),
        ("text/plain; charset=", "text/plain", None),
        ('text/plain; charset=""', "text/plain", None),
        ("text/plain; charset=a b", "text/plain", "a"),
        ("text/plain; x-charset=a; charset", "text/plain", None),
        ("", "", None),
        (";charset=utf-8", "", "utf-8"),
        ("(" * 8000, "(" * 8000, None),
        ("a/b" + ";" * 8000 + "charset=c", "a/b", "c"),
        ("a/b;" + " " * 8000 + "charset=c", "a/b", "c"),
        ("a/b; =?utf-8?q?=41?=; charset=\ufffd", "a/b", "\ufffd"),
    ],
)
def test_a_content_type_says_its_media_type_and_charset_however_odd_it_is(
    content_type: str, media: str, charset: str | None
) -> None:
    assert (charsets.media_type_of(content_type), charsets.charset_in(content_type)) == (media, charset)


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    limit: int
    how: Literal["fast", "slow"] = "fast"
    sizes: list[int] = []


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        (b'{"limit": "x"}', "limit does not fit: Expected `int`, got `str`"),
        (b'{"limit": 1, "sizes": [1, "a"]}', "sizes.1 does not fit: Expected `int`, got `str`"),
        (b"[]", "the value does not fit: Expected `object`, got `array`"),
        (b"{}", "limit is missing: give it"),
        (b'{"limit": 1, "z": 2}', "z is unknown: correct its name, or leave it out"),
        (b'{"limit": 1, "how": "c"}', "how is none of fast, slow"),
    ],
)
def test_a_misfit_names_its_place_the_fault_and_the_remedy(raw: bytes, detail: str) -> None:
    with pytest.raises(Invalid) as refused:
        values.decode(raw, Asked)
    assert refused.value.detail == detail


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b'{"limit": 1,\n "h\xc3\xb6w": b}', "invalid character at line 2, column 9"),
        (b'{"limit": 1', "its end is missing at line 1, column 12"),
        (b"", "its end is missing at line 1, column 1"),
        (b'{"a": 1,}', "trailing comma in object at line 1, column 9"),
        (b'{"limit": "\\ud800", x}', "Expecting property name enclosed in double quotes at line 1, column 21"),
    ],
)
def test_broken_json_is_named_by_line_and_column(raw: bytes, where: str) -> None:
    with pytest.raises(Malformed) as refused:
        values.decode(raw)
    assert refused.value.detail == f"this is not JSON: {where}"
    with pytest.raises(Malformed, match="this is not JSON: "):
        values.decode_sent(raw)
