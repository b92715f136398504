"""Documents as bytes: JSON with what no encoder writes, and what is done to whole documents."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

from tests.fuzz.hostile import Literal


def encoded(value: Any) -> bytes:
    """Return a JSON value that may hold `Literal`s. Half a surrogate pair becomes its escape; all else is UTF-8."""
    return _text(value).encode()


def _text(value: Any) -> str:
    if isinstance(value, Literal):
        return value.text
    if isinstance(value, dict):
        return "{" + ",".join(f"{_text(str(key))}:{_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    return json.dumps(value, ensure_ascii=True)


def _twice(document: bytes) -> bytes:
    """Have every key of the outermost object twice."""
    return document[:-1] + b"," + document[1:] if document[:1] == b"{" and len(document) > 2 else document + document


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty-body": lambda _: b"",
    "truncated": lambda document: document[: len(document) // 2],
    "trailing": lambda document: document + b" x",
    "duplicate-keys": _twice,
    "bom": lambda document: b"\xef\xbb\xbf" + document,
    "utf-16": lambda document: document.decode(errors="replace").encode("utf-16"),
    "utf-32": lambda document: document.decode(errors="replace").encode("utf-32-le"),
    "latin-1": lambda document: document.replace(b'"a"', b'"\xe9"') + b"\xe9",
    "invalid-utf-8": lambda document: document[:-1] + b',"\xff\xfe":"\xc0\x80\xed\xa0\x80"}',
    "raw-nul": lambda document: document[:1] + b"\0" + document[1:],
    "gzip": gzip.compress,
    "not-json": lambda _: b"<?xml version='1.0'?><a>&b;</a>",
    "form": lambda _: b"a=1&b=%00&c=%E9&%FF=%ud800&payload=%7B%22a%22%3A%22%5Cu0000%22%7D",
    "scalar": lambda _: b"7",
    "list": lambda document: b"[" + document + b"]",
    "text": lambda document: json.dumps(document.decode(errors="replace")).encode(),
    "depth-body": lambda _: b"[" * 100_000 + b"]" * 100_000,
    "deep-unclosed": lambda _: b'{"a":' * 100_000,
    "digits": lambda _: b"1" * 100_000,
    "unknown-field": lambda document: document[:-1] + b',"zz\\u0000":{"a":"\\ud800"}}' if document[-1:] == b"}" else document,
    "multipart": lambda document: (
        b'--x\r\nContent-Disposition: form-data; name="a\0"; filename="\xff"\r\n\r\n' + document + b"\r\n--x--\r\n"
    ),
}
