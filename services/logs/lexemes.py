"""The words of a text, as rows keep them and queries look for them: one tokenizer for both, so that no database has its own.

A word is a row of letters and digits, without regard to case. A row keeps them as the text of a `tsvector`, `word:1,7 other:2`,
whose numbers are positions; marks such as `=level=error` stand among them and are no words, since no word has a `=`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

# Postgres keeps no later position, and no more of one word.
_LAST_POSITION = 16_383
_MOST_POSITIONS = 255
# Of a word in characters; a longer one is base64 or a token, and is kept by no row.
LONGEST = 256
# A row whose words are not all there has this mark: it may hold what is looked for.
INCOMPLETE = "=incomplete"
_WORD = re.compile(r"[^\W_]+")

Lexemes = Mapping[str, Sequence[int]]


def words_in(text: str) -> list[str]:
    """Return the words of a text in their order."""
    return [word.casefold() for word in _WORD.findall(text)]


def kept(words: Iterable[str], marks: Iterable[str] = (), *, complete: bool = True) -> str:
    """Return words, in their order, and marks as the text of a `tsvector`."""
    places: dict[str, list[int]] = {}
    for position, word in enumerate(words, start=1):
        at = places.setdefault(word, [])
        if position <= _LAST_POSITION and len(at) < _MOST_POSITIONS:
            at.append(position)
        else:
            complete = False
    made = [f"{word}:{','.join(map(str, at))}" if at else word for word, at in places.items()]
    return " ".join((*made, *marks, *(() if complete else (INCOMPLETE,))))


def read(text: str) -> Lexemes:
    """Return what `kept` wrote: each word and mark with its positions, none where it has none."""
    found: dict[str, list[int]] = {}
    for one in text.split():
        word, _, at = one.partition(":")
        found[word] = [int(position) for position in at.split(",")] if at else []
    return found


def mark(name: str, value: str) -> str:
    """Return the mark of a row whose column `name` has this value, one of ours."""
    return f"={name}={value}"


def query_of(words: Sequence[str], *, prefix: bool = False) -> str | None:
    """Return the `tsquery` of words one after the other, the last one going on where `prefix`; None: no row holds them."""
    if not words or any(len(word) > LONGEST for word in words):
        return None
    return " <-> ".join(f"'{word}'" for word in words) + (":*" if prefix else "")


def holds(lexemes: Lexemes, words: Sequence[str], *, prefix: bool = False) -> bool:
    """Return whether a row has these words one after the other: what Postgres says to `query_of`."""
    if not words or any(len(word) > LONGEST for word in words):
        return False
    *first, last = words
    ends = [at for word, at in lexemes.items() if word.startswith(last)] if prefix else [lexemes[last]] if last in lexemes else []
    if not first:
        return bool(ends)
    places = set(lexemes.get(first[0], ()))
    for word in first[1:]:
        places = {place + 1 for place in places}.intersection(lexemes.get(word, ()))
    return any(place + 1 in at for at in map(set, ends) for place in places)
