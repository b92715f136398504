"""Reads the declared places of a request: headers, parameters, fields of a form and of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multidict import istr

from services.gateway.received import Received
from shared.errors import Unauthenticated
from shared.values import at, text_of
from shared.verification import Place, When

# A sender's name of a delivery; longer ones are no ids.
SENDER_ID = 256
_NONE: tuple[str, ...] = ()


# Characters of a text that is taken apart: none that stands in a head is longer, and none of a signature or an id.
MOST_PARTED = 64 * 1024


class Reader:
    """A place, ready to be read."""

    __slots__ = ("_default", "_ends", "_header", "_key", "_path", "_plain", "_separator", "place")

    def __init__(self, place: Place) -> None:
        self.place = place
        self._header = None if place.header is None else istr(place.header)
        self._key = place.query or place.form or ""
        self._path = () if place.json is None else tuple(place.json.split("."))
        self._separator = place.separator
        self._ends = (place.prefix, place.suffix)
        self._plain = not (place.separator or place.prefix or place.suffix)
        self._default = [] if place.default is None else [place.default]

    def all(self, received: Received, item: Any = None) -> list[str]:
        """Return the texts that are there; `item` is where JSON paths begin, None for the whole body.

        Raises `Unauthenticated` where the header, parameter or field itself stands more than once: it is not clear which is meant.
        """
        text = self._text(received, item)
        if not text:
            return self._default
        if self._plain:
            return [text]
        if self._separator and len(text) > MOST_PARTED:
            return self._default
        prefix, suffix = self._ends
        parts = [part.strip() for part in text.split(self._separator)] if self._separator else [text]
        return [
            part[len(prefix) : len(part) - len(suffix)]
            for part in parts
            if len(part) >= len(prefix) + len(suffix) and part.startswith(prefix) and part.endswith(suffix)
        ] or self._default

    def one(self, received: Received, item: Any = None) -> str | None:
        """Return the text, None where there is none. Raises `Unauthenticated` where there are several."""
        found = self.all(received, item)
        if len(found) > 1:
            raise self.twice()
        return found[0] if found else None

    def holds(self, received: Received) -> bool:
        """Return whether a value is there, in any form. Raises `Unauthenticated` where it stands more than once."""
        return bool(self._text(received, None))

    def absent(self) -> Unauthenticated:
        """Return the error of a request in which this place is empty."""
        return Unauthenticated(f"there is no {self.place}")

    def twice(self) -> Unauthenticated:
        """Return the error of a request in which this place is ambiguous."""
        return Unauthenticated(f"the {self.place} stands more than once")

    def _text(self, received: Received, item: Any) -> str | None:
        values: Sequence[str]
        if self._header is not None:
            values = received.headers.getall(self._header, _NONE)
        elif self._path:
            return text_of(at(received.document if item is None else item, self._path))
        elif self.place.query is not None:
            values = received.query.get(self._key, _NONE)
        else:
            values = received.form.get(self._key, _NONE)
        if len(values) > 1:
            raise self.twice()
        return values[0] if values else None


class DeliveryId:
    """The place of a sender's id of a delivery, and those of texts that tell apart deliveries of one id."""

    def __init__(self, place: Place | None, others: Sequence[Place] = ()) -> None:
        self._reader = None if place is None else Reader(place)
        self._others = [Reader(one) for one in others]

    def read(self, received: Received) -> str | None:
        """Return the id, None where there is none that can be one. Raises `Unauthenticated` for a header that stands twice."""
        if self._reader is None:
            return None
        given = _named(self._reader, received)
        if given and self._others:
            given = " ".join([given, *(text for reader in self._others if (text := _named(reader, received)))])
        return given if given and len(given) <= SENDER_ID else None


def _named(reader: Reader, received: Received) -> str | None:
    try:
        return reader.one(received)
    except Unauthenticated:
        if not reader.place.in_body:
            raise
        return None  # a sender's bodies are not all of one kind


class Conditions:
    """Texts that have to stand in places of a request."""

    def __init__(self, when: When) -> None:
        self._head = [(Reader(place), text) for place, text in when if not place.in_body]
        self._body = [(Reader(place), text) for place, text in when if place.in_body]
        self.in_head, self.in_body = bool(self._head), bool(self._body)

    def unmet(self, received: Received, *, body: bool, item: Any = None) -> str | None:
        """Return which condition is not met, of those on the body or of those on the head; None: all are."""
        for reader, text in self._body if body else self._head:
            if text not in reader.all(received, item):
                return f"the {reader.place} is not {text!r}"
        return None
