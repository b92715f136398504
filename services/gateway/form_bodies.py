"""What a browser sends of a form: texts by their names, and files."""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import parse_qs

import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header

from shared.errors import Malformed
from shared.values import storable

MOST_PARTS = 500
# Bytes of all texts together; a file has its own bound.
MOST_TEXT = 256 * 1024
_MULTIPART = b"multipart/form-data"
# What a stranger sends that is no form is answered, and is no news for the log.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class SentFile(msgspec.Struct, frozen=True):
    """A file as it was sent, with the name and the type that its sender says."""

    name: str
    type: str
    content: bytes

    def __repr__(self) -> str:
        """Show none of the content."""
        return f"SentFile({len(self.content)} bytes)"


class SentForm(msgspec.Struct, frozen=True):
    """A form as it was sent; a name that comes again has its texts one a line."""

    texts: dict[str, str]
    files: dict[str, SentFile]


def read(body: bytes, content_type: str) -> SentForm:
    """Return a form that a browser has sent. Raises `Malformed`."""
    kind, options = parse_options_header(content_type)
    try:
        if kind == _MULTIPART:
            return _parts(body, options.get(b"boundary", b""))
        if len(body) > MOST_TEXT:
            raise Malformed(f"the texts of the form are more than {MOST_TEXT} bytes")
        sent = body.decode(errors="replace")
        found = parse_qs(sent, keep_blank_values=True, max_num_fields=MOST_PARTS)
    except (FormParserError, ValueError) as error:
        raise Malformed("this is no form as a browser sends it") from error
    return SentForm({storable(name): _several(values) for name, values in found.items()}, {})


def _parts(body: bytes, boundary: bytes) -> SentForm:
    """Return the parts of a form with files (RFC 7578)."""
    texts: dict[str, list[str]] = {}
    files: dict[str, SentFile] = {}
    left = MOST_PARTS

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise FormParserError("too many parts")

    def on_field(field: Field) -> None:
        count()
        texts.setdefault(storable(_text(field.field_name)), []).append(_text(field.value))
        if sum(len(one) for several in texts.values() for one in several) > MOST_TEXT:
            raise FormParserError("too much text")

    def on_file(file: File) -> None:
        count()
        file.file_object.seek(0)
        content = file.file_object.read()
        # A browser sends a file without a name and content where none was chosen.
        if file.file_name or content:
            kind = (file.content_type or "").partition(";")[0].strip().lower()
            files[storable(_text(file.field_name))] = SentFile(storable(_text(file.file_name)), storable(kind)[:100], content)

    # In memory: it is there already, and is counted.
    config: dict[str, Any] = {"MAX_MEMORY_FILE_SIZE": len(body) + 1, "UPLOAD_ERROR_ON_BAD_CTE": True}
    parser = FormParser("multipart/form-data", on_field, on_file, boundary=boundary, config=config)
    try:
        parser.write(body)
        parser.finalize()
    finally:
        parser.close()
    return SentForm({name: _several(values) for name, values in texts.items()}, files)


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _several(values: list[str]) -> str:
    return values[0] if len(values) == 1 else "\n".join(values)
