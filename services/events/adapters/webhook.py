"""The webhook that an adapter reads, and the results that it makes."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from shared.charsets import charset_in, decoded_text, media_type_of
from shared.errors import Invalid, Malformed, Problem
from shared.values import MOST_TYPE, cleaned, decode_sent, storable

FORM = "application/x-www-form-urlencoded"
# More fields than any form has; a bound for a body of separators.
MOST_FIELDS = 10_000


class Webhook(msgspec.Struct, frozen=True):
    """A verified request: header names in lower case, the body exactly as it came; `secrets` are those that its adapter opens."""

    headers: dict[str, str]
    query: dict[str, str]
    body: bytes
    settings: dict[str, Any]
    secrets: dict[str, str] = {}

    @property
    def media_type(self) -> str:
        """Return the content type without its parameters, in lower case; `application/json` where there is none."""
        return media_type_of(self.headers.get("content-type", "application/json"))

    @property
    def charset(self) -> str | None:
        """Return the charset that the content type names, in lower case."""
        return charset_in(storable(self.headers.get("content-type", "")))

    def json(self) -> Any:
        """Return the body as JSON, whatever its content type; in the charset that is named, else in the UTF that it is in.

        Raises `Invalid`: such a request can never be read.
        """
        try:
            return decode_sent(self.text(json.detect_encoding(self.body)).encode())
        except Malformed as error:
            why = error.detail.removeprefix("this is not JSON: ")
            raise Invalid(f"the body cannot be read as {self._content_type_read()}: {why}") from error

    def form(self) -> dict[str, Any]:
        """Return the fields of a form; a repeated one is a list. Raises `Invalid` for a charset that is unknown, or too many."""
        # Plain characters are ASCII in all charsets but these; escaped ones are in the charset.
        wide = (self.charset or "").startswith(("utf-16", "utf-32"))
        body = self.text("utf-8").encode() if wide else self.body.removeprefix(b"\xef\xbb\xbf")
        try:
            # Latin-1 stands for bytes here: the meaning of a byte is decided once nothing is escaped any more.
            pairs = parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_FIELDS, encoding="latin-1")
        except ValueError as error:
            raise Invalid(f"the body is a form of more than {MOST_FIELDS} fields") from error
        fields: dict[str, list[str]] = {}
        for pair in pairs:
            name, value = (decoded_text(part.encode("latin-1"), "utf-8" if wide else self.charset or "utf-8") for part in pair)
            fields.setdefault(name, []).append(value)
        return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}

    def text(self, default: str = "utf-8") -> str:
        """Return the body as text in the charset that is named, else in `default`; other bytes become U+FFFD.

        Raises `Invalid` for a charset that is unknown.
        """
        return decoded_text(self.body, self.charset or default)

    def data(self) -> Any:
        """Return the body by its content type: JSON, a form's fields, text, None where it is empty.

        A body of another type is handed over as it came: `content_type`, `size` in bytes, and `body_base64`. Raises `Invalid` for a
        body that does not fit its content type.
        """
        media = self.media_type
        if not self.body:
            return None
        if media in {"application/json", "text/json"} or media.endswith("+json"):
            return self.json()
        if media == FORM:
            return self.form()
        if media.startswith("text/") or media == "application/xml" or media.endswith("+xml"):
            return self.text()
        return {"content_type": storable(media), "size": len(self.body), "body_base64": base64.b64encode(self.body).decode()}

    def lacks(self, what: str) -> Invalid:
        """Return the error of a request without `what`; it names the content type by which the body was read."""
        return Invalid(f"the request has no {what}; its body was read as {self._content_type_read()}")

    def _content_type_read(self) -> str:
        return self.media_type[:100] if "content-type" in self.headers else "application/json, since none was named"


class ParsedEvent(msgspec.Struct, frozen=True):
    """One thing that happened: a dotted type and its data. `headers` are those of the request that mean something."""

    type: str
    data: Any
    headers: dict[str, str] = {}


def checked_event(event: ParsedEvent) -> ParsedEvent:
    """Return an event as it may enter: its text storable. Raises `Invalid` for a type that is empty or too long."""
    type_ = storable(event.type)
    if not 0 < len(type_) <= MOST_TYPE:
        detail = f"has {len(type_)} characters; it has from 1 to {MOST_TYPE}"
        raise Invalid(f"the event type {type_[:80]!r} {detail}", errors=(Problem("type", detail),))
    return ParsedEvent(type_, event.data, cleaned(event.headers))
