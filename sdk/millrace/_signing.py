"""Signs a request as a declared scheme verifies it: the inverse of `millrace._signatures`."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from millrace._adapters import Request
from millrace._schemes import Place, Scheme
from millrace._signatures import PUBLIC, digest_of, key_of, named, texts, written

_ONE_PLACE = ("signature", "timestamp", "body_digest", "delivery")


def scheme_of(document: Mapping[str, Any]) -> Scheme:
    """Return the scheme that a document declares. Raises ValueError for one of another version."""
    known = {one.name for one in fields(Scheme)}
    given = {name: value for name, value in document.items() if value is not None and name != "certificate"}
    try:
        made: dict[str, Any] = {name: Place(**one) if name in _ONE_PLACE else one for name, one in given.items() if name in known}
        made["values"] = {name: Place(**one) for name, one in given.get("values", {}).items()}
        made["when"] = tuple((Place(**one), wanted) for one, wanted in given.get("when", ()))
        made["delivery_with"] = tuple(Place(**one) for one in given.get("delivery_with", ()))
        return Scheme(**made)
    except TypeError as error:
        msg = f"this version cannot read how the source is verified: {error}"
        raise ValueError(msg) from error


def prepared(schemes: Iterable[Scheme], request: Request, delivery: str) -> Request:
    """Return a request with the sender's id of the delivery, where the first scheme has a place for it in the head."""
    for scheme in schemes:
        place = scheme.delivery
        if place is not None and (place.header or place.query) and not texts(place, request):
            return _put(request, place, delivery)
        break
    return request


def signed(schemes: Iterable[Scheme], request: Request, secret: str, now: float, delivery: str) -> Request:
    """Return a request as the sender signs it, by the first scheme by which that can be done; what it has already stays.

    `delivery` is the sender's id of it, `now` the time in epoch seconds. Raises ValueError with the reason where none can.
    """
    reasons = []
    for scheme in schemes:
        try:
            return _signed(scheme, request, secret, now, delivery)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(reasons[0] if reasons else "its source is verified by something else than an HMAC or a fixed token")


def _signed(scheme: Scheme, request: Request, secret: str, now: float, delivery: str) -> Request:
    if scheme.algorithm in PUBLIC:
        msg = f"only the sender has the private key of {scheme.algorithm}"
        raise ValueError(msg)
    if scheme.each is not None:
        msg = f"each item of {scheme.each} in the body is signed for itself"
        raise ValueError(msg)
    for place, wanted in scheme.when:
        if texts(place, request)[:1] != [wanted]:
            request = _put(request, place, wanted)
    if scheme.body_digest is not None and not texts(scheme.body_digest, request):
        request = _put(request, scheme.body_digest, hashlib.sha256(request.body).hexdigest())
    if scheme.timestamp is not None and not texts(scheme.timestamp, request):
        request = _put(request, scheme.timestamp, _time(scheme, now))
    request = prepared([scheme], request, delivery)
    values = {}
    for name, place in scheme.values.items():
        if not texts(place, request):
            if name != "id":
                msg = f"it needs the {named(place)}: give it"
                raise ValueError(msg)
            request = _put(request, place, delivery)
        values[name] = texts(place, request)[0]
    if scheme.timestamp is not None:
        values["timestamp"] = texts(scheme.timestamp, request)[0]
    if scheme.signature is None:
        return request
    key = key_of(scheme, secret)
    if scheme.algorithm == "token":
        token = key.decode() if scheme.encoding == "text" else written(scheme.encoding, key).decode()
        return _put(request, scheme.signature, token)
    return _put(request, scheme.signature, written(scheme.encoding, digest_of(scheme, request, values, key)).decode())


def _time(scheme: Scheme, now: float) -> str:
    if scheme.timestamp_unit == "rfc3339":
        return datetime.fromtimestamp(int(now), UTC).isoformat()
    return str(int(now * 1000) if scheme.timestamp_unit == "ms" else int(now))


def _put(request: Request, place: Place, text: str) -> Request:
    """Return a request with a text at a place in its head. Raises ValueError where its place is the body."""
    part = f"{place.prefix}{text}{place.suffix}"
    if place.header is not None:
        before = request.headers.get(place.header)
        kept = tuple((name, value) for name, value in request.all_headers if name != place.header)
        joined = part if before is None or not place.separator else f"{before}{place.separator}{part}"
        return replace(request, all_headers=(*kept, (place.header, joined)))
    if place.query is not None:
        query = (*((name, value) for name, value in request.all_query if name != place.query), (place.query, part))
        return replace(request, all_query=query, url=urlsplit(request.url)._replace(query=urlencode(query)).geturl())
    msg = f"the {named(place)} is in the body: put it there"
    raise ValueError(msg)
