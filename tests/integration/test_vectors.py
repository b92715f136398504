"""Every published vector through the gateway: a source of its sender, its request as it was published, and what is near it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import yarl
from multidict import CIMultiDict

from services.events import adapters
from services.gateway.api import hooks
from shared.encryption import Keyring
from shared.envelope import new_id, rfc3339, utc_now
from shared.messages.declaration import hashed_key
from shared.registry import RegistryWriter
from shared.resources.source import SourceEntry
from tests.integration.test_gateway import Client, Got, gateway
from tests.support.inside import bus_of, eventually
from tests.support.senders import NOW, VECTORS, entry_of
from tests.support.servers import Place

FORM = "application/x-www-form-urlencoded"
SIGNATURE = {"header": "X-Signature"}
STANDARD: dict[str, Any] = {
    "header": "webhook-signature",
    "separator": " ",
    "prefix": "v1,",
    "encoding": "base64",
    "template": "{id}.{timestamp}.{body}",
    "id": "webhook-id",
    "timestamp": "webhook-timestamp",
    "key_encoding": "base64",
    "key_prefix": "whsec_",
}
# The general adapter: what a sender does is settings. By the id of a vector, else by its sender.
GENERAL: dict[str, dict[str, Any]] = {
    "bitbucket_jira": {"header": "X-Hub-Signature", "prefix": "sha256="},
    "circleci": {"header": "circleci-signature", "prefix": "v1=", "separator": ","},
    "ed25519_primitive": SIGNATURE | {"algorithm": "ed25519", "key_encoding": "hex"},
    "generic-sha512-hex-convoy": {"header": "X-Convoy-Signature", "algorithm": "sha512"},
    "generic-sha512-b64-convoy": {"header": "X-Convoy-Signature", "algorithm": "sha512", "encoding": "base64"},
    "adnanh-sha1-json": SIGNATURE | {"algorithm": "sha1", "prefix": "sha1="},
    "adnanh-sha1-empty": SIGNATURE | {"algorithm": "sha1", "prefix": "sha1="},
    "github": {"header": "X-Hub-Signature-256", "prefix": "sha256=", "delivery": "X-GitHub-Delivery"},
    "octokit-sha1-legacy": {"header": "X-Hub-Signature", "prefix": "sha1=", "algorithm": "sha1"},
    "hmac_primitive": SIGNATURE | {"key_encoding": "hex"},
    "hubspot-v1": {"header": "X-HubSpot-Signature", "algorithm": "plain-sha256", "template": "{secret}{body}"},
    "hubspot-v2-post": {"header": "X-HubSpot-Signature", "algorithm": "plain-sha256", "template": "{secret}{method}{url}{body}"},
    "line": {"header": "X-Line-Signature", "encoding": "base64"},
    "paddle": {
        "header": "Paddle-Signature",
        "separator": ";",
        "prefix": "h1=",
        "timestamp": {"header": "Paddle-Signature", "separator": ";", "prefix": "ts="},
        "template": "{timestamp}:{body}",
    },
    "pagerduty": {"header": "X-PagerDuty-Signature", "prefix": "v1=", "separator": ","},
    "razorpay": {"header": "X-Razorpay-Signature"},
    "sanity": {
        "header": "sanity-webhook-signature",
        "separator": ",",
        "prefix": "v1=",
        "encoding": "base64url",
        "timestamp": {"header": "sanity-webhook-signature", "separator": ",", "prefix": "t="},
        "timestamp_unit": "ms",
        "template": "{timestamp}.{body}",
    },
    "sendgrid": {
        "header": "X-Twilio-Email-Event-Webhook-Signature",
        "algorithm": "ecdsa-p256-sha256",
        "encoding": "base64",
        "key_encoding": "base64",
        "timestamp": "X-Twilio-Email-Event-Webhook-Timestamp",
        "template": "{timestamp}{body}",
    },
    "slack": {
        "header": "X-Slack-Signature",
        "prefix": "v0=",
        "timestamp": "X-Slack-Request-Timestamp",
        "template": "v0:{timestamp}:{body}",
    },
    "standard_webhooks": STANDARD,
    "svix": {name: value.replace("webhook", "svix") if isinstance(value, str) else value for name, value in STANDARD.items()},
    "stripe": SIGNATURE,
    "twilio": {"header": "X-Twilio-Signature", "algorithm": "sha1", "encoding": "base64", "template": "{url}{form}"},
}
# The senders' own adapters; of some vectors only the digest is published, not a request.
OWN = {
    "adyen": "adyen",
    "bitbucket_jira": "jira",
    "box": "box",
    "circleci": "circleci",
    "github": "github",
    "hubspot": "hubspot",
    "line": "line",
    "paddle": "paddle",
    "pagerduty": "pagerduty",
    "razorpay": "razorpay",
    "sanity": "sanity",
    "sendgrid": "sendgrid",
    "slack": "slack",
    "standard_webhooks": "standard-webhooks",
    "svix": "svix",
    "twilio": "twilio",
}
SECRETS = ("secret", "previous_secret", "primary_key", "secondary_key", "verify_token")
Sent = tuple[str, Mapping[str, str] | Sequence[tuple[str, str]], bytes]


def general(vector: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of the general adapter for a vector, without its key; None where no template can say it."""
    found = GENERAL.get(vector["id"]) or GENERAL.get(vector["provider"])
    return None if found is None or vector.get("method") == "GET" else found


def keys_of(vector: Mapping[str, Any]) -> dict[str, str]:
    if vector["provider"] == "box":
        return {"secondary_key" if vector["id"] == "box-secondary" else "primary_key": vector["secret"]}
    if "public_key" in vector:
        return {"public_key": vector["public_key"]}
    return {"secret": vector["secret"]}


def another(vector: Mapping[str, Any]) -> str:
    """Return another secret in the form of a vector's."""
    return "00" * 32 if vector["provider"] in {"adyen", "hmac_primitive"} else "YW5vdGhlciBzZWNyZXQ="


class Sources:
    """Sources that are put for a test, and requests to them."""

    def __init__(self, place: Place, client: Client) -> None:
        self.place = place
        self.client = client
        self.ring = Keyring(tuple(base64.b64decode(key) for key in place.credentials.keys))
        self.made: dict[str, SourceEntry] = {}

    def add(self, name: str, adapter: str, settings: Mapping[str, Any]) -> str:
        """Return the id of a source of an adapter with these settings."""
        id_, now = new_id(), rfc3339(utc_now())
        spec = {key: value for key, value in settings.items() if key not in SECRETS}
        sealed = {key: self.ring.seal(settings[key], "default", id_, key) for key in SECRETS if key in settings}
        declared = adapters.verification_of(adapter, spec)
        assert declared is not None, (name, adapter)
        fields = {"id": id_, "key": hashed_key("default", id_), "name": name, "created_at": now, "updated_at": now}
        self.made[id_] = entry_of(declared, adapter, spec, sealed=sealed, **fields)
        return id_

    async def known(self) -> None:
        """Put all of them, and wait until the gateway knows the last."""
        async with bus_of(self.place, "events") as bus:
            writer = RegistryWriter(bus.client, "sources", SourceEntry)
            for id_, entry in self.made.items():
                await writer.put(id_, 1, entry)
        last = [*self.made][-1]

        async def seen() -> bool:
            return (await self.client("PURGE", f"/hooks/{last}", headers={})).status == 405

        await eventually(seen)

    async def send(self, id_: str, sent: Sent, method: str = "POST") -> Got:
        """Send a request; `sent` is the query, the headers and the body."""
        query, headers, body = sent
        url = yarl.URL(f"{self.client.url}/hooks/{id_}{query}", encoded=True)
        given = CIMultiDict(headers)
        given.setdefault("Content-Type", "application/json")
        async with self.client.session.request(method, url, data=body, headers=given) as response:
            return Got(response.status, response.headers.copy(), await response.read())


@asynccontextmanager
async def sources(place: Place) -> AsyncIterator[Sources]:
    async with gateway(place) as client:
        yield Sources(place, client)


def freeze(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr(hooks, "time", SimpleNamespace(time=lambda: now, monotonic=time.monotonic))


def sent_of(vector: Mapping[str, Any], url: str) -> Sent:
    """Return a vector's request as it goes to `url`: signed for it anew, where the address is signed."""
    headers = dict(vector["headers"])
    body = vector["body"].encode()
    if not headers:
        headers = {"X-Signature": vector.get("signature_hex", vector["expected"])}
    if vector["provider"] == "twilio":
        fields = sorted(part.split("=") for part in vector["body"].replace("%2B", "+").split("&"))
        signed = url + "?foo=1&bar=2" + "".join(name + value for name, value in fields)
        mac = hmac.digest(vector["secret"].encode(), signed.encode(), "sha1")
        return "?foo=1&bar=2", headers | {"X-Twilio-Signature": base64.b64encode(mac).decode()}, body
    if headers.get("X-HubSpot-Signature-Version") == "v2":
        signed = vector["secret"] + vector["method"] + url + vector["body"]
        headers["X-HubSpot-Signature"] = hashlib.sha256(signed.encode()).hexdigest()
    return "", headers, body


def flipped(vector: Mapping[str, Any], body: bytes) -> bytes:
    """Return a body with one bit changed in one byte that is signed."""
    if not body:
        return b" "
    where = body.index(b"1130") if vector["provider"] == "adyen" else len(body) // 2
    return body[:where] + bytes([body[where] ^ 1]) + body[where + 1 :]


def signature_header(vector: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    names = [name for name in headers if "signature" in name.lower() and not name.lower().endswith(("version", "algorithm"))]
    return names[vector["id"] == "box-secondary"]


def spoiled(vector: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
    """Return requests like a genuine one, none of which is."""
    query, headers, body = sent
    if vector["provider"] == "adyen":
        document = msgspec.json.decode(body)
        made = {}
        wrong = {"short": "00", "foreign": "é" * 44, "absent": None, "another": base64.b64encode(bytes(32)).decode()}
        for name, signature in wrong.items():
            document["notificationItems"][0]["NotificationRequestItem"]["additionalData"] = {"hmacSignature": signature}
            made[name] = (query, headers, msgspec.json.encode(document))
        return made | {"flipped": (query, headers, flipped(vector, body))}
    name = signature_header(vector, headers)
    value = headers[name]
    # Of a list any may be the genuine one.
    separator = " " if " v" in value else None
    values = {
        "short": lambda one: one[:-2],
        "long": lambda one: one + "00",
        "empty": lambda _: "",
        "foreign": lambda one: one[:-1] + "é",
        "another": lambda one: one.swapcase() if vector["provider"] == "sanity" else one[::-1],
    }
    spoil = {
        what: (query, headers | {name: " ".join(map(change, value.split(separator) if separator else [value]))}, body)
        for what, change in values.items()
    }
    absent = (query, {key: one for key, one in headers.items() if key != name}, body)
    return spoil | {"absent": absent, "flipped": (query, headers, flipped(vector, body))}


async def check(monkeypatch: pytest.MonkeyPatch, place: Place, cases: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
    """Check vectors: `cases` are, by a vector's id, the adapter and the settings of its source without the key."""
    vectors = [vector for vector in VECTORS if vector["id"] in cases]
    async with sources(place) as made:
        ids = {}
        for vector in vectors:
            adapter, settings = cases[vector["id"]]
            keys = settings | keys_of(vector)
            ids[vector["id"]] = [made.add(vector["id"], adapter, keys)]
            if "secret" in keys:
                other = another(vector)
                for both in ({"secret": other, "previous_secret": keys["secret"]}, {"secret": other}):
                    ids[vector["id"]].append(made.add(f"{vector['id']}-{len(both)}", adapter, keys | both))
        await made.known()
        wrong: list[Any] = []

        def accepted(id_: str) -> int:
            wanted: dict[str, Any] | None = made.made[id_].derived["verification"].get("acknowledgement")
            return 202 if wanted is None else int(wanted.get("status", 200))

        async def expect(status: int, vector: dict[str, Any], id_: str, sent: Any, what: str) -> None:
            got = await made.send(id_, sent, vector.get("method", "POST"))
            if got.status != status:
                wrong.append((vector["id"], what, got.status, got.body[:200]))

        for vector in vectors:
            first, *others = ids[vector["id"]]
            now = vector.get("now", NOW)
            freeze(monkeypatch, now)
            sent = sent_of(vector, f"{made.client.url}/hooks/{first}")
            await expect(accepted(first) if vector["expected_valid"] else 401, vector, first, sent, "as published")
            if not vector["expected_valid"]:
                continue
            for what, one in spoiled(vector, sent).items():
                await expect(401, vector, first, one, what)
            if vector["headers"]:
                query, headers, body = sent
                name = signature_header(vector, headers)
                await expect(401, vector, first, (query, [*headers.items(), (name, headers[name])], body), "repeated")
            if others:
                for status, id_ in ((accepted(others[0]), others[0]), (401, others[1])):
                    await expect(status, vector, id_, sent_of(vector, f"{made.client.url}/hooks/{id_}"), f"other secret {status}")
            if "now" in vector:
                for away in (-301, 301):
                    freeze(monkeypatch, now + away)
                    await expect(401, vector, first, sent, f"{away} s away")
        assert wrong == [], "\n".join(map(str, wrong))


async def test_the_general_adapter_decides_published_vectors_by_settings_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {vector["id"]: ("hmac", settings) for vector in VECTORS if (settings := general(vector)) is not None}
    assert len(cases) >= 33
    await check(monkeypatch, place, cases)


async def test_the_senders_own_adapters_decide_published_vectors(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {vector["id"]: (OWN[vector["provider"]], {}) for vector in VECTORS if vector["provider"] in OWN}
    del cases["octokit-sha1-legacy"]  # GitHub sends a newer signature beside it
    assert len(cases) >= 30
    await check(monkeypatch, place, cases)


async def test_the_general_adapter_verifies_what_stripe_and_shopify_send(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    freeze(monkeypatch, NOW)
    body, stamp = b'{"id":"evt_1","type":"invoice.paid"}', str(int(NOW))

    def mac(signed: bytes) -> bytes:
        return hmac.digest(b"whsec_1", signed, "sha256")

    stripe = {
        "header": "Stripe-Signature",
        "separator": ",",
        "prefix": "v1=",
        "timestamp": {"header": "Stripe-Signature", "separator": ",", "prefix": "t="},
        "template": "{timestamp}.{body}",
        "delivery": {"json": "id"},
        "event_path": "type",
    }
    shopify = {"header": "X-Shopify-Hmac-Sha256", "encoding": "base64", "delivery": "X-Shopify-Webhook-Id", "replay": "X-Replay"}
    async with sources(place) as made:
        one = made.add("stripe", "hmac", stripe | {"secret": "whsec_1"})
        other = made.add("shopify", "hmac", shopify | {"secret": "whsec_1"})
        await made.known()
        signature = f"t={stamp},v1={mac(f'{stamp}.'.encode() + body).hex()}"
        assert (await made.send(one, ("", {"Stripe-Signature": signature}, body))).status == 202
        assert (await made.send(one, ("", {"Stripe-Signature": signature}, body))).status == 200
        assert (await made.send(one, ("", {"Stripe-Signature": signature.replace("t=1", "t=2")}, body))).status == 401
        headers = {"X-Shopify-Hmac-Sha256": base64.b64encode(mac(body)).decode(), "X-Shopify-Webhook-Id": "w"}
        # What tells a replay apart makes another delivery of it, once.
        for status, more in ((202, {}), (200, {}), (202, {"X-Replay": "1"}), (200, {"X-Replay": "1"}), (202, {"X-Replay": "2"})):
            assert (await made.send(other, ("", headers | more, body))).status == status
