"""Nothing but a frame is taken for a frame, and nothing but `FrameError` comes out."""

import asyncio
import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.sandbox import frames
from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.jail import StepRecord

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


def payload(**fields: object) -> bytes:
    return json.dumps(fields).encode()


async def read_from(data: bytes) -> object:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await frames.read(reader)


@given(VALUES)
def test_any_json_result_is_read_as_it_was_written(value: object) -> None:
    frame = frames.decode(payload(kind="result", result=value))
    assert isinstance(frame, frames.Result)
    assert json.loads(bytes(frame.result)) == value


@given(st.binary(max_size=300))
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
        payload(kind="error", type="x", message="\ud800", traceback=""),
        payload(kind="result", result={"\0": 1}),
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
