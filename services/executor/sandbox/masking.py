"""Keeps credentials that were handed to a run out of its output. Pure.

It guards against accidents (a token in a traceback, a header that a server echoed, a debug print), not against an author
who means to leak: code that holds a secret can write it backwards. So it knows the usual accidents of text:
base64 in either alphabet and at every alignment, percent-encoding, hexadecimal, the escapes of JSON, Python and HTML.

Searching is one `in` per form, at memory's speed. One regular expression over all forms takes milliseconds to compile for
a long token, anew in each run, and some forty times as long over a megabyte. The time is linear in the text for every
secret: places of a secret that overlap each other are as far apart as the secret repeats itself, and are taken together.
"""

import base64
import json
import math
import re
import string
import threading
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus

import msgspec

MASK = "***"
SHORTEST = 8
"""Characters from which on a secret is masked. Results and steps are masked too, not only lines: a shorter text turns up by
chance, and replacing it would change a workflow's meaning. GitLab draws the line at 8 as well."""
LONG = 4096
"""Characters of a secret from which on it takes tens of milliseconds to `learn` it."""
LONGEST = 65536
"""Characters of a secret up to which it is masked as a whole; of a longer one its lines are."""
MOST_LINES = 128
"""Lines of a secret that are masked by themselves. A key of 16,384 bits has 200, and is not printed line by line."""
_SHORT = 1024
"""Characters of a form up to which every place is tried at which it might begin."""
_TRIES = 64
"""Places at which a longer form might begin that are looked at; where there are more, it may begin at the first of them."""
_PREFIX = 8

_ALPHABET = f"{string.ascii_uppercase}{string.ascii_lowercase}{string.digits}+/"
_ANY = frozenset[str]()


class _Form(msgspec.Struct, frozen=True):
    """One way to write a secret: `core`, between characters that hold some of its bits and some of a neighbour's."""

    core: str
    before: frozenset[str] = _ANY
    after: frozenset[str] = _ANY

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield every place of it in `text`; those that overlap may be yielded as one."""
        at = text.find(self.core)
        while at >= 0:
            following = text.find(self.core, at + 1)
            apart = following - at
            if following < 0 or apart >= len(self.core):
                yield from self._fitting(text, at, at)
            else:
                # It repeats itself every `apart` characters, and goes on doing so for a while. An overlap with the last of these in
                # another way begins beyond the half of it: else there would have been one before `following`.
                last = following + _repeated(text, following + len(self.core), self.core[-apart:])
                yield from self._fitting(text, at, at)
                if last > following:
                    # Those in between have the same neighbours as the one that follows the first.
                    yield from self._fitting(text, following, last - apart)
                yield from self._fitting(text, last, last)
                following = text.find(self.core, last + 1)
            at = following

    def _fitting(self, text: str, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Yield the span from the place `first` to the place `last`, if the neighbours of the first are as they have to be."""
        end = first + len(self.core)
        fits_before = not self.before or (first > 0 and text[first - 1] in self.before)
        fits_after = not self.after or (end < len(text) and text[end] in self.after)
        if fits_before and fits_after:
            yield first - bool(self.before), last + len(self.core) + bool(self.after)

    def begins(self, tail: str) -> bool:
        """Return whether more text could turn `tail` into this form."""
        if self.before:
            if tail[0] not in self.before:
                return False
            tail = tail[1:]
        return self.core.startswith(tail) if len(tail) < len(self.core) else bool(self.after) and tail == self.core

    def begun(self, text: str, start: int) -> int:
        """Return the first place from `start` on that more text could turn into this form, a long one; where none, the end."""
        start = max(start, len(text) - self.length + 1) + bool(self.before)
        prefix = self.core[:_PREFIX]
        at = text.find(prefix, start)
        for _ in range(_TRIES):
            if at < 0:
                break
            following = text.find(prefix, at + 1)
            places = {at}
            if 0 < (apart := following - at) < len(prefix):
                # The text repeats itself for a while, and so does the form: it can only begin where both cease to at once, or where
                # the text ends before.
                ends, ends_here = _periodic(text, at, apart), _periodic(self.core, 0, apart)
                last = at + (ends - at - len(prefix)) // apart * apart
                first = (-((at - place) // apart) * apart + at for place in (ends - ends_here, len(text) - ends_here))
                places |= {at + apart, *(place for place in first if at < place <= last)}
                following = text.find(prefix, last + 1)
            for place in sorted(places):
                if self._goes_on(text, place):
                    return place - bool(self.before)
            at = following
        if at >= 0:
            return at - bool(self.before)  # there are so many that one may well be it
        for at in range(max(start, len(text) - _PREFIX + 1), len(text) + bool(self.before)):
            if self._goes_on(text, at):
                return at - bool(self.before)
        return len(text)

    def _goes_on(self, text: str, at: int) -> bool:
        if self.before and (at < 1 or text[at - 1] not in self.before):
            return False
        left = len(text) - at
        return self.core.startswith(text[at:]) and (left < len(self.core) or bool(self.after))

    @property
    def length(self) -> int:
        return len(self.core) + bool(self.before) + bool(self.after)


class Masker:
    """Knows the secrets of one attempt, and replaces them. False as long as it knows none: then nothing costs anything."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._learning = threading.Lock()
        # Secrets are added as a whole: a thread may be masking meanwhile.
        self._forms: list[_Form] = []
        self._long: list[_Form] = []
        self._begins: dict[str, list[_Form]] = {}
        self._longest = 0
        self._has_newline = False

    def __bool__(self) -> bool:
        """Return whether there is anything to look for."""
        return bool(self._forms)

    def learn(self, *secrets: str) -> None:
        """From now on these are masked, and each line of those that have several; too short ones are not."""
        with self._learning:
            for secret in secrets:
                lines = secret.splitlines()
                for part in {secret, *(lines if len(lines) <= MOST_LINES else ())}:
                    if SHORTEST <= len(part) <= LONGEST and part not in self._secrets:
                        self._secrets.add(part)
                        self._add(_forms(part))

    def mask(self, text: str) -> str:
        """Return `text` with `MASK` for every secret in it; the very same object where there is none."""
        if len(text) < SHORTEST:
            return text
        spans = self.spans(text)
        return _replaced(text, spans, len(text))[0] if spans else text

    def mask_any_case(self, text: str) -> str:
        """Do the same for a text whose letters may have changed their case, such as the name of a host."""
        if not text.isascii():
            return self.mask(text)
        lowered = text.lower()
        spans = {span for form in self._forms if (core := form.core.lower()) in lowered for span in _Form(core).spans(lowered)}
        return _replaced(text, sorted(spans), len(text))[0] if spans else text

    def effort(self, characters: int) -> int:
        """Return the cost of masking so many characters, in characters that are searched."""
        return characters * len(self._forms)

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
        start = 0 if self._has_newline else text.rfind("\n") + 1
        first = min((form.begun(text, start) for form in self._long), default=len(text))
        for at in range(max(start, len(text) - self._longest + 1), first):
            if any(form.begins(text[at:]) for form in self._begins.get(text[at], ())):
                return at
        return first

    def _add(self, forms: Iterable[_Form]) -> None:
        made = list(forms)
        self._has_newline = self._has_newline or any("\n" in form.core for form in made)
        short = [form for form in made if form.length <= _SHORT]
        self._longest = max([self._longest, *(form.length for form in short)])
        for form in short:
            for first in form.before or form.core[0]:
                self._begins[first] = [*self._begins.get(first, ()), form]
        self._long = [*self._long, *(form for form in made if form.length > _SHORT)]
        self._forms = [*self._forms, *made]


class MaskedStream:
    """Masks a text that comes in pieces as if it came whole. Holds back only a possible beginning of a secret."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._kept = ""
        self._covered = 0
        """Characters at the start of `_kept` for which a mask has been returned already."""

    def feed(self, piece: str) -> str:
        """Return the masked text that is certain by now."""
        if not self._masker:
            return piece
        text = self._kept + piece
        until = self._masker.held(text)
        masked, covered = _replaced(text, self._masker.spans(text), until, self._covered)
        self._kept, self._covered = text[until:], max(0, covered - until)
        return masked

    def end(self, *, is_cut: bool = True) -> str:
        """Return the rest. A secret cut off in its middle is not given away for that; `is_cut` False: the text is whole."""
        text, self._kept = self._kept, ""
        spans = self._masker.spans(text)
        if is_cut and len(text) >= SHORTEST:  # it is kept because all of it is the beginning of one
            spans = [(0, len(text))]
        masked, _ = _replaced(text, spans, len(text), self._covered)
        self._covered = 0
        return masked


def _replaced(text: str, spans: list[tuple[int, int]], until: int, covered: int = 0) -> tuple[str, int]:
    """Return `text[covered:until]` with one mask for each stretch of overlapping spans, and how far the last one reaches.

    Spans that begin before `covered` belong to a stretch whose mask was returned before.
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


def _periodic(text: str, at: int, period: int) -> int:
    """Return the end of the repetitions in `text` of the few characters at `at`, of this length."""
    end = at + period + _repeated(text, at + period, text[at : at + period])
    while end < len(text) and text[end] == text[end - period]:
        end += 1
    return end


def _repeated(text: str, at: int, unit: str) -> int:
    """Return for how many characters from `at` on `text` goes on repeating `unit` as a whole."""
    end = at
    for step in (unit * (_SHORT // len(unit)), unit):
        while step and text.startswith(step, end):
            end += len(step)
    return end - at


def _forms(secret: str) -> list[_Form]:
    data = secret.encode("utf-8", "surrogatepass")
    percent = {quote(secret, safe=safe, errors="replace") for safe in ("", "/", "/:@!$&'()*+,;=~")} | {
        quote_plus(secret, errors="replace"),
        quote(secret, safe="", encoding="latin-1", errors="replace"),
        "".join(f"%{byte:02X}" for byte in data),
    }
    quoted = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    html = {escape(secret, quote=False), escape(secret), escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}
    plain = {
        secret,
        # The forms that a host's name, or a header's, gives a secret.
        secret.lower(),
        secret.upper(),
        *percent,
        *(_with_small_escapes(one) for one in percent),
        *quoted,
        *(one.replace("/", "\\/") for one in quoted),
        # JSON in JSON.
        *(json.dumps(one, ensure_ascii=is_ascii)[1:-1] for one in quoted for is_ascii in (True, False)),
        *html,
        *(one.encode("ascii", "xmlcharrefreplace").decode() for one in html),
        *(one.replace("'", quote_) for one in (repr(secret)[1:-1], ascii(secret)[1:-1]) for quote_ in ("'", "\\'")),
        *(repr(data)[2:-1].replace("'", quote_) for quote_ in ("'", "\\'")),
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
    """Return the certain part of the base64 text of `data` after so many other bytes."""
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
