"""Keeps credentials that were handed to a run out of what the run says. Pure.

It guards against accidents (a token in a traceback, a header that a server echoed, a debug print), not against an author
who means to leak: whoever holds a secret can write it backwards. So it knows what code does to text without meaning to:
base64 in either alphabet and at every alignment, percent-encoding, hexadecimal, JSON and Python escapes.

Searching is one `in` per form, at memory's speed. One regular expression over all forms takes milliseconds to compile for
a long token, anew in each run, and some forty times as long over a megabyte.
"""

import base64
import json
import math
import re
import string
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

MASK = "***"
SHORTEST = 8
"""Characters from which on a secret is masked. Results and steps are masked too, not only lines: a shorter text turns up by
chance, and replacing it would change what a workflow means. GitLab draws the line at 8 as well."""
LONGEST = 65536
"""Characters of a secret up to which it is masked as a whole; of a longer one its lines are."""

_ALPHABET = f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}+/"
_ANY = frozenset[str]()


class _Form(msgspec.Struct, frozen=True):
    """One way to write a secret: `core`, between characters that hold some of its bits and some of a neighbour's."""

    core: str
    before: frozenset[str] = _ANY
    after: frozenset[str] = _ANY

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield every place of it in `text`."""
        at = text.find(self.core)
        while at >= 0:
            start, end = at, at + len(self.core)
            fits_before = not self.before or (start > 0 and text[start - 1] in self.before)
            fits_after = not self.after or (end < len(text) and text[end] in self.after)
            if fits_before and fits_after:
                yield start - bool(self.before), end + bool(self.after)
            at = text.find(self.core, at + 1)

    def begins(self, tail: str) -> bool:
        """Return whether more text could turn `tail` into this form."""
        if self.before:
            if tail[0] not in self.before:
                return False
            tail = tail[1:]
        return self.core.startswith(tail) if len(tail) < len(self.core) else bool(self.after) and tail == self.core

    @property
    def length(self) -> int:
        return len(self.core) + bool(self.before) + bool(self.after)


class Masker:
    """Knows the secrets of one attempt, and replaces them. False as long as it knows none: then nothing costs anything."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._forms: list[_Form] = []
        self._begins: dict[str, list[_Form]] = {}
        self._longest = 0
        self._has_newline = False

    def __bool__(self) -> bool:
        """Return whether there is anything to look for."""
        return bool(self._forms)

    def learn(self, *secrets: str) -> None:
        """From now on these are masked, and each line of those that have several; too short ones are not."""
        for secret in secrets:
            for part in {secret, *secret.splitlines()}:
                if SHORTEST <= len(part) <= LONGEST and part not in self._secrets:
                    self._secrets.add(part)
                    self._add(_forms(part))

    def mask(self, text: str) -> str:
        """Return `text` with `MASK` for every secret in it; the very same object where there is none."""
        spans = self.spans(text)
        return _replaced(text, spans, len(text))[0] if spans else text

    def masked(self, value: Any) -> Any:
        """Return a JSON value with every text masked, keys too, and numbers that are a secret."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, dict):
            return {self.mask(key): self.masked(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.masked(inner) for inner in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            shown = str(value)
            return self.mask(shown) if len(shown) >= SHORTEST and self.mask(shown) != shown else value
        return value

    def masked_json(self, document: msgspec.Raw) -> msgspec.Raw:
        """Return a JSON document masked, in which no escape hides a secret; the very same where there is none."""
        if not self:
            return document
        value = msgspec.json.decode(document)
        masked = self.masked(value)
        return document if masked == value else msgspec.Raw(msgspec.json.encode(masked))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return every place of every secret in `text`, in order; they may overlap."""
        return sorted(span for form in self._forms if form.core in text for span in form.spans(text))

    def knows(self, shape: re.Pattern[str]) -> bool:
        """Return whether a secret, as it is or as something makes of it, is all of this shape."""
        return any(shape.fullmatch(form.core) for form in self._forms)

    def held(self, text: str) -> int:
        """Return from where on the end of `text` might be the beginning of a secret; its length where nowhere."""
        start = max(0, len(text) - self._longest + 1)
        if not self._has_newline:
            start = max(start, text.rfind("\n") + 1)
        for at in range(start, len(text)):
            if any(form.begins(text[at:]) for form in self._begins.get(text[at], ())):
                return at
        return len(text)

    def _add(self, forms: Iterable[_Form]) -> None:
        for form in forms:
            self._forms.append(form)
            for first in form.before or form.core[0]:
                self._begins.setdefault(first, []).append(form)
            self._longest = max(self._longest, form.length)
            self._has_newline = self._has_newline or "\n" in form.core


class Stream:
    """Masks a text that comes in pieces as if it came whole. Holds back what may be the beginning of a secret, no more."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._kept = ""
        self._covered = 0
        """Characters at the start of what is kept for which a mask has been said already."""

    def feed(self, piece: str) -> str:
        """Return what can be said by now."""
        if not self._masker:
            return piece
        text = self._kept + piece
        until = self._masker.held(text)
        said, covered = _replaced(text, self._masker.spans(text), until, self._covered)
        self._kept, self._covered = text[until:], max(0, covered - until)
        return said

    def end(self, *, is_cut: bool = True) -> str:
        """Return the rest. What was cut off in the middle of a secret is not given away for that; `is_cut` False: it is all."""
        text, self._kept = self._kept, ""
        spans = self._masker.spans(text)
        if is_cut and len(text) >= SHORTEST:  # it is kept because all of it is the beginning of one
            spans = [(0, len(text))]
        said, _ = _replaced(text, spans, len(text), self._covered)
        self._covered = 0
        return said


def _replaced(text: str, spans: list[tuple[int, int]], until: int, covered: int = 0) -> tuple[str, int]:
    """Return `text[covered:until]` with one mask for each stretch of overlapping spans, and how far the last one reaches.

    Spans that begin before `covered` belong to a stretch whose mask was said before.
    """
    parts: list[str] = []
    at = covered
    for start, end in spans:
        if start >= until:
            break
        if start >= at:
            parts += (text[at:start], MASK)
        at = max(at, end)
    parts.append(text[at:until])
    return "".join(parts), at


def _forms(secret: str) -> list[_Form]:
    data = secret.encode("utf-8", "surrogatepass")
    percent = {quote(secret, safe=safe, errors="replace") for safe in ("", "/", "/:@!$&'()*+,;=~")} | {
        quote_plus(secret, errors="replace"),
        "".join(f"%{byte:02X}" for byte in data),
    }
    quoted = json.dumps(secret)[1:-1]
    plain = {
        secret,
        *percent,
        *(_with_small_escapes(one) for one in percent),
        quoted,
        quoted.replace("/", "\\/"),
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        data.hex(),
        data.hex().upper(),
    }
    found = [_Form(core) for core in plain]
    for offset in range(3):
        form = _base64(data, offset)
        url_safe = _Form(*(_url_safe(part) for part in (form.core, form.before, form.after)))  # type: ignore[arg-type]
        found += [form] if url_safe == form else [form, url_safe]
    return found


def _base64(data: bytes, offset: int) -> _Form:
    """Return what base64 makes of `data` after so many bytes of something else, where its text is known for certain."""
    bits_before, bits = 8 * offset, 8 * (offset + len(data))
    whole = base64.b64encode(bytes(offset) + data + bytes(2)).decode()
    first, last = math.ceil(bits_before / 6), bits // 6
    before, after = _ANY, _ANY
    if bits_before % 6:
        known = _ALPHABET.index(whole[first - 1])
        unknown_bits = bits_before % 6
        before = frozenset(_ALPHABET[known | high << (6 - unknown_bits)] for high in range(1 << unknown_bits))
    if bits % 6:
        known = _ALPHABET.index(whole[last])
        after = frozenset(_ALPHABET[known | low] for low in range(1 << (6 - bits % 6)))
    return _Form(whole[first:last], before, after)


def _url_safe(part: str | frozenset[str]) -> str | frozenset[str]:
    if isinstance(part, str):
        return part.replace("+", "-").replace("/", "_")
    return frozenset(one.replace("+", "-").replace("/", "_") for one in part)


def _with_small_escapes(text: str) -> str:
    pieces = text.split("%")
    return "%".join([pieces[0], *(piece[:2].lower() + piece[2:] for piece in pieces[1:])])
