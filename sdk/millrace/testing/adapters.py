"""One recorded request to an adapter, in this process."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from millrace import _signatures
from millrace._adapters import Declared, Event, Request, Response, Unverified, adapter_of, answered
from millrace._recorded import parsed
from millrace._runtime.encode import to_json
from millrace._schemes import AnyScheme, Handshake, MessageSignature, Place, WebToken

BASE = "https://hooks.example"
_REDACTED = ("authorization", "cookie", "proxy-authorization")


@dataclass(frozen=True)
class Received:
    """What became of a request. `status` is the sender's answer: 202 with the `events`, 200 of a handshake, 401 with the `reason`.

    `delivery` is the sender's own id of the delivery.
    """

    status: int
    events: list[Event] = field(default_factory=list)
    delivery: str | None = None
    reason: str | None = None
    response: Response | None = None


def recorded(file: str | bytes | Path, url: str = BASE) -> Request:
    """Read a request as HTTP/1.1 has it: the file of that path, or the bytes themselves. `url` is the source's address.

    Raises ValueError with a sentence that names what is wrong.
    """
    read = parsed(file if isinstance(file, bytes) else Path(file).read_bytes())
    query = tuple(parse_qsl(urlsplit(read.target).query, keep_blank_values=True))
    whole = url + read.target if url == BASE else url + (f"?{urlsplit(read.target).query}" if query else "")
    headers = tuple((name.lower(), value) for name, value in read.headers)
    return Request(method=read.method, url=whole, all_headers=headers, all_query=query, body=read.body)


def receive(
    adapter: type,
    request: Request | str | bytes | Path,
    /,
    *,
    secrets: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    at: float | None = None,
) -> Received:
    """Have an adapter take a request, as a source with these secrets and settings would; `at` is when, in epoch seconds, else now.

    What `parse` answers goes through JSON, as it would. What the adapter's code raises is raised here. Schemes of a public key are
    not verified here: NotImplementedError. Raises TypeError where it is given no adapter.
    """
    declared = adapter_of(adapter)
    if declared is None:
        msg = f"{getattr(adapter, '__name__', adapter)!r} is no adapter: it has no @adapter"
        raise TypeError(msg)
    given = request if isinstance(request, Request) else recorded(request)
    known = {**(settings or {}), **(secrets or {})}
    asked = replace(given, settings=dict(settings or {}), secrets=dict(secrets or {}))
    try:
        found = _judged(adapter, declared, asked, known, time.time() if at is None else at)
    except Unverified as error:
        return Received(401, reason=str(error))
    if isinstance(found, Response):
        return Received(found.status, response=found)
    kept = _as_kept(asked, declared)
    document = json.loads(to_json(answered(adapter(), "parse", kept), what="the events", rich=True))
    events = [Event(one["type"], one["data"], one["headers"]) for one in document["events"]]
    return Received(202, events or [Event("webhook")], found)


def _judged(adapter: type, declared: Declared, request: Request, keys: Mapping[str, Any], now: float) -> Response | str | None:
    """Answer a handshake, or the sender's id of a genuine delivery. Raises `Unverified`."""
    for handshake in declared.handshakes:
        if not handshake.signed and (response := _greeting(handshake, request, keys)) is not None:
            return response
    if not declared.schemes:
        return _of_code(answered(adapter(), "receive", request))
    try:
        delivery = _signatures.verify(declared.schemes, request, keys, now)
    except Unverified:
        asked = answered(adapter(), "handshake", request)
        if "reply" not in asked:
            raise
        return _of_code(asked)
    for handshake in declared.handshakes:
        if handshake.signed and (response := _greeting(handshake, request, keys)) is not None:
            return response
    return delivery


def _of_code(answer: dict[str, Any]) -> Response | str | None:
    if "refused" in answer:
        raise Unverified(answer["refused"])
    if "reply" in answer:
        reply = answer["reply"]
        body = base64.b64decode(reply["body_base64"])
        return Response(body, reply["status"], reply["content_type"], reply["headers"])
    delivery: str | None = answer["delivery"]
    return delivery


def _greeting(handshake: Handshake, request: Request, keys: Mapping[str, Any]) -> Response | None:
    """Answer a request that is a declared handshake, else None. Raises `Unverified` for a wrong token."""
    try:
        is_meant = request.method == handshake.method and all(
            _signatures.texts(place, request)[:1] == [wanted] for place, wanted in handshake.when
        )
        challenge = "" if handshake.challenge is None else (_signatures.texts(handshake.challenge, request) or [""])[0]
        token = "" if handshake.token is None else (_signatures.texts(handshake.token, request) or [""])[0]
    except Unverified:
        return None
    if not is_meant or (handshake.challenge is not None and not challenge):
        return None
    known = [str(keys[name]).encode() for name in handshake.keys if name in keys]
    if handshake.token is not None and not any(hmac.compare_digest(token.encode(), one) for one in known):
        raise Unverified(f"the {_signatures.named(handshake.token)} is not this source's")
    made = hmac.digest(known[0], challenge.encode(), "sha256") if handshake.digest is not None else b""
    digest = made.hex() if handshake.encoding == "hex" else base64.b64encode(made).decode()

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: filled(one) for name, one in value.items()}
        return value.replace("{challenge}", challenge).replace("{digest}", digest) if isinstance(value, str) else value

    headers = {name: filled(text) for name, text in handshake.headers.items()}
    if handshake.json is not None:
        return Response(json.dumps(filled(handshake.json), separators=(",", ":")), handshake.status, "application/json", headers)
    return Response(filled(handshake.text), handshake.status, "text/plain", headers)


def _proof(scheme: AnyScheme) -> Place | None:
    if isinstance(scheme, MessageSignature):
        return None
    return scheme.token if isinstance(scheme, WebToken) else scheme.signature


def _as_kept(request: Request, declared: Declared) -> Request:
    """Return a request as it is kept with its delivery, without signatures, credentials and the source's secrets."""
    places = [*declared.credentials, *(place for one in declared.schemes if (place := _proof(one)) is not None)]
    headers = {*_REDACTED, *(one.header for one in places if one.header is not None)}
    parameters = {"access_token", *(one.query.lower() for one in places if one.query is not None)}
    secrets = [one for secret in request.secrets.values() if (one := secret.strip())]

    def kept(pairs: tuple[tuple[str, str], ...], hidden: set[str]) -> tuple[tuple[str, str], ...]:
        held = [name.lower() in hidden or any(one in value for one in secrets) for name, value in pairs]
        return tuple((name, "[redacted]" if is_held else value) for (name, value), is_held in zip(pairs, held, strict=True))

    # The platform's has no query either.
    url = request.url.partition("?")[0]
    return replace(request, url=url, all_headers=kept(request.all_headers, headers), all_query=kept(request.all_query, parameters))
