"""The words of a text, as rows keep them and queries look for them: one tokenizer for both, so that no database has its own.

A word is a row of letters and digits, without regard to case. A row keeps them as a `tsvector` in the binary form in which Postgres
takes it, words with their positions; marks such as `=level=error` stand among them and are no words, since no word has a `=`.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

# Postgres keeps no later position, and no more of one word.
_LAST_POSITION = 16_383
_MOST_POSITIONS = 255
# Of a word in characters; a longer one is base64 or a token, and is kept by no row.
LONGEST = 256
# A row whose words are not all there has this mark: it may hold what is looked for.
INCOMPLETE = "=incomplete"
_WORD = re.compile(r"[^\W_]+")
# The same for text of ASCII alone, as translation of its bytes: a twentieth of the time.
_LETTERS = bytes(ord(chr(code).lower()) if chr(code).isascii() and chr(code).isalnum() else 32 for code in range(256))
# The form of `tsvectorrecv` (Postgres, src/backend/utils/adt/tsvector.c): the number of lexemes; of each its text, NUL, the number
# of its positions, and these.
_SIZE = struct.Struct(">I")
_PLACES = [struct.pack(">H", position) for position in range(1, _LAST_POSITION + 1)]
_COUNTS = [b"\0" + struct.pack(">H", count) for count in range(_MOST_POSITIONS + 1)]
# A `tsvector` of nothing.
NONE = _SIZE.pack(0)

Places = Mapping[str, Sequence[int]]


def words_in(text: str) -> list[str]:
    """Return the words of a text in their order."""
    return [word.casefold() for word in _WORD.findall(text)]


def kept(text: str, marks: Iterable[bytes] = (), *, complete: bool = True) -> bytes:
    """Return the words of a text, and marks, as the binary form of a `tsvector`."""
    words = text.encode().translate(_LETTERS).split() if text.isascii() else [word.encode() for word in words_in(text)]
    places: dict[bytes, bytes] = {}
    if len(words) <= _MOST_POSITIONS:
        for word, place in zip(words, _PLACES, strict=False):
            if word in places:
                places[word] += place
            else:
                places[word] = place
    else:
        complete = _place(words, places) and complete
    for mark_ in marks if complete else (*marks, INCOMPLETE.encode()):
        places[mark_] = b""
    return _SIZE.pack(len(places)) + b"".join([word + _COUNTS[len(at) >> 1] + at for word, at in places.items()])


def _place(words: Sequence[bytes], places: dict[bytes, bytes]) -> bool:
    """Add the positions of words that are too many to have all of them; return whether they have."""
    found: dict[bytes, list[bytes]] = {}
    complete = True
    for number, word in enumerate(words):
        at = found.setdefault(word, [])
        if number < _LAST_POSITION and len(at) < _MOST_POSITIONS:
            at.append(_PLACES[number])
        else:
            complete = False
    places |= {word: b"".join(at) for word, at in found.items()}
    return complete


def read(kept_as: bytes) -> Places:
    """Return what `kept` wrote: each word and mark with its positions, none where it has none."""
    found: dict[str, Sequence[int]] = {}
    at = _SIZE.size
    while at < len(kept_as):
        end = kept_as.index(0, at)
        count = int.from_bytes(kept_as[end + 1 : end + 3])
        found[kept_as[at:end].decode()] = struct.unpack_from(f">{count}H", kept_as, end + 3)
        at = end + 3 + 2 * count
    return found


def text_of(kept_as: bytes) -> str:
    """Return what `kept` wrote as the text of a `tsvector`: `word:1,7 other:2`."""
    return " ".join(f"{word}:{','.join(map(str, at))}" if at else word for word, at in read(kept_as).items())


def mark(name: str, value: str) -> str:
    """Return the mark of a row whose column `name` has this value, one of ours."""
    return f"={name}={value}"


def query_of(words: Sequence[str], *, prefix: bool = False) -> str | None:
    """Return the `tsquery` of words one after the other, the last one going on where `prefix`; None: no row holds them."""
    if not words or any(len(word) > LONGEST for word in words):
        return None
    return " <-> ".join(f"'{word}'" for word in words) + (":*" if prefix else "")


class Lexemes:
    """The words and marks of a row. Whatever a query asks of them, one answer takes a few milliseconds at most."""

    def __init__(self, places: Places) -> None:
        """Take what `read` returned."""
        self._places = places

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._places)

    @cached_property
    def _sequence(self) -> list[str]:
        """The words by their position; where none is kept, or none was, there is an empty one."""
        made = [""] * (max((at[-1] for at in self._places.values() if at), default=0) + 1)
        for word, at in self._places.items():
            for place in at:
                made[place] = word
        return made

    def holds(self, words: Sequence[str], *, prefix: bool = False) -> bool:
        """Return whether the row has these words one after the other: what Postgres says to `query_of`."""
        if not words or any(len(word) > LONGEST for word in words):
            return False
        *first, last = words
        if not first:
            return self._begins(last) if prefix else last in self._places
        if any(word not in self._places for word in first):
            return False
        for start in self._places[first[0]]:
            end = start + len(first)
            if self._sequence[start:end] == first and end < len(self._sequence):
                found = self._sequence[end]
                if found.startswith(last) if prefix else found == last:
                    return True
        return False

    def _begins(self, prefix: str) -> bool:
        at = bisect_left(self._sorted, prefix)
        return at < len(self._sorted) and self._sorted[at].startswith(prefix)
