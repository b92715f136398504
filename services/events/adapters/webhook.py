"""What adapters read and make."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import msgspec

from shared.errors import Invalid


class Webhook(msgspec.Struct, frozen=True):
    """A verified request: header names in lower case, the body exactly as it came."""

    headers: dict[str, str]
    query: dict[str, str]
    body: bytes
    settings: dict[str, Any]

    @property
    def media_type(self) -> str:
        """Return the content type without its parameters, in lower case."""
        return self.headers.get("content-type", "application/json").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """Return the body as JSON. Raises `Invalid`: such a request can never be parsed."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Invalid(f"the body is not JSON: {error}") from error

    def form(self) -> dict[str, Any]:
        """Return the fields of a form; a repeated one is a list. Raises `Invalid` when it is not UTF-8."""
        try:
            fields = parse_qs(self.body.decode(), keep_blank_values=True, errors="strict")
        except ValueError as error:
            raise Invalid(f"the body is not a form: {error}") from error
        return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


class ParsedEvent(msgspec.Struct, frozen=True):
    """One thing that happened: a dotted type and its data. `headers` are those of the request that mean something."""

    type: str
    data: Any
    headers: dict[str, str] = {}
