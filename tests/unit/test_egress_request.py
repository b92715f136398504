"""A proxy request means one thing, or it is refused."""

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.sandbox.egress.request import MalformedRequest, knows, parse


def head(*lines: str) -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def test_a_tunnel_names_host_and_port_and_passes_nothing_on() -> None:
    request = parse(head("CONNECT api.example.com:443 HTTP/1.1", "Host: other.example", "Proxy-Authorization: Basic eA=="))
    assert (request.target.host, request.target.port, request.head) == ("api.example.com", 443, b"")
    assert request.is_tunnel
    assert request.authorization == b"Basic eA=="


def test_a_plain_request_is_passed_on_as_a_server_wants_it() -> None:
    request = parse(
        head(
            "POST http://API.example.com:8080/a%20b?q=http://x/#frag HTTP/1.1",
            "Host: internal.example",
            "Proxy-Authorization: Basic eA==",
            "Proxy-Connection: keep-alive",
            "Connection: keep-alive, X-Mine, transfer-encoding",
            "Transfer-Encoding: chunked",
            "X-Mine: for the proxy",
            "X-Other:  kept ",
            "Cookie: a=b",
        )
    )
    assert (request.target.host, request.target.port) == ("api.example.com", 8080)
    assert request.head == head(
        "POST /a%20b?q=http://x/ HTTP/1.1",
        "Host: API.example.com:8080",
        "Transfer-Encoding: chunked",
        "X-Other:  kept ",
        "Cookie: a=b",
        "Connection: close",
    )


@pytest.mark.parametrize(
    ("address", "path"), [("http://a.example", "/"), ("HTTP://a.example?x=1", "/?x=1"), ("http://a.example#f", "/")]
)
def test_an_address_without_a_path_asks_for_the_root(address: str, path: str) -> None:
    request = parse(head(f"GET {address} HTTP/1.0"))
    assert request.head.startswith(f"GET {path} HTTP/1.0\r\nHost: a.example\r\n".encode())
    assert request.target.port == 80


@pytest.mark.parametrize(
    "lines",
    [
        ["GET / HTTP/1.1", "Host: a.example"],
        ["GET https://a.example/ HTTP/1.1"],
        ["GET ftp://a.example/ HTTP/1.1"],
        ["GET http:///x HTTP/1.1"],
        ["GET http://user:pass@a.example/ HTTP/1.1"],
        ["GET http://a.example/ HTTP/2.0"],
        ["GET http://a.example/"],
        ["GET  http://a.example/ HTTP/1.1"],
        ["GET http://a.example/ x HTTP/1.1"],
        ["G@T http://a.example/ HTTP/1.1"],
        ["CONNECT a.example HTTP/1.1"],
        ["CONNECT http://a.example:443 HTTP/1.1"],
        ["CONNECT a.example:443/ HTTP/1.1"],
        ["connect a.example:443 HTTP/1.1"],
        ["CONNECT \xe4.example:443 HTTP/1.1"],
        ["CONNECT a.example:443 HTTP/1.1", " folded: x"],
        ["CONNECT a.example:443 HTTP/1.1", "no colon"],
        ["CONNECT a.example:443 HTTP/1.1", "space : x"],
        ["CONNECT a.example:443 HTTP/1.1", "nul: \0"],
        ["CONNECT a.example:443 HTTP/1.1", "bare: a\rb"],
        ["CONNECT a.example:443 HTTP/1.1", "bare: a\nX: b"],
        [""],
    ],
)
def test_what_is_ambiguous_is_refused(lines: list[str]) -> None:
    with pytest.raises(MalformedRequest) as caught:
        parse(head(*lines))
    assert str(caught.value).isascii()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_request_or_malformed(data: bytes) -> None:
    for whole in (data, b"GET http://a.example/" + data, b"CONNECT " + data, b"GET http://a.example/ HTTP/1.1\r\n" + data):
        with contextlib.suppress(MalformedRequest):
            assert parse(whole + b"\r\n\r\n").target.host.isascii()


@given(st.binary(max_size=60))
def test_no_field_smuggles_a_line_or_a_second_head(value: bytes) -> None:
    try:
        request = parse(b"GET http://a.example/ HTTP/1.1\r\nX: " + value + b"\r\n\r\n")
    except MalformedRequest:
        return
    lines = request.head.split(b"\r\n")
    assert request.head.count(b"\r\n\r\n") == 1
    assert b"\n" not in request.head.replace(b"\r\n", b"")
    assert lines[1] == b"Host: a.example"
    assert lines.count(b"Connection: close") == 1


def test_only_the_whole_token_is_known() -> None:
    def basic(text: str) -> bytes:
        return b"Basic " + base64.b64encode(text.encode())

    assert knows(basic("run:sesame"), "sesame")
    for wrong in (
        b"",
        b"Basic",
        basic("run:"),
        basic("run:sesam"),
        basic("run:sesame2"),
        basic("x:sesame"),
        b"Bearer sesame",
        b"\xff\0",
    ):
        assert not knows(wrong, "sesame")
