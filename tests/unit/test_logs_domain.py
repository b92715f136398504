"""What the archive makes of messages: total over all bytes, words that are found, levels, runs."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.logs import cursor, lexemes, times
from services.logs.cursor import Cursor
from services.logs.domain import UNDECODABLE, Row, StreamPosition, data_of, row_of
from services.logs.lexemes import Lexemes
from services.logs.lines import SPLIT, bare, split
from services.logs.wording import WORDS, message_of
from shared.envelope import seal
from shared.errors import Invalid, Malformed
from shared.messages import Audited, EventRouted, LineChunk, Lines, Logged, Message, RunError, RunFailed, RunUsage

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
POSITION = StreamPosition("RUNS", "inc", 7, NOW, "run.r1.failed")


_VALUES = st.recursive(
    st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


def row(message: Message, **more: Any) -> Row:
    sealed = seal(message, service="executor", org="acme", now=NOW - timedelta(seconds=1), id="m1", **more)
    return row_of(POSITION, sealed.document)


def lines(*given_lines: Lines) -> LineChunk:
    return LineChunk(run="r1", workflow="w", attempt=1, chunk=1, lines=list(given_lines))


def raw(data: str) -> bytes:
    return (
        '{"specversion":"1.0","id":"m1","type":"run.succeeded","source":"/executor","subject":"r1",'
        '"time":"2026-11-20T12:00:00Z","org":"acme","correlationid":"c1","data":' + data + "}"
    ).encode("utf-8", "surrogateescape")


def test_a_failed_run_is_an_error_that_says_why() -> None:
    failed = RunFailed(
        run="r1", attempt=2, reason="error", error=RunError("ValueError", "no such ticket"), duration_ms=3.0, usage=RunUsage()
    )
    made = row(failed, correlation="c1")
    assert made.message == "error: ValueError: no such ticket"
    assert (made.level, made.run, made.org, made.service, made.type) == ("error", "r1", "acme", "executor", "run.failed")
    assert (made.id, made.correlation_id, made.causation_id, made.time) == ("m1", "c1", None, NOW)
    assert made.said_at == NOW - timedelta(seconds=1)


def test_a_chunk_is_a_row_that_keeps_the_bytes_and_a_row_for_each_line() -> None:
    whole = row(
        lines(
            Lines(time="2026-11-20T11:59:59.25Z", level="info", message="tickets.fetched", fields={"count": 3, "who": "zoe"}),
            Lines(time="2026-11-20T11:59:59.50Z", level="error", message="second\x00", stream="stderr"),
        )
    )
    chunk, first, second = split(whole)
    assert (chunk.line, chunk.document, chunk.message, chunk.data, chunk.words) == (SPLIT, whole.document, "", None, lexemes.NONE)
    assert (first.line, first.document, first.message, first.level) == (1, b"", "tickets.fetched", "info")
    assert (second.line, second.message, second.level) == (2, "second\ufffd", "error")
    assert [one.time for one in (first, second)] == [NOW - timedelta(seconds=0.75), NOW - timedelta(seconds=0.5)]
    assert json.loads(first.data or "") == {"workflow": "w", "attempt": 1, "stream": "log", "fields": {"count": 3, "who": "zoe"}}
    assert {(one.run, one.workflow, one.id, one.seq, one.type) for one in (first, second)} == {("r1", "w", "m1", 7, "line.logged")}
    assert Lexemes(lexemes.read(first.words)).holds(["zoe"])
    assert Lexemes(lexemes.read(first.words)).holds(["tickets", "fetched"])
    assert not Lexemes(lexemes.read(second.words)).holds(["zoe"])


@given(
    st.lists(
        st.sampled_from(["2026-11-20T12:00:00Z", "2026-11-20T11:59:00Z", "1970-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "t"])
    )
)
def test_the_rows_of_a_chunk_have_times_of_their_own_in_the_order_of_its_lines(said: list[str]) -> None:
    chunk, *made = split(row(lines(*(Lines(time=time, level="info", message="x") for time in said))))
    times_of = [one.time for one in made]
    assert times_of == sorted(set(times_of))
    assert chunk.time not in times_of
    assert all(abs(time - NOW) < timedelta(days=1, seconds=1) for time in times_of)


@pytest.mark.parametrize("data", ['{"lines":5}', "[]", '{"lines":[1]}', '{"workflow":5}'])
def test_what_is_called_a_chunk_and_holds_no_lines_is_a_row_like_others(data: str) -> None:
    whole = row_of(POSITION, raw(data).replace(b"run.succeeded", b"line.logged"))
    assert split(whole) == [whole]
    assert whole.line == 0


@given(st.lists(st.dictionaries(st.sampled_from(["time", "level", "message", "fields", "stream"]), _VALUES)))
def test_any_lines_become_rows_that_postgres_takes(given_lines: list[Any]) -> None:
    document = raw(json.dumps({"lines": given_lines, "workflow": 5, "attempt": []})).replace(b"run.succeeded", b"line.logged")
    for made in split(row_of(POSITION, document)):
        for text in (made.message, lexemes.text_of(made.words), made.data or "", bare(made).data or ""):
            assert "\x00" not in text
            text.encode()


def test_a_message_names_the_workflow_that_it_is_about() -> None:
    routed = EventRouted(source="s", event="e", delivery="d", subscription="u", workflow="sync", run="r1")
    assert row(routed).workflow == "sync"
    assert row(Logged(service="executor", level="info", event="x", fields={"workflow": "sync"})).workflow == "sync"
    assert row_of(POSITION, raw('{"name":"sync"}').replace(b"run.succeeded", b"workflow.removed")).workflow == "sync"
    assert row(Logged(service="executor", level="info", event="x", fields={})).workflow is None


def test_a_services_log_shows_its_event_and_fields() -> None:
    made = row(Logged(service="executor", level="warning", event="pool.low", fields={"free": 1, "run": "r9"}))
    assert made.message == "pool.low free=1 run=r9"
    assert (made.level, made.run, made.type) == ("warning", "r9", "log.warning")


def test_a_refused_webhook_says_why() -> None:
    refused = {"adapter": "stripe", "reason": "backlog", "count": 7}
    assert message_of("webhook.refused", "s", refused) == "7 webhooks for stripe refused: backlog"
    audited = {"actor": "sender", "verb": "refused", "target": "s", "outcome": "unauthenticated"}
    assert message_of("audit.refused", "s", audited) == "sender refused s: unauthenticated"
    assert (
        message_of("audit.refused", "s", audited | {"detail": {"reason": "too old"}})
        == "sender refused s: unauthenticated (too old)"
    )


def test_what_is_done_to_nothing_in_particular_names_what_kind_it_was_of() -> None:
    searched = {"category": "audit", "verb": "search", "actor": "user:ada", "target": "", "outcome": "ok"}
    assert message_of("audit.search", "audit", searched) == "user:ada search audit: ok"


def test_a_denied_token_is_a_warning_of_its_run() -> None:
    given_token = Audited(category="token", verb="given", actor="run:r1", target="halo", outcome="not_found", detail={"run": "r1"})
    made = row(given_token)
    assert (made.level, made.run, made.type, made.key) == ("warning", "r1", "audit.given", "token")
    assert made.message == "run:r1 given halo: not_found"


def test_an_unknown_type_is_archived_with_its_data() -> None:
    document = raw('{"name":"x"}').replace(b"run.succeeded", b"future.thing")
    made = row_of(POSITION, document)
    assert (made.type, made.level, made.message, made.run) == ("future.thing", "info", "future.thing x", None)


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        (r'{"a":"x\u0000y"}', {"a": r"x\u0000y"}),
        (r'{"a\u0000":1}', {r"a\u0000": 1}),
        (r'{"a":"\ud800"}', {"a": r"\ud800"}),
        ('{"a":"\udcff"}', {"a": r"\udcff"}),
        ('{"a":1e400}', {"a": "1e400"}),
        ('{"a":' + "9" * 5000 + "}", {"a": "9" * 5000}),
        ('{"a":NaN}', {"a": "NaN"}),
        *((before + "9" * 350 + after, "9" * 350) for before, after in (("", ""), (" ", " "))),
        *((before + "-" + "9" * 350 + after, [1, "-" + "9" * 350]) for before, after in (("[1,", "]"), ("[1,\n", "\n]"))),
        ('{"a":0e99999}', {"a": 0.0}),
        ('{"a": 0.5E-99999}', {"a": 0.0}),
        ('{"a":0.' + "0" * 20_000 + "}", {"a": 0.0}),
    ],
)
def test_what_postgres_cannot_hold_is_stored_escaped_beside_the_exact_bytes(data: str, stored: Any) -> None:
    document = raw(data)
    made = row_of(POSITION, document)
    assert made.document == document
    assert made.type == "run.succeeded"
    assert made.org == "acme"
    assert made.data is not None
    assert json.loads(made.data) == stored
    assert "\x00" not in lexemes.text_of(made.words)


def test_digits_within_text_are_no_number_and_data_stays_as_it_was_written() -> None:
    data = r'{"a":"é \u00e9","id":"0197e123-7e1-1e400","b":"' + "9" * 400 + '"}'
    assert row_of(POSITION, raw(data)).data == data


@pytest.mark.parametrize("document", [b"", b"\xff\xfe", b"null", b"[]", b'{"id":1}', b"[" * 5000, raw("1")[:-1], b"\x00"])
def test_bytes_that_are_no_envelope_become_an_undecodable_row(document: bytes) -> None:
    made = row_of(POSITION, document)
    assert made.type == UNDECODABLE
    assert made.document == document
    assert made.id == "RUNS/inc/7"
    assert made.level == "error"


@given(st.one_of(st.binary(max_size=200), _VALUES.map(lambda value: raw(json.dumps(value)))))
def test_any_bytes_become_a_row_that_postgres_takes(document: bytes) -> None:
    made = row_of(POSITION, document)
    for text in (made.message, lexemes.text_of(made.words), made.type, made.key, made.org, made.data or ""):
        assert "\x00" not in text
        text.encode()


def test_nesting_costs_no_row() -> None:
    made = row_of(POSITION, raw("[" * 500 + "]" * 500))
    assert made.type == "run.succeeded"


def test_words_are_bounded_and_leave_out_what_nobody_searches_for() -> None:
    made = row_of(POSITION, raw(json.dumps({"body_base64": "QUJD", "token": "z" * 5000, "text": "word " * 100_000})))
    assert not {"qujd", "z" * 5000} & lexemes.read(made.words).keys()
    assert len(made.words) < 2 * WORDS


def test_data_comes_back_as_it_was_written_with_its_keys_in_order() -> None:
    assert msgspec.json.encode(data_of(raw('{"b":1,"a":2.50}'))) == b'{"b":1,"a":2.50}'
    assert msgspec.json.decode(data_of(b"\xff")) == {"document_base64": "/w=="}
    assert "document_base64" in msgspec.json.decode(data_of(raw('{"a":"\udcff"}')))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("now-15m", NOW - timedelta(minutes=15)),
        ("now+1d", NOW + timedelta(days=1)),
        ("2026-11-20T12:00:00Z", NOW),
        ("2026-11-20T13:00:00+01:00", NOW),
        ("2026-11-20T12:00:00", NOW),
        ("2026-11-20", NOW - timedelta(hours=12)),
        (str(int(NOW.timestamp() * 1000)), NOW),
    ],
)
def test_moments_are_read_as_people_write_them(text: str, moment: datetime) -> None:
    assert times.moment(text, NOW, "since") == moment


@pytest.mark.parametrize("text", ["", "yesterday", "now-15", "12", "now-999999999w", "2026-13-01", "0001-01-01T00:00:00+23:00"])
def test_what_is_no_moment_is_invalid_and_names_the_input(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        times.moment(text, NOW, "since")
    assert refused.value.errors[0].path == "since"


def test_the_default_range_is_the_last_day_and_a_reversed_one_is_invalid() -> None:
    assert times.span(None, None, NOW) == (NOW - timedelta(hours=24), NOW)
    assert times.span(None, "now-1h", NOW) == (NOW - timedelta(hours=25), NOW - timedelta(hours=1))
    with pytest.raises(Invalid):
        times.span("now", "now-1h", NOW)


CURSOR = Cursor(1, "RUNS", 7, 0, 2, "desc", cursor.fingerprint("q"))


def test_a_cursor_comes_back_only_to_its_search() -> None:
    for one in (CURSOR, msgspec.structs.replace(CURSOR, stream="RUNS-15")):
        assert cursor.read(cursor.written(one), cursor.fingerprint("q")) == one
    with pytest.raises(Malformed, match="another search"):
        cursor.read(cursor.written(CURSOR), cursor.fingerprint("p"))


@given(st.text(max_size=80))
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(Malformed):
        cursor.read(text, "q")


def test_a_cursor_keeps_microseconds() -> None:
    moment = NOW + timedelta(microseconds=123457)
    assert cursor.moment(cursor.microseconds(moment)) == moment


@given(st.one_of(st.text(), st.text("aB1_-. ", max_size=20).map(lambda text: text * 200)))
def test_words_are_kept_with_their_positions(text: str) -> None:
    found: dict[str, list[int]] = {}
    for position, word in enumerate(lexemes.words_in(text), start=1):
        found.setdefault(word, []).append(position)
    expected = {word: tuple(at[:255]) for word, at in found.items()} | {"=a=b": ()}
    if any(len(at) > 255 for at in found.values()):
        expected["=incomplete"] = ()
    kept = lexemes.kept(text, [b"=a=b"])
    assert lexemes.read(kept) == expected


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "c"]), max_size=12),
    st.lists(st.sampled_from(["a", "b", "ab", "c", ""]), min_size=1, max_size=4),
    st.booleans(),
)
def test_words_are_held_where_they_stand_one_after_the_other(row: list[str], words: list[str], prefix: bool) -> None:
    *first, last = words
    wanted = any(
        row[at : at + len(first)] == first and (one.startswith(last) if prefix else one == last)
        for at in range(len(row))
        for one in row[at + len(first) : at + len(words)]
    )
    assert Lexemes(lexemes.read(lexemes.kept(" ".join(row)))).holds(words, prefix=prefix) == wanted


def test_a_word_that_stands_too_often_is_held_with_those_places_that_are_kept() -> None:
    row = Lexemes(lexemes.read(lexemes.kept("a " * 300 + "b")))
    assert row.holds(["a"] * 255)
    assert not row.holds(["a"] * 256)
    # What Postgres says too: of `b` the place is kept, of the `a` before it none.
    assert not row.holds(["a", "b"])
    assert row.holds(["b"])
