"""The head of a request to the proxy: `CONNECT host:port`, or any method with an `http://` address. Pure.

Read strictly: its author is not trusted, and every server must read the forwarded head alike. A connection carries one
request and sends `Connection: close`, so that a second request cannot ride on the first one's answer.
"""

import base64
import hmac
import re

import msgspec

from shared.egress.policy import Target, target

USER = "run"
"""The user in a proxy's address, where a token follows; it means nothing."""

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e\x80-\xff]+) (HTTP/1\.[01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_ABSOLUTE = re.compile(rb"http://([^/?#]*)([^#]*)(?:#.*)?", re.IGNORECASE)
_HOP = {b"host", b"connection", b"proxy-connection", b"proxy-authorization", b"keep-alive", b"te", b"upgrade"}
"""Fields that end here, besides those that `Connection` names."""
_FRAMING = {b"content-length", b"transfer-encoding"}
"""These never do: the body is passed on as it comes."""


class MalformedRequest(Exception):
    """It is no request that a proxy can serve; the message is ASCII."""


class ProxyRequest(msgspec.Struct, frozen=True):
    """A request to the proxy. `head` goes to the other side before the rest of the stream; empty for a tunnel."""

    target: Target
    head: bytes
    authorization: bytes
    is_tunnel: bool


def parse(head: bytes) -> ProxyRequest:
    """Read everything up to and including the empty line. Raises `MalformedRequest`."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise MalformedRequest("the request line is malformed")
    fields: list[tuple[bytes, bytes, bytes]] = []
    for one in lines:
        field = _FIELD.fullmatch(one)
        if field is None:
            raise MalformedRequest("a header field is malformed")
        fields.append((field[1].lower(), field[2], one))
    authorization = next((value for name, value, _ in fields if name == b"proxy-authorization"), b"")
    method, address, version = line.groups()
    if method == b"CONNECT":
        return ProxyRequest(_target(address, None), b"", authorization, is_tunnel=True)
    absolute = _ABSOLUTE.fullmatch(address)
    if absolute is None:
        raise MalformedRequest("a proxy serves CONNECT host:port and addresses with http:// only")
    authority, path = absolute.groups()
    path = path if path.startswith(b"/") else b"/" + path
    named = {one.strip().lower() for name, value, _ in fields if name == b"connection" for one in value.split(b",")}
    passed = [whole for name, _, whole in fields if name not in _HOP | named - _FRAMING]
    wanted = _target(authority, 80)
    lines = [b"%b %b %b" % (method, path, version), b"Host: " + authority, *passed, b"Connection: close", b"", b""]
    return ProxyRequest(wanted, b"\r\n".join(lines), authorization, is_tunnel=False)


def knows(authorization: bytes, token: str) -> bool:
    """Return whether a `Proxy-Authorization` holds the token; takes equally long for every wrong one."""
    expected = b"Basic " + base64.b64encode(f"{USER}:{token}".encode())
    return hmac.compare_digest(authorization, expected)


def _target(authority: bytes, default_port: int | None) -> Target:
    try:
        return target(authority.decode("ascii"), default_port)
    except UnicodeDecodeError:
        raise MalformedRequest("the host is not ASCII: write it in its xn-- form") from None
    except ValueError as error:
        raise MalformedRequest(str(error)) from None
