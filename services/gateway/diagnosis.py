"""Explains why a recorded request is not genuine. Nothing that it says tells a secret, or a signature that would be right."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from services.gateway.received import Received
from services.gateway.schemes import Scheme
from services.gateway.verifier import AnyScheme, Verifier
from shared.errors import Unauthenticated

# Headers that a signature may be in, for one that is looked for in another.
_TELLING = ("sign", "token", "hmac", "authorization")
_OTHER = {"http": "https", "https": "http"}


def reasons(verifier: Verifier, received: Received, now: float) -> list[str]:
    """Return for each scheme that may be meant why a request is refused: those whose signature is there, else the first."""
    meant = [scheme for scheme in verifier.schemes if scheme.holds(received)] or list(verifier.schemes[:1])
    found = [_reason(scheme, received, now) for scheme in meant]
    said = [*dict.fromkeys(one for one in found if one is not None), *_lengths(received)]
    return said or ["nothing can be verified here: the source has no key, or no address"]


def _reason(scheme: AnyScheme, received: Received, now: float) -> str | None:
    why = _refusal(scheme, received, now)
    if why is None or not isinstance(scheme, Scheme):
        return why
    stated = scheme.stated_time(received)
    away = 0.0 if stated is None else now - stated
    if stated is not None and abs(away) > scheme.declared.tolerance:
        side = "before" if away > 0 else "after"
        said = f"the timestamp is {abs(away):.0f} s {side} the time of this test, and {scheme.declared.tolerance:g} s are allowed"
        then = _refusal(scheme, received, stated)
        return f"{said}; {'the signature itself is right' if then is None else f'and {_mismatch(scheme, received, stated, then)}'}"
    return _mismatch(scheme, received, now, why)


def _mismatch(scheme: Scheme, received: Received, now: float, why: str) -> str:
    """Return what makes a signature right, if anything that often happens does; else what is left."""
    place = scheme.declared.signature
    if why.startswith("there is no"):
        others = sorted({name.lower() for name in received.names if any(part in name.lower() for part in _TELLING)})
        return f"{why}; there {'are' if len(others) > 1 else 'is'} {', '.join(others)}" if others else why
    if why.endswith("expected form"):
        return f"{why}: {scheme.form}"
    if place is None or not why.endswith("does not match"):
        return why
    for said, other in _changed(received):
        if _refusal(scheme, other, now) is None:
            return f"{why}: {said}"
    for said, keys in _other_keys(scheme):
        if _refusal(scheme.with_keys(keys), received, now) is None:
            return f"{why}: {said}"
    if scheme.declared.algorithm == "token":
        return f"{why}: the sender has another one than the source"
    return f"{why}: another secret made it, or the body or another part that is signed was changed since"


def _refusal(scheme: AnyScheme, received: Received, now: float) -> str | None:
    try:
        scheme.verify(scheme.claim(received, now), received, now)
    except Unauthenticated as error:
        return error.detail
    return None


def _changed(received: Received) -> Iterator[tuple[str, Received]]:
    """Yield requests that differ as recorded ones often do from those that were sent."""
    body = received.body
    bodies: dict[str, bytes] = {
        "the body was changed: it has a line's end at its end that was not signed": body.rstrip(b"\r\n"),
        "the body was changed: the line's end at its end is missing": body + b"\n",
        "the body was changed: the line's end at its end (CR LF) is missing": body + b"\r\n",
        "the body was changed: its lines end in CR LF, and did not when it was signed": body.replace(b"\r\n", b"\n"),
        "the body was changed: its lines do not end in CR LF, as they did when it was signed": body.replace(b"\n", b"\r\n"),
    }
    for said, other in bodies.items():
        if other != body:
            yield said, received.having(body=other)
    for other in _rewritten(body):
        if other != body:
            yield (
                "the body was changed: its JSON was read and written anew, and has other spaces or escapes",
                received.having(body=other),
            )
    parts = urlsplit(received.base)
    if parts.scheme in _OTHER:
        other_base = parts._replace(scheme=_OTHER[parts.scheme]).geturl()
        yield f"it is for the address {other_base}…, and MILLRACE_PUBLIC_URL says {received.base}", received.having(base=other_base)
    path, mark, _ = received.target.partition("?")
    if mark:
        yield "it is for the address without its query", received.having(target=path)


def _rewritten(body: bytes) -> Iterator[bytes]:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        return
    for is_ascii in (False, True):
        for separators, indent in (((",", ":"), None), ((", ", ": "), None), ((",", ": "), 2), ((",", ": "), 4)):
            yield json.dumps(document, ensure_ascii=is_ascii, separators=separators, indent=indent).encode(errors="replace")


def _other_keys(scheme: Scheme) -> Iterator[tuple[str, list[bytes]]]:
    keys = scheme.keys
    yield "the secret has blanks or a line's end around it", [key.strip() for key in keys]
    yield "the secret lacks a line's end that the sender has with it", [key + b"\n" for key in keys]
    for said, read in (("base64", _from_base64), ("hexadecimal digits", _from_hex)):
        others = [other for key in keys if (other := read(key))]
        yield f"the sender signs with the bytes that the secret stands for as {said}, and the source with its text", others
    yield (
        "the sender signs with the secret's text, and the source with the bytes that it stands for",
        [
            *(base64.b64encode(key) for key in keys),
            *(key.hex().encode() for key in keys),
        ],
    )


def _from_base64(key: bytes) -> bytes | None:
    try:
        return base64.b64decode(key + b"=" * (-len(key) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_hex(key: bytes) -> bytes | None:
    try:
        return bytes.fromhex(key.decode())
    except ValueError:
        return None


def _lengths(received: Received) -> list[str]:
    given = received.headers.getall("Content-Length", ())
    if len(given) == 1 and given[0].isascii() and given[0].isdigit() and given[0] != str(len(received.body)):
        return [
            f"the body has {len(received.body)} bytes, and its Content-Length says {given[0][:20]}: it is not the one that was sent"
        ]
    return []
