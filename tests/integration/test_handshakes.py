"""Senders' questions whether an address takes their webhooks, through the gateway, as each sender asks them."""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Mapping
from typing import Any

import msgspec
import yarl
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.test_gateway import Got, received
from tests.integration.test_vectors import Sources, sources
from tests.support.servers import Place

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
SETTINGS: dict[str, dict[str, Any]] = {
    "microsoft-graph": {},
    "dropbox": {},
    "x": {},
    "slack": {},
    "zoom": {},
    "okta": {},
    "cloudevents": {"allowed_rate": 60},
    "trello": {},
    "discord": {"public_key": PUBLIC},
}


def mac(signed: bytes) -> bytes:
    return hmac.digest(b"s", signed, "sha256")


async def ask(made: Sources, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Got:
    url = yarl.URL(f"{made.client.url}/hooks/{path}", encoded=True)
    async with made.client.session.request(
        method, url, data=body, headers=headers or {}, skip_auto_headers=("Content-Type",)
    ) as got:
        return Got(got.status, got.headers.copy(), await got.read())


async def test_every_senders_handshake_is_answered_and_is_no_delivery(place: Place) -> None:
    async with sources(place) as made:
        ids = {name: made.add(name, name, settings | {"secret": "s"}) for name, settings in SETTINGS.items()}
        await made.known()

        plain = {"Content-Type": "text/plain; charset=utf-8"}
        got = await ask(made, "POST", f"{ids['microsoft-graph']}?validationToken=Validation%3A+Testing+1%2B2", plain)
        assert (got.status, got.body, got.headers["Content-Type"]) == (200, b"Validation: Testing 1+2", "text/plain")
        got = await ask(made, "GET", f"{ids['dropbox']}?challenge=abc%3Cb%3E")
        assert (got.status, got.body, got.headers["X-Content-Type-Options"]) == (200, b"abc<b>", "nosniff")
        got = await ask(made, "GET", f"{ids['x']}?crc_token=abc&nonce=1")
        assert got.json == {"response_token": "sha256=" + base64.b64encode(mac(b"abc")).decode()}
        got = await ask(made, "GET", ids["okta"], {"X-Okta-Verification-Challenge": "v"})
        assert got.json == {"verification": "v"}
        got = await ask(made, "OPTIONS", ids["cloudevents"], {"WebHook-Request-Origin": "eventgrid.azure.net"})
        names = ("Allow", "WebHook-Allowed-Origin", "WebHook-Allowed-Rate")
        assert (got.status, [got.headers[name] for name in names]) == (200, ["POST", "eventgrid.azure.net", "60"])
        assert (await ask(made, "HEAD", ids["trello"])).status == 200

        stamp = str(int(time.time()))
        asked: list[tuple[str, Any, int, Any]] = [
            ("slack", {"type": "url_verification", "token": "t", "challenge": "3eZ"}, 200, b"3eZ"),
            (
                "zoom",
                {"event": "endpoint.url_validation", "payload": {"plainToken": "qgg8"}},
                200,
                msgspec.json.encode({"plainToken": "qgg8", "encryptedToken": mac(b"qgg8").hex()}),
            ),
            ("discord", {"type": 1, "id": "1", "application_id": "2"}, 200, b'{"type":1}'),
            ("discord", {"type": 0, "version": 1}, 204, b""),
        ]
        for name, document, status, answer in asked:
            body = msgspec.json.encode(document)
            signed = b"v0:" + stamp.encode() + b":" + body
            headers = {
                "slack": {"X-Slack-Signature": f"v0={mac(signed).hex()}", "X-Slack-Request-Timestamp": stamp},
                "zoom": {"x-zm-signature": f"v0={mac(signed).hex()}", "x-zm-request-timestamp": stamp},
                "discord": {"X-Signature-Ed25519": KEY.sign(stamp.encode() + body).hex(), "X-Signature-Timestamp": stamp},
            }[name] | {"Content-Type": "application/json"}
            got = await ask(made, "POST", ids[name], headers, body)
            assert (got.status, got.body) == (status, answer), name
            # Nobody is given a digest, or learns that a key is right, without a signature.
            assert (await ask(made, "POST", ids[name], headers, body + b" ")).status == 401
            assert (await ask(made, "POST", ids[name], {"Content-Type": "application/json"}, body)).status == 401
        assert await received(place) == []


async def test_meta_gets_its_challenge_with_the_right_token_only(place: Place) -> None:
    async with sources(place) as made:
        id_ = made.add("meta", "meta", {"secret": "s", "verify_token": "the token"})
        await made.known()
        query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="
        got = await ask(made, "GET", f"{id_}?{query}the%20token")
        assert (got.status, got.body) == (200, b"1158201444")
        for wrong in ("the%20tokens", "s", ""):
            assert (await ask(made, "GET", f"{id_}?{query}{wrong}")).status == 403


async def test_senders_that_want_another_answer_get_it(place: Place) -> None:
    async with sources(place) as made:
        adyen = made.add("adyen", "adyen", {"secret": "aa" * 32})
        zoom = made.add("zoom", "zoom", {"secret": "s"})
        await made.known()
        body = b'{"type":"balancePlatform.transfer.created"}'
        headers = {"HmacSignature": base64.b64encode(hmac.digest(b"\xaa" * 32, body, "sha256")).decode()}
        got = await ask(made, "POST", adyen, headers, body)
        assert (got.status, got.body, got.headers["Content-Type"]) == (200, b"[accepted]", "text/plain")
        stamp, event = str(int(time.time())), b'{"event":"meeting.started"}'
        signed = {
            "x-zm-signature": f"v0={mac(b'v0:' + stamp.encode() + b':' + event).hex()}",
            "x-zm-request-timestamp": stamp,
        }
        got = await ask(made, "POST", zoom, signed, event)
        assert (got.status, bool(got.json["id"])) == (200, True)
        assert len(await received(place)) == 2
