"""Verifies requests by a declared scheme without the platform, and signs them, for symmetric keys and tokens.

The gateway has the interpreter that counts; a test of Millrace holds the two against each other over published requests.
"""

import base64
import binascii
import hashlib
import hmac
import json
import string
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from millrace._adapters import Request, Unverified
from millrace._schemes import AnyScheme, Place, Scheme

PUBLIC = ("ed25519", "ecdsa-p256-sha256", "rsa-v1_5-sha256", "rsa-v1_5-sha1")


def verify(schemes: Sequence[AnyScheme], request: Request, keys: Mapping[str, str], now: float) -> str | None:
    """Answer the sender's id of the delivery, None without one, of a request that any scheme verifies. Raises `Unverified`.

    `keys` are the source's settings by name. Raises NotImplementedError where only a public key could tell.
    """
    reasons = []
    for scheme in schemes:
        try:
            if not isinstance(scheme, Scheme):
                msg = f"a {type(scheme).__name__} is verified by the platform only: try `millrace sources test`"
                raise NotImplementedError(msg)
            _verify(scheme, request, keys, now)
        except Unverified as error:
            reasons.append(str(error))
        else:
            return _delivery(scheme, request)
    raise Unverified(reasons[0] if reasons else "nothing can be verified here")


def texts(place: Place, request: Request, item: Any = None) -> list[str]:
    """Answer the texts at a place; `item` is where JSON paths begin, None for the whole body."""
    found = _found(place, request, item)
    usual = [] if place.default is None else [place.default]
    if not found:
        return usual
    parts = [part.strip() for part in found.split(place.separator)] if place.separator else [found]
    ends = len(place.prefix) + len(place.suffix)
    meant = [one for one in parts if len(one) >= ends and one.startswith(place.prefix) and one.endswith(place.suffix)]
    return [one[len(place.prefix) : len(one) - len(place.suffix)] for one in meant] or usual


def named(place: Place) -> str:
    """Answer a place's name for a person."""
    kinds = {"header": place.header, "query parameter": place.query, "field": place.form, "in the body": place.json}
    return next(f"{name} {kind}" for kind, name in kinds.items() if name is not None)


def _verify(scheme: Scheme, request: Request, keys: Mapping[str, str], now: float) -> None:
    for place, wanted in scheme.when:
        if texts(place, request)[:1] != [wanted]:
            raise Unverified(f"the {named(place)} is not {wanted!r}")
    if scheme.body_digest is not None:
        given = (texts(scheme.body_digest, request) or [""])[0]
        if given.lower() != hashlib.sha256(request.body).hexdigest():
            raise Unverified(f"the {named(scheme.body_digest)} is not the body's digest")
    if scheme.algorithm == "none":
        return
    if scheme.algorithm in PUBLIC:
        msg = f"{scheme.algorithm} is verified by the platform only: try `millrace sources test`"
        raise NotImplementedError(msg)
    items = [None] if scheme.each is None else _at(_document(request), scheme.each)
    if not isinstance(items, list) or not items:
        raise Unverified(f"{scheme.each} in the body is no list of signed items")
    for item in items:
        _verify_item(scheme, request, keys, now, {} if item is None and scheme.each is not None else item)


def _verify_item(scheme: Scheme, request: Request, keys: Mapping[str, str], now: float, item: Any) -> None:
    if scheme.signature is None:
        raise Unverified("a scheme has a signature, or the algorithm none")
    given = texts(scheme.signature, request, item)
    if not given:
        raise Unverified(f"there is no {named(scheme.signature)}")
    values = {name: _only(place, request, item) for name, place in scheme.values.items()}
    if scheme.timestamp is not None:
        values["timestamp"] = _time(scheme, _only(scheme.timestamp, request, item), now)
    if not any(name in keys for name in scheme.keys):
        raise Unverified(f"no secret was given: this scheme is verified by {' or '.join(scheme.keys)}")
    found = False
    for name in scheme.keys:
        if name not in keys:
            continue
        key = key_of(scheme, keys[name])
        if scheme.algorithm == "token":
            found |= any(hmac.compare_digest(one.encode(), key) for one in given)
            continue
        digest = digest_of(scheme, request, values, key)
        found |= any(hmac.compare_digest(written(scheme.encoding, digest), _comparable(scheme.encoding, one)) for one in given)
    if not found:
        raise Unverified(f"the {named(scheme.signature)} does not match")


def digest_of(scheme: Scheme, request: Request, values: Mapping[str, str], key: bytes) -> bytes:
    """Return the signature of a request, with the `values` that stand in the template."""
    signed = _signed(scheme, request, values, key)
    kind = scheme.algorithm.removeprefix("hmac-")
    return hashlib.new(kind, signed).digest() if kind == scheme.algorithm else hmac.digest(key, signed, kind)


def _signed(scheme: Scheme, request: Request, values: Mapping[str, str], key: bytes) -> bytes:
    parts: list[bytes] = []
    for text, name, _, _ in string.Formatter().parse(scheme.template):
        parts.append(text.encode())
        if name == "body":
            parts.append(request.body)
        elif name == "secret":
            parts.append(key)
        elif name is not None:
            parts.append((values[name] if name in values else _of_request(name, request)).encode())
    return b"".join(parts)


def _of_request(name: str, request: Request) -> str:
    parts = urlsplit(request.url)
    if name == "method":
        return request.method
    if name == "url":
        return request.url
    if name == "authority":
        return parts.netloc
    if name == "url_other_port":
        host, colon, port = parts.netloc.rpartition(":")
        other = host if colon and port.isdigit() else f"{parts.netloc}:{80 if parts.scheme == 'http' else 443}"
        return parts._replace(netloc=other).geturl()
    form = request.form()
    return "".join(field + value for field in sorted(form) for value in sorted(set(form[field])))


def _delivery(scheme: Scheme, request: Request) -> str | None:
    found: list[str] = []
    for place in (scheme.delivery, *scheme.delivery_with):
        try:
            found += [] if place is None else texts(place, request)[:1]
        except Unverified:
            if place is None or place.header is not None or place.query is not None:
                raise
            # A sender's bodies are not all of one kind.
        if not found:
            return None
    return " ".join(found)


def _found(place: Place, request: Request, item: Any) -> str | None:
    if place.json is not None:
        value = _at(_document(request) if item is None else item, place.json)
        if isinstance(value, bool):
            return "true" if value else "false"
        return str(value) if isinstance(value, str | int | float) else None
    if place.header is not None:
        values = [value for name, value in request.all_headers if name.lower() == place.header]
    elif place.query is not None:
        values = [value for name, value in request.all_query if name == place.query]
    else:
        values = [value for name, value in parse_qsl(request.text(), keep_blank_values=True) if name == place.form]
    if len(values) > 1:
        raise Unverified(f"the {named(place)} stands more than once")
    return values[0] if values else None


def _only(place: Place, request: Request, item: Any) -> str:
    found = texts(place, request, item)
    if len(found) != 1:
        raise Unverified(f"there is no {named(place)}" if not found else f"the {named(place)} stands more than once")
    return found[0]


def _document(request: Request) -> Any:
    try:
        return json.loads(request.body)
    except ValueError as error:
        raise Unverified(f"the body cannot be read: {error}") from error


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _time(scheme: Scheme, given: str, now: float) -> str:
    try:
        if scheme.timestamp_unit == "rfc3339":
            seconds = datetime.fromisoformat(given).timestamp()
        else:
            seconds = int(given) / (1000 if scheme.timestamp_unit == "ms" else 1)
    except ValueError as error:
        raise Unverified("the timestamp is no time") from error
    if abs(now - seconds) > scheme.tolerance:
        raise Unverified(f"the timestamp is more than {scheme.tolerance:g} s from now")
    return given


def key_of(scheme: Scheme, setting: str) -> bytes:
    """Return the key that a setting holds. Raises ValueError."""
    text = setting.removeprefix(scheme.key_prefix)
    try:
        if scheme.key_encoding == "hex":
            return bytes.fromhex(text)
        if scheme.key_encoding == "base64":
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        msg = f"a key is no {scheme.key_encoding}"
        raise ValueError(msg) from error
    return text.encode()


def written(encoding: str, digest: bytes) -> bytes:
    """Return a signature as it is sent."""
    if encoding == "hex":
        return digest.hex().encode()
    return base64.b64encode(digest) if encoding == "base64" else base64.urlsafe_b64encode(digest).rstrip(b"=")


def _comparable(encoding: str, given: str) -> bytes:
    text = given.lower() if encoding == "hex" else given.rstrip("=") if encoding == "base64url" else given
    return text.encode()
