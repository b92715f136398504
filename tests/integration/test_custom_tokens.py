"""Adapters of workspaces whose senders prove themselves by a JSON Web Token or an HTTP message signature."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.envelope import open_message
from shared.jose import signed_token
from shared.messages import WebhookReceived
from tests.integration.test_custom_adapters import House, house
from tests.integration.test_fetched_keys import key_server
from tests.integration.test_gateway import Got, stream
from tests.support.inside import eventually
from tests.support.servers import Place

BODY = b'{"id": "17", "state": "paid"}'
ED, RSA = Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)
ADAPTERS = """
from millrace import Event, MessageSignature, Place, Request, WebToken, adapter

KEY = {"public_key": {"type": "string"}}
TOKEN = Place(header="authorization", prefix="Bearer ")


class Orders:
    def parse(self, request: Request) -> Event:
        return Event("order." + request.json()["state"], request.headers.get("authorization"))


@adapter(
    name="by-set",
    scheme=WebToken(
        token=TOKEN, algorithms=("EdDSA",), key_set="KEY_SET", audience=("here",), body_claim="sha", delivery=Place(json="id")
    ),
)
class BySet(Orders):
    pass


@adapter(name="by-key", scheme=WebToken(token=TOKEN, algorithms=("RS256",), keys=("public_key",)), settings=KEY)
class ByKey(Orders):
    pass


@adapter(
    name="messages", scheme=MessageSignature(algorithm="ed25519", keys=("public_key",), delivery=Place(json="id")), settings=KEY
)
class Messages(Orders):
    pass
"""
Headers = dict[str, str] | Sequence[tuple[str, str]]


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def flipped(text: str) -> str:
    """Return base64 of other bytes: one bit of one in the middle is another."""
    raw = bytearray(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_"))
    raw[len(raw) // 2] ^= 1
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def put(made: House, adapter: str, **settings: str) -> Got:
    return await made.client("PUT", f"/api/v1/sources/{adapter}", json={"adapter": adapter, "settings": settings})


async def commit(made: House, key_set: str) -> None:
    got = await made.commit(ADAPTERS.replace("KEY_SET", key_set), "adapters/orders.py")
    assert (got["problems"], sorted(got["adapters"])) == ([], ["by-key", "by-set", "messages"])


async def test_tokens_are_verified_by_a_key_set_and_by_a_key(place: Place, data: Path) -> None:
    async with key_server() as server, house(place, data, MILLRACE_EGRESS_ALLOW="127.0.0.1") as made:
        await commit(made, server.url)
        by_set = (await put(made, "by-set")).json["url"].removeprefix(made.client.url)

        async def status(path: str, headers: Headers, body: bytes = BODY) -> int:
            return (await made.client("POST", path, data=body, headers=headers)).status

        def bearer(token: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {token}"}

        digest = hashlib.sha256(BODY).hexdigest()
        good = server.token("one", sha=digest)

        async def is_taken() -> bool:
            return await status(by_set, bearer(good)) == 202

        await eventually(is_taken)
        assert await status(by_set, bearer(good)) == 200  # the same delivery
        head, _, signature = good.rpartition(".")
        for refused in (
            {},
            bearer(f"{head}.{flipped(signature)}"),
            bearer(server.token("one", sha=digest, exp=time.time() - 301)),
            bearer(server.token("one", sha=digest, aud="elsewhere")),
            bearer(server.token("one")),
        ):
            assert await status(by_set, refused) == 401
        assert await status(by_set, [*bearer(good).items()] * 2) == 401
        assert await status(by_set, bearer(good), BODY + b" ") == 401
        assert server.asked == 1
        # A key of another kind could verify nothing.
        wrong = await put(made, "by-key", public_key=pem(ED))
        assert (wrong.status, wrong.json["errors"][0]["path"]) == (422, "settings.public_key")
        by_key = (await put(made, "by-key", public_key=pem(RSA))).json["url"].removeprefix(made.client.url)
        token = signed_token({"exp": time.time() + 60}, RSA, "RS256", {})

        async def is_known() -> bool:
            return await status(by_key, bearer(token)) == 202

        await eventually(is_known)
        head, _, signature = token.rpartition(".")
        forged = signed_token({"exp": time.time() + 60}, pem(RSA).encode(), "HS256", {})
        for other in (f"{head}.{flipped(signature)}", forged, good, signed_token({"exp": time.time() - 301}, RSA, "RS256", {})):
            assert await status(by_key, bearer(other)) == 401
        events = await made.events(2)
        assert {(one.type, one.data) for one in events} == {("order.paid", "[redacted]")}
        kept = [open_message(one, WebhookReceived) for one in await stream(place, "WEBHOOKS")]
        assert {dict(one.headers)["authorization"] for one in kept} == {"[redacted]"}


def message(body: bytes = BODY, *, path: str, at: float | None = None) -> dict[str, str]:
    """Return the headers of a signed message (RFC 9421)."""
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
    parameters = f'("@method" "@path" "content-digest");created={int(time.time() if at is None else at)};keyid="k"'
    base = f'"@method": POST\n"@path": {path}\n"content-digest": {digest}\n"@signature-params": {parameters}'
    signature = base64.b64encode(ED.sign(base.encode())).decode()
    return {"Signature-Input": f"sig={parameters}", "Signature": f"sig=:{signature}:", "Content-Digest": digest}


async def test_message_signatures_are_verified_by_a_key(place: Place, data: Path) -> None:
    async with house(place, data) as made:
        await commit(made, "https://keys.example/set")
        path = (await put(made, "messages", public_key=pem(ED))).json["url"].removeprefix(made.client.url)

        async def status(headers: Headers, body: bytes = BODY) -> int:
            return (await made.client("POST", path, data=body, headers=headers)).status

        good = message(path=path)

        async def is_taken() -> bool:
            return await status(good) == 202

        await eventually(is_taken)
        assert await status(good) == 200  # the same delivery
        raw = good["Signature"].removeprefix("sig=:").removesuffix(":")
        other = base64.b64encode(base64.urlsafe_b64decode(flipped(raw.replace("+", "-").replace("/", "_")) + "==")).decode()
        assert other != raw
        later = message(msgspec.json.encode({"id": "18", "state": "sent"}), path=path)
        for refused in (
            {},
            good | {"Signature": f"sig=:{other}:"},
            {name: value for name, value in good.items() if name != "Content-Digest"},
            good | {"Content-Digest": later["Content-Digest"]},
            message(path=path, at=time.time() - 301),
            message(path=path, at=time.time() + 400),
            message(path="/hooks/another"),
            [*good.items(), ("Signature", good["Signature"])],
        ):
            assert await status(refused) == 401
        assert await status(good, BODY[:-2] + b'."}') == 401
        assert await status(later, msgspec.json.encode({"id": "18", "state": "sent"})) == 202
        assert [one.type for one in await made.events(2)] == ["order.paid", "order.sent"]
