"""Nothing but a frame is taken for a frame, and nothing but `FrameError` comes out."""

import base64
import json
import string
import tracemalloc
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace._runtime import encode
from millrace.errors import ResultError
from services.executor.sandbox import frames
from services.executor.sandbox.control import ControlSocket
from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.interface import MAX_CHUNK, StepRecord
from services.executor.sandbox.requests import SERVED

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def payload(**fields: object) -> bytes:
    return json.dumps(fields).encode()


async def read_from(data: bytes) -> object:
    """The first frame with its size, or None, of a child that writes this and closes its end."""
    heard: list[tuple[frames.Frame, int] | Exception | None] = []
    control = ControlSocket()
    control.data_received(data)
    control.eof_received()
    control.listen(lambda frame, size: heard.append((frame, size)), heard.append)
    if isinstance(heard[0], Exception):
        raise heard[0]
    return heard[0]


@given(VALUES)
def test_any_json_result_is_read_as_it_was_written(value: object) -> None:
    frame = frames.decode(payload(kind="result", result=value))
    assert isinstance(frame, frames.Result)
    assert json.loads(bytes(frame.result)) == value


# Hypothesis also tries the literals of the code under test, one of which is a whole frame.
@given(st.binary(max_size=300).filter(lambda data: b'"kind"' not in data))
def test_arbitrary_bytes_are_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(FrameError):
        frames.decode(data)


@given(st.text(alphabet=string.printable + '"\\[]{}', max_size=200))
def test_arbitrary_text_in_a_frame_is_read_or_refused(text: str) -> None:
    for document in (f'{{"kind":"result","result":{text}}}', f'{{"kind":"log",{text}}}'):
        try:
            frames.decode(document.encode("utf-8", "surrogatepass"))
        except FrameError:
            continue


@given(VALUES.map(lambda value: payload(kind="log", level="info", event="x", fields={"a": value})), st.data())
def test_a_damaged_frame_is_read_or_refused(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    damaged = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]
    try:
        frames.decode(damaged)
    except FrameError:
        return


@pytest.mark.parametrize(
    "data",
    [
        payload(kind="result"),
        payload(result=1),
        payload(kind="run"),
        payload(kind="log", level="loud", event="x", fields={}),
        payload(kind="log", level="info", event="x" * 2000, fields={}),
        payload(kind="log", level="info", event="x", fields=[]),
        payload(kind="step_get", id=-1, name="a", ordinal=0),
        payload(kind="step_get", id=1, name="", ordinal=0),
        payload(kind="step_get", id=1, name="a\0", ordinal=0),
        payload(kind="step_get", id=2**60, name="a", ordinal=0),
        payload(kind="step_get", id=1, name="a", ordinal=0, org="other"),
        payload(kind="connection", id=1, name="a", org="other"),
        payload(kind="connection", id=1, name="a", run="other"),
        payload(kind="error", type="x", message="\ud800", traceback=""),
        payload(kind="step_get", id=1, name="a", ordinal=2**31),
        payload(kind="step_put", id=1, name="a", ordinal=0, position=2**31, result=1),
        payload(kind="wait", id=1, of="sleep", name="a", ordinal=2**40),
        payload(kind="wait", id=1, of="sleep", name="a", ordinal=0, seconds=31_622_401),
        payload(kind="wait", id=1, of="sleep", name="a", ordinal=0, seconds=-1),
        payload(kind="wait", id=1, of="start", name="a", ordinal=0),
        payload(kind="start_run", id=1, workflow="a", ordinal=0, input={}, run_at="garbage"),
        payload(kind="start_run", id=1, workflow="a", ordinal=0, input={}, run_at="2026-01-01T00:00:00"),
        payload(kind="start_run", id=1, workflow="a", ordinal=0, input={}, run_at="0001-01-01T00:00:00+14:00"),
        payload(kind="start_run", id=1, workflow="a", ordinal=0, input={}, run_at="9999-12-31T23:59:59-14:00"),
        payload(kind="start_run", id=1, workflow="a", ordinal=0, input={}, priority="urgent"),
        payload(kind="start_run", id=1, workflow="a", ordinal=0, input={}, concurrency_key=""),
        payload(kind="start_run", id=1, workflow="a", ordinal=2**31, input={}),
        payload(kind="step_put", id=1, name="a", ordinal=0, result=2**64),
        payload(kind="result", result=[-(2**63) - 1]),
        payload(kind="log", level="info", event="x", fields={"a": 2**70}),
        payload(kind="importing", path=""),
        payload(kind="importing", path="x" * 2000),
        payload(kind="result", result={"\0": 1}),
        payload(kind="result_part", text=""),
        payload(kind="result_part", text="x" * (frames.MAX_PART + 1)),
        payload(kind="result_part", text="\ud83d"),
        payload(kind="result_part", text=1),
        b'{"kind":"result_part","text":"\xf0\x9f"}',
        payload(kind="result_end"),
        payload(kind="result_end", bytes=0),
        payload(kind="result_end", bytes=-1),
        payload(kind="result_end", bytes=2**60),
        payload(kind="result_end", bytes=1.5),
        payload(kind="result_end", bytes="1"),
        payload(kind="result", result={"\ud800": 1}),
        b'{"kind":"result","result":1e999}',
        b'{"kind":"result","result":NaN}',
        b'{"kind":"result","result":"\xff"}',
        b'{"kind":"result","result":1}{}',
        b"\0",
        b"",
    ],
)
def test_what_nobody_should_read_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        frames.decode(data)


OPENINGS = (
    b"",
    b'{"kind":"result","result":',
    b'{"kind":"step_put","id":1,"name":"a","ordinal":0,"result":',
    b'{"kind":"log","level":"info","event":"x","fields":{"a":',
    b'{"kind":"log","level":"info","event":',
    b'{"kind":"error","message":"","traceback":"","type":',
    b'{"kind":"described","problems":[],"workflows":',
    b'{"kind":"described","workflows":[],"problems":[{"path":"p","line":1,"message":',
    b'{"kind":"wait","id":1,"of":"sleep","name":"a","ordinal":0,"seconds":',
    b'{"kind":"wait_for_event","id":1,"name":"a","ordinal":0,"asked":',
    b'{"kind":"start_run","id":1,"workflow":"a","ordinal":0,"input":',
    b'{"kind":"connection","id":1,"name":',
    b'{"kind":"emit","id":1,"source":"a","type":"b","data":',
    b'{"kind":"emit","id":1,"data":1,"source":"a","type":',
    b'{"kind":"secret","id":1,"name":',
    b'{"kind":"variable","id":1,"name":',
    b'{"kind":"integration","id":1,"name":',
    b'{"kind":"file_find","id":1,"path":',
    b'{"kind":"file_list","id":1,"after":"","prefix":',
    b'{"kind":"file_read","id":1,"reading":1,"at":0,"path":',
    b'{"kind":"file_write","id":1,"writing":1,"at":0,"is_last":true,"path":"a","data":',
    b'{"kind":"file_write","id":1,"writing":1,"at":0,"is_last":true,"data":"","path":',
    b'{"kind":"state_get","id":1,"key":',
    b'{"kind":"state_put","id":1,"key":"a","value":',
    b'{"kind":"state_put","id":1,"value":1,"key":',
    b'{"kind":"state_increment","id":1,"by":1,"key":',
    b'{"kind":"state_delete","id":1,"expected":1,"key":',
    b'{"kind":"state_list","id":1,"after":"","prefix":',
    b'{"kind":"ask","id":1,"name":"a","ordinal":0,"question":',
    b'{"kind":"approval_link","id":1,"name":"a","approval":',
    b'{"kind":"signal_run","id":1,"run":"a","name":"b","data":',
    b'{"kind":"lock_hold","id":1,"number":1,"wait":1,"name":',
    b'{"kind":"lock_free","id":1,"number":',
    b'{"kind":"result_part","text":',
    b'{"kind":"result_end","bytes":',
    b'{"kind":',
)
TOKENS = st.sampled_from(
    [
        b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"\\ud83d\\ude00", b"\0", b"\xff", b"\xed\xa0\x80",
        b"null", b"true", b"0", b"-", b"1e999", b"1E-999", b"9" * 30, b"0." + b"3" * 30, b" ", b"\n", b'"kind":"result"',
        b'"result":1', b'"a":', b"[" * 120, b"]" * 120,
    ]
)  # fmt: skip


def every_text(value: object) -> list[str]:
    """All texts of a frame, keys and documents that it carries included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, bytes):
        assert len(value) <= MAX_CHUNK
    if isinstance(value, msgspec.Raw):
        return every_text(json.loads(bytes(value)))
    if isinstance(value, msgspec.Struct):
        return [text for name in value.__struct_fields__ for text in every_text(getattr(value, name))]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in every_text(item)]
    if isinstance(value, list):
        return [text for item in value for text in every_text(item)]
    return []


def read_or_refused(data: bytes) -> object:
    """Decode; what comes out is a frame that everybody can keep, or None."""
    try:
        frame = frames.decode(data)
    except FrameError:
        return None
    assert isinstance(frame, get_args(frames.Frame))
    for text in every_text(frame):
        text.encode()
        assert "\0" not in text
    json.dumps(msgspec.to_builtins(frame, enc_hook=lambda raw: json.loads(bytes(raw))), allow_nan=False)
    return frame


@given(
    st.sampled_from(OPENINGS),
    st.lists(TOKENS | st.binary(max_size=6), max_size=40).map(b"".join),
    st.sampled_from([b"", b"}", b"}}", b"}]}"]),
)
def test_whatever_is_forged_is_a_sound_frame_or_none(opening: bytes, middle: bytes, end: bytes) -> None:
    read_or_refused(opening + middle + end)


@given(st.sampled_from(OPENINGS[1:4]), VALUES, st.data())
def test_a_truncated_frame_is_none(opening: bytes, value: object, draw: st.DataObject) -> None:
    whole = opening + json.dumps(value).encode() + (b"}}" if opening == OPENINGS[3] else b"}")
    assert read_or_refused(whole) is not None
    assert read_or_refused(whole[: draw.draw(st.integers(0, len(whole) - 1))]) is None


@pytest.mark.parametrize("opening", OPENINGS[1:-1])
@pytest.mark.parametrize(
    "text", ['"a\\u0000"', '"\\ud800"', '"\\udc00\\ud800"', '"a\0b"', '{"\\u0000":1}', '{"\\udfff":1}', '[["\\uDBFF x"]]']
)
def test_no_frame_holds_a_text_that_cannot_be_kept(opening: bytes, text: str) -> None:
    for end in ("}", "}}", "}]}"):
        with pytest.raises(FrameError):
            frames.decode(opening + text.encode() + end.encode())


@given(st.lists(st.binary(max_size=40), max_size=6), st.binary(max_size=10))
def test_a_stream_of_anything_ends_in_an_end_or_a_refusal(payloads: list[bytes], rest: bytes) -> None:
    reader = frames.FrameReader()
    for one in payloads:
        reader.feed(len(one).to_bytes(4, "big") + one)
    reader.feed(rest)
    for _ in range(len(payloads) + 1):
        try:
            found = reader.next()
        except FrameError:
            return
        if found is None:
            return
        assert isinstance(found[0], get_args(frames.Frame))


def filled(opening: bytes, unit: bytes, end: bytes, size: int = frames.MAX_FRAME) -> bytes:
    return opening + unit * ((size - len(opening) - len(end)) // len(unit)) + end


GREEDY = {
    "empty lists": filled(OPENINGS[1] + b"[0", b",[]", b"]}"),
    "empty objects": filled(OPENINGS[3] + b"[0", b",{}", b"]}}"),
    "small objects": filled(OPENINGS[3] + b"[0", b',{"":0}', b"]}}"),
    "numbers": filled(OPENINGS[2] + b"[0", b",1", b"]}"),
    "texts": filled(OPENINGS[1] + b'[""', b',""', b"]}"),
    "texts without commas": filled(b'"', b'["', b""),
    "texts with escapes": filled(OPENINGS[1] + b"[", b'"\\\\",', b"0]}"),
    "problems": filled(OPENINGS[6] + b'[],"problems":[0', b',{"path":"","line":0,"message":""}', b"]}"),
    "keys": filled(OPENINGS[1] + b'{"":0', b',"a":0', b"}}"),
    "openings": filled(b"", b"[", b""),
    "a wide text": filled(OPENINGS[3] + '"\U0001f600'.encode(), b"a", b'"}}'),
    "a text of escapes": filled(OPENINGS[3] + b'"', b"\\u00e9", b'"}}'),
    "surrogate pairs": filled(OPENINGS[1] + b'"', b"\\ud83d\\ude00", b'"}'),
    "the most values": filled(OPENINGS[3] + b"[0", b',{"a":"b"}', b"]}}", 11 * (frames.MAX_VALUES // 2 - 8)),
    "the most texts": filled(OPENINGS[1] + b'[""', b',"' + b"x" * 60 + b'"', b"]}", 63 * (frames.MAX_VALUES - 8)),
}


@pytest.mark.parametrize("data", GREEDY.values(), ids=GREEDY)
def test_no_frame_takes_much_more_memory_than_its_bytes(data: bytes) -> None:
    assert len(data) <= frames.MAX_FRAME
    tracemalloc.start()
    try:
        read: list[Any] = []
        try:
            read.append(frames.decode(data))
        except FrameError:
            read.clear()
        assert tracemalloc.get_traced_memory()[1] < 128 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unit", [b",1", b",[]", b',""', b',"[,{"', b',"\\""'])
def test_values_are_counted_outside_texts(unit: bytes) -> None:
    per_value = 2 if unit == b",[]" else 1
    most = (frames.MAX_VALUES - 3) // per_value
    frames.decode(OPENINGS[1] + b"[0" + unit * most + b"]}")
    with pytest.raises(FrameError, match="values"):
        frames.decode(OPENINGS[1] + b"[0" + unit * (most + 3) + b"]}")


@pytest.mark.parametrize("shape", ["[@]", '{"a":@}', '["]",@]', '["\\"[",@]'])
def test_depth_is_counted_outside_texts(shape: str) -> None:
    def nested(levels: int) -> bytes:
        text = "1"
        for _ in range(levels):
            text = shape.replace("@", text)
        return b'{"kind":"result","result":' + text.encode() + b"}"

    frames.decode(nested(frames.MAX_DEPTH - 1))
    with pytest.raises(FrameError, match="deeper"):
        frames.decode(nested(frames.MAX_DEPTH))


def test_a_long_flat_document_is_not_deep() -> None:
    frames.decode(payload(kind="result", result=[{"a": []} for _ in range(5000)] + ["[" * 5000]))


@pytest.mark.parametrize(
    "value", [[0] * (encode.MAX_VALUES - 1), ["[,{"] * 10_000, "," * 1_000_000, [[]] * (encode.MAX_VALUES // 2)]
)
def test_what_a_child_may_write_is_read(value: object) -> None:
    text = encode.to_json(value, what="the result")
    assert isinstance(frames.decode(OPENINGS[1] + text.encode() + b"}"), frames.Result)


def test_a_child_is_told_that_it_wrote_too_much() -> None:
    with pytest.raises(ResultError, match="more than 249984 values"):
        encode.to_json([0] * 250_001, what="the result")


def test_every_request_has_an_opening_that_is_fuzzed() -> None:
    fuzzed = {opening.decode().split('"')[3] for opening in OPENINGS[1:-1]}
    asked = {msgspec.inspect.type_info(kind).tag for kind in SERVED}  # type: ignore[union-attr]
    assert asked - fuzzed <= {"step_get", "file_delete", "cancel_run", "wait_given_up"}  # of the same fields as others


def test_a_part_of_a_file_has_a_limit() -> None:
    data = {"kind": "file_write", "id": 1, "writing": 1, "at": 0, "is_last": True, "path": "a"}
    frames.decode(payload(**data, data=base64.b64encode(bytes(MAX_CHUNK)).decode()))
    with pytest.raises(FrameError):
        frames.decode(payload(**data, data=base64.b64encode(bytes(MAX_CHUNK + 1)).decode()))


async def test_the_length_is_judged_before_the_payload_is_kept() -> None:
    with pytest.raises(FrameError, match="over the limit"):
        await read_from((frames.MAX_FRAME + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("data", [b"", b"\0\0", b"\0\0\0\x09{"])
async def test_an_end_in_the_middle_is_an_end(data: bytes) -> None:
    assert await read_from(data) is None


async def test_what_is_encoded_is_read_back() -> None:
    assert await read_from(frames.encode(frames.Ready())) == (frames.Ready(), 16)


def test_an_answer_carries_a_record_as_it_was_kept() -> None:
    sent = frames.encode({"kind": "answer", "id": 1, "value": StepRecord(msgspec.Raw(b'{"a":[1]}'))})
    assert json.loads(sent[4:]) == {"kind": "answer", "id": 1, "value": {"result": {"a": [1]}}}


@pytest.mark.parametrize("document", ["x" * (17 << 20), object()])
def test_what_fits_no_frame_is_not_sent(document: object) -> None:
    with pytest.raises(FrameError):
        frames.encode(document)
