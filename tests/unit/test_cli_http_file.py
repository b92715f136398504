"""Recorded requests as people save them."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from millrace.cli.http_file import request_of

HEAD = "POST /hooks/abc?a=1&b HTTP/1.1\r\nHost: h\r\nX-Sig: a:b\r\nContent-Length: 3\r\n"


def body_of(found: dict[str, Any]) -> bytes:
    return base64.b64decode(found["body_base64"])


@pytest.mark.parametrize(("end", "rest"), [("\r\n", b"a\r\n"), ("\n", b"a\r\n"), ("\n", b"a\r\n\n"), ("\r\n", b"a\r\n\r\n \n")])
def test_a_body_is_read_to_its_bytes_whichever_line_ends_the_head_has(end: str, rest: bytes) -> None:
    found = request_of(HEAD.replace("\r\n", end).encode() + end.encode() + rest)
    assert (found["method"], found["query"], body_of(found)) == ("POST", "a=1&b", b"a\r\n")
    headers = [(one["name"], one["value"]) for one in found["headers"]]
    assert headers == [("Host", "h"), ("X-Sig", "a:b"), ("Content-Length", "3")]


def test_without_a_length_the_body_is_all_that_follows() -> None:
    assert body_of(request_of(b"POST /x\n\n{}\n")) == b"{}\n"
    assert body_of(request_of(b"GET /x?c=1")) == b""
    # More than a blank line behind it: the length is wrong, and the body stays for the explanation.
    assert body_of(request_of(HEAD.encode() + b"\r\nlonger")) == b"longer"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line"),
        ("{}", "first line"),
        ("post /x", "first line"),
        ("POST /x\nno header\n\n", "Line 2"),
        ("POST /x\nTransfer-Encoding: chunked\n\n2", "chunked"),
    ],
)
def test_what_is_no_request_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        request_of(text.encode())
