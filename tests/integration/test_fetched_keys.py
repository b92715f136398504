"""Keys that are fetched: key sets and certificates, under the egress policy, and never for longer than a sender waits."""

from __future__ import annotations

import asyncio
import base64
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.egress import fetched
from shared.egress.fetching import Fetcher
from shared.egress.policy import EgressRules, rules
from shared.envelope import rfc3339, utc_now
from shared.errors import Unavailable
from tests.integration.test_gateway import Got, gateway, received
from tests.integration.test_vectors import Sources, flipped, freeze, sent_of
from tests.support.inside import eventually
from tests.support.senders import VECTORS
from tests.support.servers import Place
from tests.support.web import served

BODY = b'{"message":{"messageId":"1"}}'
TOPIC = "arn:aws:sns:eu-west-1:123456789012:orders"
CERT_URL = "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


class KeyServer:
    """A sender's key set on a loopback address."""

    def __init__(self) -> None:
        self.keys: dict[str, Ed25519PrivateKey] = {}
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()
        self.url = ""
        self.add("one")

    def add(self, name: str) -> None:
        """Add a key."""
        self.keys[name] = Ed25519PrivateKey.generate()

    def token(self, name: str, key: str | None = None, **claims: Any) -> str:
        """Return a token signed by a key, which it names."""
        head = b64(msgspec.json.encode({"alg": "EdDSA", "kid": name}))
        signed = f"{head}.{b64(msgspec.json.encode({'exp': time.time() + 60, 'aud': 'here'} | claims))}"
        return f"{signed}.{b64(self.keys[key or name].sign(signed.encode()))}"

    async def answer(self, _request: web.Request) -> web.Response:
        """Answer the public keys."""
        self.asked += 1
        await self.open.wait()
        raw = {name: one.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw) for name, one in self.keys.items()}
        return web.json_response({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": name, "x": b64(x)} for name, x in raw.items()]})


@asynccontextmanager
async def key_server() -> AsyncIterator[KeyServer]:
    server, app = KeyServer(), web.Application()
    app.router.add_get("/jwks", server.answer)
    async with served(app) as url:
        server.url = f"{url}/jwks"
        yield server


async def with_token(made: Sources, id_: str, token: str) -> Got:
    return await made.send(id_, ("", {"Authorization": f"Bearer {token}"}, BODY))


@asynccontextmanager
async def allowing(place: Place, **environment: str) -> AsyncIterator[Sources]:
    async with gateway(place, **environment) as client:
        yield Sources(place, client)


async def test_a_key_set_is_fetched_once_and_again_for_a_key_that_it_lacks(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async with key_server() as server, allowing(place, MILLRACE_EGRESS_ALLOW="127.0.0.1") as made:
        settings = {"jwks_url": server.url, "audience": ["here"], "delivery": {"json": "message.messageId"}}
        id_ = made.add("pubsub", "jwt", settings)
        await made.known()
        assert [(await with_token(made, id_, server.token("one"))).status for _ in range(3)] == [202, 200, 200]
        assert server.asked == 1
        # Nobody has a key fetched by a token that could not be genuine.
        assert (await with_token(made, id_, server.token("one", aud="elsewhere"))).status == 401
        server.add("two")
        assert (await with_token(made, id_, server.token("two"))).status == 401
        assert server.asked == 1
        monkeypatch.setattr(fetched, "UNKNOWN", 0.0)
        assert (await with_token(made, id_, server.token("two"))).status == 200
        assert server.asked == 2
        assert (await with_token(made, id_, server.token("one", key="two"))).status == 401
        (kept,) = await received(place)
        assert dict(kept.headers)["authorization"] == "[redacted]"


async def test_a_key_set_that_is_slow_or_away_is_503_in_time_and_a_known_one_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "WAIT", 0.3)
    async with key_server() as server, allowing(place, MILLRACE_EGRESS_ALLOW="127.0.0.1") as made:
        slow = made.add("slow", "jwt", {"jwks_url": server.url, "audience": ["here"]})
        away = made.add("away", "jwt", {"jwks_url": "http://127.0.0.1:9/jwks", "audience": ["here"]})
        await made.known()
        server.open.clear()
        got = await with_token(made, slow, server.token("one"))
        assert (got.status, int(got.headers["Retry-After"]) > 0) == (503, True)
        server.open.set()

        async def came() -> bool:
            return (await with_token(made, slow, server.token("one"))).status == 202

        await eventually(came)
        assert server.asked == 1
        got = await with_token(made, away, server.token("one"))
        assert (got.status, "127.0.0.1" in got.json["detail"]) == (503, False)  # its organization is told where


async def test_an_address_inside_is_never_asked_for_a_key(place: Place) -> None:
    async with key_server() as server, allowing(place) as made:
        ids = [
            made.add(f"inside-{number}", "jwt", {"jwks_url": url, "audience": ["here"]})
            for number, url in enumerate((server.url, server.url.replace("127.0.0.1", "localhost"), "http://169.254.169.254/jwks"))
        ]
        await made.known()
        for id_ in ids:
            assert (await with_token(made, id_, server.token("one"))).status == 503
        assert server.asked == 0


async def test_a_fetch_judges_addresses_and_bounds_what_it_reads() -> None:
    async def large(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 300_000)

    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/")

    app = web.Application()
    app.router.add_get("/large", large)
    app.router.add_get("/moved", elsewhere)
    fetcher = Fetcher(EgressRules(rules("127.0.0.1", allows=True)))
    try:
        async with served(app) as address:
            for url, said in (
                (f"{address}/large", "more than"),
                (f"{address}/moved", "302"),
                ("http://[::1]/x", "loopback"),
                ("https://10.0.0.1/x", "private"),
                ("ftp://example.com/x", "cannot be fetched"),
                ("https:///x", "cannot be fetched"),
            ):
                with pytest.raises(Unavailable, match=said):
                    await fetcher.get("default", url, timeout=5)
    finally:
        fetcher.close()


# -- Amazon SNS ----------------------------------------------------------------------------------------------------------

PRIVATE = rsa.generate_private_key(65537, 2048)


def certificate(*, days: int = 1) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(PRIVATE.public_key())
    builder = builder.serial_number(1).not_valid_before(now - timedelta(days=30)).not_valid_after(now + timedelta(days=days))
    return builder.sign(PRIVATE, SHA256()).public_bytes(Encoding.PEM)


def message(type_: str, version: str = "2", **fields: Any) -> bytes:
    document = {"Type": type_, "MessageId": "m1", "TopicArn": TOPIC, "Message": '{"a":1}', "Timestamp": rfc3339(utc_now())}
    document |= {"SignatureVersion": version, "SigningCertURL": CERT_URL} | fields
    names = ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"]
    signed = "".join(f"{name}\n{document[name]}\n" for name in names if name in document).encode()
    hash_: Any = SHA1() if version == "1" else SHA256()
    signature = PRIVATE.sign(signed, padding.PKCS1v15(), hash_)
    return msgspec.json.encode({"Signature": base64.b64encode(signature).decode()} | document)


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is outside, by its address, and what was asked for there."""
    there: dict[str, Any] = {CERT_URL: certificate(), "asked": []}

    async def get(_self: Fetcher, _org: str, url: str, *, timeout: float) -> bytes:
        there["asked"].append(url)
        if url not in there:
            raise Unavailable(f"{url} answered 404")
        return bytes(there[url])

    monkeypatch.setattr(Fetcher, "get", get)
    return there


async def sns(made: Sources, id_: str, body: bytes) -> int:
    return (await made.send(id_, ("", {"Content-Type": "text/plain; charset=UTF-8"}, body))).status


async def test_messages_of_the_topic_are_verified_by_the_certificate(place: Place, outside: dict[str, Any]) -> None:
    async with allowing(place) as made:
        id_ = made.add("orders", "sns", {"topic_arn": TOPIC})
        await made.known()
        good = message("Notification")
        # A topic of somebody else's, and an address of another host, cost nothing outside.
        elsewhere = {"TopicArn": TOPIC.replace("orders", "others")}
        assert await sns(made, id_, message("Notification", **elsewhere)) == 401
        for url in (
            "https://sns.eu-west-1.amazonaws.com.evil.example/x.pem",
            "https://evil.example/sns.eu-west-1.amazonaws.com",
            "https://user@sns.eu-west-1.amazonaws.com/x.pem",
            "https://sns.eu-west-1.amazonaws.com:8443/x.pem",
            "https://sns.a.b.amazonaws.com/x.pem",
            "http://sns.eu-west-1.amazonaws.com/x.pem",
            "https://s3.amazonaws.com/x.pem",
            "file:///etc/passwd",
            "",
        ):
            assert await sns(made, id_, message("Notification", SigningCertURL=url)) == 401, url
        assert outside["asked"] == []
        assert [await sns(made, id_, good) for _ in range(2)] == [202, 200]
        assert await sns(made, id_, message("Notification", "1", MessageId="m2", Subject="Hello")) == 202
        assert await sns(made, id_, message("UnsubscribeConfirmation", MessageId="m3", Token="t", SubscribeURL="x")) == 202
        assert outside["asked"] == [CERT_URL]
        for wrong in (
            good.replace(b'{\\"a\\":1}', b'{\\"a\\":2}'),
            message("Notification", Timestamp="2023-11-14T22:13:20Z"),
            message("Notification", "3"),
            good.replace(b'"Signature":"', b'"Signature":"A'),
            b"{}",
            b"[",
        ):
            assert await sns(made, id_, wrong) == 401, wrong


async def test_a_subscription_is_confirmed_once_its_message_is_verified(place: Place, outside: dict[str, Any]) -> None:
    confirm = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&Token=t"
    async with allowing(place) as made:
        id_ = made.add("orders", "sns", {"topic_arn": TOPIC})
        await made.known()
        good = message("SubscriptionConfirmation", Token="t", SubscribeURL=confirm)
        assert await sns(made, id_, good) == 503, "AWS comes again while it does not answer"
        outside[confirm] = b"<ConfirmSubscriptionResponse/>"
        assert await sns(made, id_, good) == 200
        assert outside["asked"] == [CERT_URL, confirm, confirm]
        inside = message("SubscriptionConfirmation", Token="t", SubscribeURL="https://169.254.169.254/latest")
        assert await sns(made, id_, inside) == 401
        assert await sns(made, id_, good.replace(b"Token=t", b"Token=u")) == 401
        assert outside["asked"] == [CERT_URL, confirm, confirm]
        assert await received(place) == []


async def test_a_certificate_of_another_time_or_that_is_none_verifies_nothing(place: Place, outside: dict[str, Any]) -> None:
    for content in (certificate(days=-1), b"no certificate"):
        outside[CERT_URL] = content
        async with allowing(place) as made:
            id_ = made.add("orders", "sns", {"topic_arn": TOPIC})
            await made.known()
            assert await sns(made, id_, message("Notification")) == 503


# -- RFC 9421 through the gateway ----------------------------------------------------------------------------------------


async def test_the_published_message_signature_is_decided_as_published(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    vector = next(vector for vector in VECTORS if vector["id"] == "rfc9421-b25")
    freeze(monkeypatch, 1618884473.0)
    keys = {"key_encoding": "base64", "components": ["date", "@authority"]}
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    chosen = {"MILLRACE_PUBLIC_URL": "https://example.com", "MILLRACE_LISTEN_FD": str(listening.detach())}
    async with allowing(place, **chosen) as made:
        made.client.url = f"http://127.0.0.1:{port}"
        id_ = made.add("one", "http-signatures", keys | {"secret": vector["secret"]})
        other = made.add("other", "http-signatures", keys | {"secret": "AA==", "previous_secret": vector["secret"]})
        strict = made.add("strict", "http-signatures", {"key_encoding": "base64", "secret": vector["secret"]})
        await made.known()
        headers = vector["headers"] | {"Date": "Tue, 20 Apr 2021 02:07:55 GMT", "Content-Type": "application/json"}
        _, _, body = sent_of(vector, "")
        for source in (id_, other):
            assert (await made.send(source, ("", headers, body))).status == 202
        # What it signs has no body in it: this settings ask for. By default a signature has to cover one.
        assert (await made.send(id_, ("", headers, flipped(vector, body)))).status == 202
        assert (await made.send(strict, ("", headers, body))).status == 401
        value = headers["Signature"]
        for name, wrong in (
            ("Date", "Tue, 20 Apr 2021 02:07:56 GMT"),
            ("Content-Type", "text/plain"),
            ("Signature", value.replace("px", "py")),
            ("Signature", value[:-4] + ":"),
            ("Signature", value.replace("px", "pé")),
            ("Signature", ""),
            ("Signature-Input", headers["Signature-Input"].replace("@authority", "@path")),
        ):
            assert (await made.send(id_, ("", headers | {name: wrong}, body))).status == 401, (name, wrong)
        for name in ("Signature", "Signature-Input", "Date"):
            absent = {key: one for key, one in headers.items() if key != name}
            assert (await made.send(id_, ("", absent, body))).status == 401
            repeated = [*headers.items(), (name, headers[name])]
            assert (await made.send(id_, ("", repeated, body))).status == 401
        for away in (-301, 301):
            freeze(monkeypatch, 1618884473.0 + away)
            assert (await made.send(id_, ("", headers, body))).status == 401
