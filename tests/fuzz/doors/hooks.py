"""Webhooks: signed bodies to every adapter, whatever they hold, and what is not signed as it should be."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import uuid
from typing import Any

import msgspec

from tests.fuzz.cases import Case, Target
from tests.fuzz.documents import DAMAGES, encoded
from tests.fuzz.doors import REFUSED, STORED, UNANSWERED, Outcome, Wrong
from tests.fuzz.doors.http import judged
from tests.fuzz.place import SECRET, STANDARD_SECRET, Place, Source, quoted
from tests.fuzz.shapes import placed, spots, without
from tests.fuzz.wire import Client, Unanswered

BODY: dict[str, Any] = {
    "action": "opened",
    "type": "order.completed",
    "kind": {"of": "order"},
    "n": 1,
    "a": {"b": 2},
    "at": "2026-11-01T00:00:00Z",
    "list": [{"price": 1.5}],
}
CONTENT_TYPES = (
    *("application/json", "application/json; charset=utf-8", "application/json; charset=iso-8859-1", "text/plain; charset=utf-16"),
    *("application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=nowhere", "multipart/form-data; boundary=x"),
    *(
        "application/xml",
        "application/octet-stream",
        "text/plain; charset=\xff",
        "a/b; c",
        "",
        "application/cloudevents+json",
        "image/png",
    ),
)
ENCODINGS = ("gzip", "identity", "br", "x")
HEADERS = (
    *("Content-Type", "Content-Encoding", "X-GitHub-Event", "X-GitHub-Delivery", "X-Id", "webhook-id", "webhook-timestamp"),
    *("webhook-signature", "X-Hub-Signature-256", "X-Signature", "User-Agent", "X-Anything", "X-Forwarded-For", "Cookie"),
)
METHODS = ("POST", "POST", "POST", "POST", "POST", "PUT", "GET", "HEAD", "DELETE", "OPTIONS")


class Hooks:
    """Every source, signed and not."""

    name = "hooks"
    most = 8

    def __init__(self, place: Place) -> None:
        self._place = place
        self._idle: list[Client] = []
        self._accepted: set[str] = set()
        self.sources = {source.name: source for source in place.sources}

    def targets(self) -> list[Target]:
        """Return every source, and what claims to be from its sender."""
        declared = tuple(spots(BODY))
        texts = tuple(f"header:{name}" for name in HEADERS)
        signed = [Target(f"{name} signed", declared, texts, 8) for name in self.sources]
        unsigned = [Target(f"{name} unsigned", declared, (*texts, "query:a", "path:id"), 1) for name in self.sources]
        return signed + unsigned

    async def send(self, case: Case) -> Outcome:
        """Send a webhook."""
        name, _, how = case.target.partition(" ")
        method, target, headers, body = self.request(self.sources[name], case, signed=how == "signed")
        client = self._idle.pop() if self._idle else self._place.client()
        try:
            answer = await client.request(method, target, headers, body)
        except Unanswered as error:
            raise Wrong(f"no answer: {error}", UNANSWERED) from error
        finally:
            self._idle.append(client)
        outcome = judged(case, answer)
        if answer.status in {200, 202} and method == "POST":
            self._accepted.add(msgspec.json.decode(answer.body)["id"])
            return outcome
        return Outcome(REFUSED if answer.status >= 400 else STORED, outcome.said)

    async def settled(self) -> list[str]:
        """Wait until each delivery that was admitted has its end."""
        waiting, self._accepted = self._accepted, set()
        return await self._place.unsettled(waiting)

    def request(self, source: Source, case: Case, *, signed: bool) -> tuple[str, bytes, list[tuple[str, str]], bytes]:
        """Return a request's method, target, headers and body; the salt chooses what the case leaves open."""
        made: Any = BODY
        if case.spot is not None:
            made = without(BODY, case.spot.path) if case.damage == "missing" else placed(BODY, case.spot.path, case.value.value)
        body = encoded(made)
        if case.damage in DAMAGES:
            body = DAMAGES[case.damage](body)
        headers = {
            "Content-Type": CONTENT_TYPES[case.salt % 40 if case.salt % 40 < len(CONTENT_TYPES) else 0],
            "X-GitHub-Event": "push" if case.salt % 3 else "pull_request",
            "X-GitHub-Delivery": str(uuid.uuid4()),
            "X-Id": str(uuid.uuid4()),
        }
        if case.salt % 17 == 0:
            headers["Content-Encoding"] = ENCODINGS[case.salt % len(ENCODINGS)]
        if case.salt % 23 == 0:
            del headers["Content-Type"]
        headers |= signature(source.adapter, body) if signed else {}
        where, _, name = (case.text or "").partition(":")
        text = str(case.value.value) if case.value is not None and case.text is not None else ""
        if where == "header":
            shown = text.encode(errors="surrogatepass").decode("utf-8", "surrogateescape")
            headers = {key: value for key, value in headers.items() if key.lower() != name.lower()} | {name: shown}
        path = f"/hooks/{quoted(text)}" if where == "path" else source.path
        query = f"?a={quoted(text)}&{quoted(text)}" if where == "query" else "?access_token=x&b=%FF" if case.salt % 5 == 0 else ""
        method = METHODS[case.salt % len(METHODS)] if case.salt % 7 == 0 else "POST"
        return method, (path + query).encode(), list(headers.items()), body


def signature(adapter: str, body: bytes) -> dict[str, str]:
    """Return the headers by which a sender of this adapter signs."""
    if adapter == "standard-webhooks":
        id_, now = str(uuid.uuid4()), str(int(time.time()))
        key = base64.b64decode(STANDARD_SECRET.removeprefix("whsec_"))
        digest = hmac.digest(key, f"{id_}.{now}.".encode() + body, "sha256")
        return {"webhook-id": id_, "webhook-timestamp": now, "webhook-signature": "v1," + base64.b64encode(digest).decode()}
    digest_hex = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest_hex}"} if adapter == "github" else {"X-Signature": digest_hex}
