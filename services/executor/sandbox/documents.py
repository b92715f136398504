"""A JSON document that an adversary sends in pieces: checked, and masked, without ever being held as a whole.

The result is valid JSON with storable texts, at most `MAX_DEPTH` deep, with finite numbers; or `FrameError`.

Reading: texts, numbers and words of a slice are each replaced by one sign, and the rest is folded, the innermost first,
until only open brackets remain, which take at most three signs a level. Each of these steps is one pass of a
regular expression over the slice; a parser that looks at one token after the other would take a second a megabyte.
"""

import codecs
import itertools
import json
import math
import re

from services.executor.sandbox.errors import FrameError
from services.executor.sandbox.masking import MaskedStream, Masker
from shared.values import LEAST_INTEGER, MOST_INTEGER

MAX_DEPTH = 101
"""Brackets that may be open at a time: the SDK allows a hundred, and an empty one inside."""

_SLICE = 1 << 16
"""Characters that are checked in one go: the process does nothing else meanwhile, some milliseconds at most."""
_LONGEST_NUMBER = 4300
"""Characters; Python refuses to read longer whole numbers."""
_LONGEST_OPEN = 3 * MAX_DEPTH + 8
_UNCLEAN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_BODY = r'[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+'
_TEXT_BODY = re.compile(_BODY)
_TEXT = re.compile(f'"{_BODY}"')
_COMPLETE = re.compile(f'(?:[^"]++|"{_BODY}")*+')
_NUMBER_SHAPE = r"-?+(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?+[0-9]++)?+"
_NUMBER = re.compile(_NUMBER_SHAPE)
_WHOLE = re.compile("-?[0-9]++")
_VALUE = re.compile(f"{_NUMBER_SHAPE}|true|false|null")
_TOKEN = re.compile(f'"{_BODY}"|{_NUMBER_SHAPE}')
_UNFINISHED_WORD = re.compile(r"[-+.0-9A-Za-z]*\Z")
_UNFINISHED_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")
_HIGH_SURROGATE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
_MAYBE_UNSTORABLE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_MAYBE_TOO_LARGE = re.compile(r"[eE]\+?[0-9]{3}|[0-9]{19}")
_DIGIT_SECRET = re.compile(r"[-+.0-9eE]+")

# The signs: a text, another value, a member of an object, an array and an object that need one more.
_PAIR = re.compile("\x01:[\x01\x02](?=[,}])")
_ELEMENTS = re.compile("[\\[\x04](?:[\x01\x02],)++")
_MEMBERS = re.compile("[{\x05](?:\x03,)++")
_CLOSED = re.compile("\\[[\x01\x02]?+\\]|\x04[\x01\x02]\\]|\\{\x03?+\\}|\x05\x03\\}")
_BLANKS = str.maketrans("", "", " \t\n\r")
_STRUCTURE = str.maketrans("", "", "\x01\x02[]{},:")
_STEPS = [1 if chr(code) in "[{" else -1 if chr(code) in "]}" else 0 for code in range(128)]


class Document:
    """One document. `feed` it to its end; not to be used any more after a `FrameError`."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._open = ""
        """The document so far, folded."""
        self._depth = 0
        self._carried = ""
        """Received and not yet decidable: a few characters, or a number."""
        self._in_text = False
        self._stream = MaskedStream(masker)
        self._encode = codecs.getincrementalencoder("utf-8")()

    def feed(self, piece: str) -> bytes:
        """Return the part that can be kept by now, masked."""
        masked = [self._slice(piece[at : at + _SLICE]) for at in range(0, len(piece), _SLICE)]
        return self._encoded("".join(masked))

    def end(self) -> bytes:
        """Return the rest. Raises `FrameError` where the document is not complete."""
        if self._in_text:
            msg = "a result ends in the middle of a text"
            raise FrameError(msg)
        rest, self._carried = self._carried, ""
        masked = self._complete(rest)
        if self._open not in {"\x01", "\x02"}:
            msg = "a result is not one JSON document"
            raise FrameError(msg)
        return self._encoded(masked)

    def _slice(self, piece: str) -> str:
        text, self._carried = self._carried + piece, ""
        masked: list[str] = []
        at = 0
        if self._in_text:
            at = self._text_goes_on(text, 0, masked)
        if not self._in_text:
            whole = _COMPLETE.match(text, at)
            end = at if whole is None else whole.end()
            if end == len(text):
                word = _UNFINISHED_WORD.search(text, max(at, end - _LONGEST_NUMBER - 1))
                end = end if word is None else word.start()
                self._carried = text[end:]
                if len(self._carried) > _LONGEST_NUMBER:
                    msg = f"a result holds a number of more than {_LONGEST_NUMBER} characters"
                    raise FrameError(msg)
                masked.append(self._complete(text[at:end]))
            else:
                masked += (self._complete(text[at:end]), '"')
                self._in_text = True
                self._text_goes_on(text, end + 1, masked)
        return "".join(masked)

    def _text_goes_on(self, text: str, at: int, masked: list[str]) -> int:
        """Take a text from `at` on that began before; return where it ends, with its quote."""
        body = _TEXT_BODY.match(text, at)
        end = at if body is None else body.end()
        if end < len(text) and text[end] == '"':
            masked += (self._part_of_text(text[at:end], is_last=True), '"')
            self._in_text = False
            self._fold("\x01")
            return end + 1
        if end < len(text) and _UNFINISHED_ESCAPE.fullmatch(text, end) is None:
            msg = "a result holds a text that is no JSON"
            raise FrameError(msg)
        end = _before_half_a_pair(text, at, end)
        self._carried = text[end:]
        masked.append(self._part_of_text(text[at:end], is_last=False))
        return len(text)

    def _part_of_text(self, part: str, *, is_last: bool) -> str:
        if _MAYBE_UNSTORABLE.search(part):
            _refuse_unstorable(f'"{part}"')
        if not self._masker:
            return part
        masked = self._stream.feed(json.loads(f'"{part}"') if "\\" in part else part)
        if is_last:
            masked += self._stream.end(is_cut=False)
        return json.dumps(masked, ensure_ascii=False)[1:-1]

    def _complete(self, text: str) -> str:
        """Return whole texts, numbers and words masked."""
        if _UNCLEAN.search(text):
            msg = "a result holds a control character"
            raise FrameError(msg)
        if _MAYBE_UNSTORABLE.search(text):
            for found in _TEXT.finditer(text):
                if _MAYBE_UNSTORABLE.search(found[0]):
                    _refuse_unstorable(found[0])
        bare = _TEXT.sub("\x01", text)
        if _MAYBE_TOO_LARGE.search(bare):
            _refuse_too_large(bare)
        signs = _VALUE.sub("\x02", bare).translate(_BLANKS)
        if signs.translate(_STRUCTURE):
            msg = "a result is not JSON"
            raise FrameError(msg)
        self._fold(signs)
        return self._masked(text) if self._masker else text

    def _fold(self, signs: str) -> None:
        if self._depth + signs.count("[") + signs.count("{") > MAX_DEPTH:
            deepest = max(itertools.accumulate(map(_STEPS.__getitem__, signs.encode()), initial=self._depth))
            if deepest > MAX_DEPTH:
                msg = f"a result is nested deeper than {MAX_DEPTH} levels"
                raise FrameError(msg)
        self._depth += signs.count("[") + signs.count("{") - signs.count("]") - signs.count("}")
        text, before = self._open + signs, -1
        while len(text) != before:
            before = len(text)
            text = _MEMBERS.sub("\x05", _ELEMENTS.sub("\x04", _PAIR.sub("\x03", text)))
            text = _CLOSED.sub("\x02", text)
        if len(text) > _LONGEST_OPEN:
            msg = "a result is not JSON"
            raise FrameError(msg)
        self._open = text

    def _masked(self, text: str) -> str:
        spans = self._masker.spans(text)
        if not spans and "\\" not in text and not self._masker.knows(_DIGIT_SECRET):
            return text  # each text stands there as it is meant, and none holds a secret
        return _TOKEN.sub(lambda token: self._masked_token(token[0]), text)

    def _masked_token(self, token: str) -> str:
        if token[0] == '"':
            meant = json.loads(token)
            masked = self._masker.mask(meant)
            return token if masked == meant else json.dumps(masked, ensure_ascii=False)
        number = json.loads(token)
        shown = self._masker.masked(number)
        return token if shown == number else json.dumps(shown, ensure_ascii=False)

    def _encoded(self, masked: str) -> bytes:
        return self._encode.encode(masked)


def _before_half_a_pair(text: str, start: int, end: int) -> int:
    """Return `end`, or where the escape begins before it whose other half is still to come."""
    at = end - 6
    if at < start or _HIGH_SURROGATE.fullmatch(text, at, end) is None:
        return end
    backslashes = 0
    while at - 1 - backslashes >= start and text[at - 1 - backslashes] == "\\":
        backslashes += 1
    return end if backslashes % 2 else at


def _refuse_unstorable(token: str) -> None:
    meant = json.loads(token)
    try:
        meant.encode()
    except UnicodeEncodeError as error:
        msg = "a result holds half a surrogate pair"
        raise FrameError(msg) from error
    if "\0" in meant:
        msg = "a result holds a NUL character"
        raise FrameError(msg)


def _refuse_too_large(bare: str) -> None:
    for number in _NUMBER.finditer(bare):
        if len(number[0]) > _LONGEST_NUMBER:
            msg = f"a result holds a number of more than {_LONGEST_NUMBER} characters"
            raise FrameError(msg)
        if _WHOLE.fullmatch(number[0]) and not LEAST_INTEGER <= int(number[0]) <= MOST_INTEGER:
            msg = "a result holds a whole number of more than 64 bits"
            raise FrameError(msg)
        if not math.isfinite(float(number[0])):
            msg = "a result holds a number that is out of range"
            raise FrameError(msg)
