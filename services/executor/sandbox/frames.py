"""The wire between supervisor and child: four bytes of big-endian length, then so many bytes of JSON.

Every frame read here was written by an adversary. A frame is capped in size, depth and number of values, holds only
text that Postgres and every JSON reader can hold, and is decoded straight into one of the structs below or of `requests`;
all else is a `FrameError`. So reading any frame takes less than 128 MB.
"""

import functools
import json
import operator
import re
from typing import Annotated, Any

import msgspec

from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.interface import BundleProblem, Level, ToldSpan
from services.executor.sandbox.requests import SERVED, ChildRequest, documents_of
from shared.values import LEAST_INTEGER, MOST_EXTREME, MOST_INTEGER, YEAR, is_ordinary

MAX_FRAME = 16 * 1024 * 1024
"""Bytes of one payload."""
_LENGTH = 4
MAX_PART = 1024 * 1024
"""Characters of one part of a large result."""
MAX_DEPTH = 110
"""Levels of nesting of a payload: the 100 of a result and its envelope. Decoders give up at about a thousand."""

MAX_VALUES = 250_000
"""Values in a payload: an empty list is three bytes of JSON and sixty of memory, so that 16 MB of them would be half a
gigabyte. A document that is kept has at most 256 KiB and cannot hold as many."""


MOST_FOUND = 2000
"""Workflows of one bundle, and problems."""


class Ready(msgspec.Struct, frozen=True, tag_field="kind", tag="ready"):
    """The child stands behind the walls that are the same for every job; its proxy's socket may come along."""


class Placed(msgspec.Struct, frozen=True, tag_field="kind", tag="placed"):
    """The child stands behind all walls, with one bundle, and waits for a job."""


class Again(msgspec.Struct, frozen=True, tag_field="kind", tag="again"):
    """A child that may serve several runs has restored its state as far as it can, and waits for the next job."""


class Log(msgspec.Struct, frozen=True, tag_field="kind", tag="log"):
    """A structured line; has no answer."""

    level: Level
    event: Annotated[str, msgspec.Meta(max_length=1100)]
    fields: dict[str, Any]


class SpanFrame(msgspec.Struct, frozen=True, tag_field="kind", tag="span"):
    """A span of the author's code; has no answer."""

    span: ToldSpan


class Result(msgspec.Struct, frozen=True, tag_field="kind", tag="result"):
    """Terminal: the function returned."""

    result: msgspec.Raw


class ResultPart(msgspec.Struct, frozen=True, tag_field="kind", tag="result_part"):
    """The next piece of a result that is too large for one frame: of its JSON, as text. See `documents`."""

    text: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_PART)]


class ResultEnd(msgspec.Struct, frozen=True, tag_field="kind", tag="result_end"):
    """The function's result came in parts, so many bytes of UTF-8; without any, the result is too large to send."""

    bytes: Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class Error(msgspec.Struct, frozen=True, tag_field="kind", tag="error"):
    """Terminal: the function raised."""

    type: Annotated[str, msgspec.Meta(max_length=300)]
    message: Annotated[str, msgspec.Meta(max_length=10_000)]
    traceback: Annotated[str, msgspec.Meta(max_length=70_000)]


class Suspended(msgspec.Struct, frozen=True, tag_field="kind", tag="suspended"):
    """Terminal: the function waits only for its open requests and, so many seconds on, a time-out of its own."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=YEAR)] | None = None


class Importing(msgspec.Struct, frozen=True, tag_field="kind", tag="importing"):
    """A child that describes its bundle imports a file; has no answer."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class Described(msgspec.Struct, frozen=True, tag_field="kind", tag="described"):
    """Terminal: the workflows and adapters of the bundle. `described` has the bounds of each."""

    workflows: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=MOST_FOUND)]
    problems: Annotated[list[BundleProblem], msgspec.Meta(max_length=MOST_FOUND)]
    adapters: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=MOST_FOUND)] = []


Terminal = Result | Error | Suspended | Described
Frame = (
    Ready
    | Placed
    | Again
    | Log
    | SpanFrame
    | Importing
    | ChildRequest
    | ResultPart
    | ResultEnd
    | Result
    | Error
    | Suspended
    | Described
)

_KINDS: tuple[type[msgspec.Struct], ...] = (
    Ready,
    Placed,
    Again,
    Log,
    SpanFrame,
    Importing,
    *SERVED,
    ResultPart,
    ResultEnd,
    Result,
    Error,
    Suspended,
    Described,
)
_DOCUMENTS = {kind: documents_of(kind) for kind in _KINDS}
_DECODER: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(functools.reduce(operator.or_, _KINDS))
_ENCODER = msgspec.json.Encoder()
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_UNSTORABLE = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])|[0-9]{19}")
"""A payload with a text or a number that cannot be stored exactly."""
_EXTREME = re.compile(rb"[0-9][eE][+-]?[0-9]{3}|[0-9]{100}")
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in b"[]{},")
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def encode(document: Any) -> bytes:
    """Answer the whole frame, length included. Raises `FrameError` when it is over the cap or is not JSON."""
    try:
        payload = _ENCODER.encode(document)
    except (TypeError, ValueError, RecursionError) as error:
        msg = f"cannot be sent to the child: {error}"
        raise FrameError(msg) from error
    if len(payload) > MAX_FRAME:
        msg = f"{len(payload)} bytes are over the limit of {MAX_FRAME}"
        raise FrameError(msg)
    return len(payload).to_bytes(_LENGTH, "big") + payload


def decode(payload: bytes) -> Frame:
    """Decode a payload. Raises `FrameError` for one that is no frame; nothing else."""
    if len(payload) > MAX_FRAME:
        msg = f"a frame of {len(payload)} bytes is over the limit of {MAX_FRAME}"
        raise FrameError(msg)
    _refuse_bulk(payload)
    try:
        if len(_EXTREME.findall(payload)) > MOST_EXTREME:
            # By a decoder for which all numbers are alike: the other one takes hundreds of times as long for some.
            _refuse_unstorable(json.loads(payload))
        frame = _DECODER.decode(payload)
        for name in _DOCUMENTS[type(frame)]:
            msgspec.json.decode(getattr(frame, name))  # until here it was only skipped over
        if _UNSTORABLE.search(payload):
            _refuse_unstorable(msgspec.json.decode(payload))
    except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError) as error:
        msg = f"a frame cannot be read: {error}"
        raise FrameError(msg) from error
    return frame


class FrameReader:
    """Puts the frames of one connection together from the pieces that arrive."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._size = -1
        """Bytes of the payload that is awaited; -1 while its length is."""

    def __len__(self) -> int:
        """Return how many bytes arrived and are no frame yet."""
        return len(self._kept)

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._kept += data

    def next(self) -> tuple[Frame, int] | None:
        """Return the next frame with its size; None while it is incomplete.

        The length is checked before the payload is there. Raises `FrameError`.
        """
        if self._size < 0:
            if len(self._kept) < _LENGTH:
                return None
            self._size = int.from_bytes(self._kept[:_LENGTH], "big")
            if self._size > MAX_FRAME:
                msg = f"a frame of {self._size} bytes is over the limit of {MAX_FRAME}"
                raise FrameError(msg)
        size, end = self._size, self._size + _LENGTH
        if len(self._kept) < end:
            return None
        payload = bytes(memoryview(self._kept)[_LENGTH:end])
        del self._kept[:end]
        self._size = -1
        return decode(payload), size


def _refuse_unstorable(document: object) -> None:
    """Look at every text and number. Raises ValueError for a NUL character, half a surrogate pair, and more than 64 bits."""
    left = [document]
    extreme = 0
    while left:
        item = left.pop()
        if isinstance(item, str):
            if "\0" in item:
                msg = "a text holds a NUL character"
                raise ValueError(msg)
            item.encode()  # UnicodeEncodeError is a ValueError
        elif isinstance(item, int) and not LEAST_INTEGER <= item <= MOST_INTEGER:
            msg = "a whole number has more than 64 bits"
            raise ValueError(msg)
        elif isinstance(item, float) and not is_ordinary(item):
            extreme += 1
            if extreme > MOST_EXTREME:
                msg = f"more than {MOST_EXTREME} numbers are near to the ends of what a number can be"
                raise ValueError(msg)
        elif isinstance(item, dict):
            left.extend(item)
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)


def _refuse_bulk(payload: bytes) -> None:
    """Judge how much a decoder would have to build, before one begins. Raises `FrameError`."""
    containers = payload.count(b"[") + payload.count(b"{")
    if containers <= MAX_DEPTH and containers + payload.count(b",") <= MAX_VALUES:
        return
    # Each text has a quote that opens it, which no backslash precedes, and at most one more.
    if payload.count(b'"') - payload.count(b'\\"') > 4 * MAX_VALUES:
        msg = f"a frame holds more than {MAX_VALUES} values"
        raise FrameError(msg)
    # Inside of texts brackets and commas are no structure.
    structure = _STRING.sub(b"", payload).translate(_ONE_KIND, _NOT_STRUCTURE)
    if structure.count(b"[") + structure.count(b",") > MAX_VALUES:
        msg = f"a frame holds more than {MAX_VALUES} values"
        raise FrameError(msg)
    if _is_too_deep(structure.replace(b",", b"")):
        msg = f"a frame is nested deeper than {MAX_DEPTH} levels"
        raise FrameError(msg)


def _is_too_deep(brackets: bytes) -> bool:
    """Peel the innermost pairs of brackets off, once per level."""
    for _ in range(MAX_DEPTH):
        peeled = brackets.replace(b"[]", b"")
        if not peeled or len(peeled) == len(brackets):  # the decoder refuses a half without its pair
            return False
        brackets = peeled
    return True
