"""A document that comes in pieces is taken for JSON exactly where it is, and masked as if it came whole."""

import itertools
import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from millrace._runtime import large
from millrace._runtime.encode import complaint
from services.executor.sandbox import documents, frames
from services.executor.sandbox.documents import Document
from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.masking import Masker
from shared.values import LEAST_INTEGER, MOST_INTEGER
from tests.unit.test_frames import VALUES

SECRET = 'a"sec/ret\u00e9\\1'
TOKENS = st.sampled_from(
    [
        "{", "}", "[", "]", ",", ":", '"', "\\", '"a"', '"a":', '"a":1,', "[1,", "\\u0000", "\\ud800", "\\udc00", "\\ud83d\\ude00",
        "\0", "\x01", "\x02", "\x03", "\x04", "null", "true", "false", "0", "-", "01", "1.", ".5", "1e999", "1E-999", "9" * 30, "+",
        " ", "\n", "\u00e9", "s", "v", "\u2028", "[" * 120, "]" * 120,
    ]
)  # fmt: skip


def read(pieces: list[str], masker: Masker | None = None) -> bytes:
    document = Document(masker or Masker())
    return b"".join([document.feed(piece) for piece in pieces]) + document.end()


def cut(text: str, draw: st.DataObject) -> list[str]:
    places = sorted({0, len(text), *draw.draw(st.lists(st.integers(0, len(text)), max_size=8))})
    return [text[start:end] for start, end in itertools.pairwise(places)]


def is_sound(text: str) -> bool:
    """What the decoders that readers use say of a whole document."""
    try:
        msgspec.json.decode(text.encode())
        value = json.loads(text, parse_constant=lambda _: json.loads("x"))
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return False
    return "\0" not in "".join(every_text(value)) and depth(value) <= documents.MAX_DEPTH and not any(map(is_long, leaves(value)))


def is_long(value: Any) -> bool:
    return isinstance(value, int) and not LEAST_INTEGER <= value <= MOST_INTEGER


def leaves(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if inner is None else [leaf for one in inner for leaf in leaves(one)]


def every_text(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in every_text(one)]
    return [text for one in value for text in every_text(one)] if isinstance(value, list) else []


def depth(value: Any) -> int:
    row, levels = [value], 0
    while row := [one for one in row if isinstance(one, list | dict)]:
        levels += 1
        row = [inner for one in row for inner in (one.values() if isinstance(one, dict) else one)]
    return levels


@given(VALUES, st.booleans(), st.data())
def test_any_json_is_taken_however_it_is_cut(value: object, is_ascii: bool, draw: st.DataObject) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=draw.draw(st.sampled_from([None, 1])))
    assert read(cut(text, draw)) == text.encode()


@given(st.lists(TOKENS | st.text(max_size=3), max_size=30).map("".join), st.data())
@example('"\\ud83d"', st.data())
def test_whatever_is_forged_is_judged_as_the_readers_decoders_judge_it(text: str, draw: st.DataObject) -> None:
    if not text or any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        return
    pieces = cut(text, draw) if hasattr(draw, "draw") else [text]
    try:
        said = read(pieces)
    except FrameError:
        assert not is_sound(text)
    else:
        assert is_sound(text)
        assert said == text.encode()


@given(VALUES, st.data())
def test_a_truncated_document_is_none(value: object, draw: st.DataObject) -> None:
    text = json.dumps([value])
    with pytest.raises(FrameError):
        read([text[: draw.draw(st.integers(0, len(text) - 1))]])


@given(
    st.recursive(
        st.sampled_from([SECRET, f"x{SECRET}y", SECRET[:5], SECRET * 2, "plain\n", 12345678, 1.5, -123456789, None]),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([SECRET, "k", "k" + SECRET]), inner),
        max_leaves=12,
    ),
    st.booleans(),
    st.data(),
)
def test_it_is_masked_as_if_it_came_whole(value: object, is_ascii: bool, draw: st.DataObject) -> None:
    masker = Masker()
    masker.learn(SECRET, "12345678")
    text = json.dumps(value, ensure_ascii=is_ascii).replace("/", draw.draw(st.sampled_from(["/", "\\/", "\\u002f"])))
    said = read(cut(text, draw), masker)
    assert json.loads(said) == masker.masked(json.loads(text))


@pytest.mark.parametrize("levels", [documents.MAX_DEPTH, documents.MAX_DEPTH + 1])
@pytest.mark.parametrize("shape", ["[@]", '{"a":@}', '["]",[],@]'])
def test_depth_is_counted_over_pieces(levels: int, shape: str) -> None:
    text = ""
    for _ in range(levels):
        text = shape.replace("@", text) if text else shape.replace(",@", "").replace("@", "1")
    if depth(json.loads(text)) <= documents.MAX_DEPTH:
        assert read(list(text)) == text.encode()
    else:
        with pytest.raises(FrameError, match="deeper"):
            read(list(text))


ENDLESS = {
    "a text": ('"', "x"),
    "a text of escapes": ('"', "\\u00e9"),
    "numbers": ("[0", ",0"),
    "lists": ("[0", ",[]"),
    "members": ('{"":0', ',"a":{"b":0}'),
    "blanks": ("[", " "),
    "nests": ("[0", "," + "[" * 60 + "]" * 60),
}


@pytest.mark.parametrize(("opening", "unit"), ENDLESS.values(), ids=ENDLESS)
def test_nothing_of_what_went_by_is_held(opening: str, unit: str) -> None:
    document = Document(Masker())
    document.feed(opening)
    piece = unit * ((128 << 10) // len(unit))
    document.feed(piece)
    tracemalloc.start()
    try:
        for _ in range(4):
            document.feed(piece)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 17
    assert peak < 4 << 20


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 1000, "[1}" * 1000, "1,1," * 1000, '"a":' * 500, "{1," * 500, "tru" * 5000])
def test_what_never_becomes_json_is_refused_soon(text: str) -> None:
    document = Document(Masker())
    with pytest.raises(FrameError):
        document.feed(text)


@settings(max_examples=20)
@given(VALUES)
def test_the_child_writes_in_pieces_what_it_writes_at_once(value: object) -> None:
    many = [value] * 700
    # Few numbers that take long to be read are allowed, and these are seven hundred times as many.
    assume(complaint("", many, None) is None)
    for one in (value, many, {str(n): item for n, item in enumerate(many)}, ["x" * 70_000, value], {"x" * 70_000: value}):
        text = "".join(large.parts(large.pieces(one, what="the result")))
        assert json.loads(text) == one
        assert text == json.dumps(one, ensure_ascii=False, separators=(",", ":"))


def test_a_part_fits_into_a_frame_of_its_own() -> None:
    text = "\u20ac" * 1_000_000 + '"\\' * 500_000
    found = list(large.parts(iter([text[:10], text[10:]])))
    assert "".join(found) == text
    assert max(len(part) for part in found) <= frames.MAX_PART
    assert max(len(part.encode()) for part in found) <= 1 << 20
