"""Flows without a person beyond client credentials: what a client signs, what it exchanges, and by whose clock."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from shared.errors import Invalid, Unavailable
from tests.support.connections import Asking, asking
from tests.support.oauth_provider import JWT_BEARER, TOKEN_EXCHANGE, answers
from tests.support.servers import Place

RSA = generate_rsa(65537, 2048)
EC = generate_private_key(SECP256R1())
ED = Ed25519PrivateKey.generate()


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def certified(key: Any) -> tuple[str, str]:
    """Return a key with its certificate, and the thumbprint of that."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "millrace")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1)).sign(key, SHA256())
    thumbprint = hashlib.sha256(made.public_bytes(Encoding.DER)).digest()
    return pem(key) + made.public_bytes(Encoding.PEM).decode(), base64.urlsafe_b64encode(thumbprint).decode().rstrip("=")


async def keyed(it: Asking, name: str, key: Any, grant: str = "client_credentials", **more: Any) -> None:
    """Have a connection of that name by a client of that name with a key, at a provider of that name."""
    url = it.provider.url
    own = {one: more.pop(one) for one in ("subject", "scopes", "parameters") if one in more}
    given = {"token_url": f"{url}/token", "client_authentication": "private_key_jwt", "client_id": name}
    it.provider.keys[name] = key if isinstance(key, bytes) else key.public_key()
    secret = key.decode() if isinstance(key, bytes) else pem(key)
    await it.put("provider", name, **given | {"client_secret": secret} | more)
    await it.put("connection", name, grant=grant, provider=name, **own)


async def test_a_client_signs_who_it_is_anew_each_time_by_the_key_it_has(place: Place) -> None:
    async with asking(place) as it:
        url = it.provider.url
        for name, key, more in (
            ("RS256", RSA, {"key_id": "k1"}),
            ("ES256", EC, {"issuer": url}),
            ("EdDSA", ED, {"assertion_audience": "https://audience.example"}),
            ("PS384", RSA, {"assertion_algorithm": "PS384", "token_format": "json"}),
            ("HS256", b"a secret of some length", {"client_authentication": "client_secret_jwt"}),
        ):
            await keyed(it, name, key, **more)
            await it.given(name)
            one = it.provider.assertions[-1]
            assert one["header"] == {"alg": name, "typ": "JWT"} | ({"kid": "k1"} if name == "RS256" else {})
            assert one["aud"] == more.get("assertion_audience", more.get("issuer", f"{url}/token"))
            assert (one["iss"], one["sub"]) == (name, name)
            asked = it.provider.asked[-1].parameters
            assert (asked["client_id"], "client_secret" in asked) == (name, False)
            assert "PRIVATE KEY" not in repr(it.provider.asked[-1])
        # A key may be known by its certificate, as Microsoft Entra has it.
        both, thumbprint = certified(EC)
        it.provider.keys["certified"] = EC.public_key()
        await it.put("provider", "certified", token_url=f"{url}/token", client_id="certified", client_secret=both)
        await it.put("connection", "certified", grant="client_credentials", provider="certified")
        await it.given("certified")
        assert it.provider.assertions[-1]["header"] == {"alg": "ES256", "typ": "JWT", "x5t#S256": thumbprint}


async def test_41_each_try_is_signed_anew(place: Place) -> None:
    async with asking(place) as it:
        await keyed(it, "halo", EC)
        seen: list[str] = []

        async def fault(asked: Any) -> Any:
            seen.append(asked.parameters["client_assertion"])
            return await answers(500)(asked)

        it.provider.faults = [fault, fault]
        for _ in range(2):
            with pytest.raises(Unavailable):
                await it.refresh("halo")
        await it.refresh("halo")
        seen.append(it.provider.asked[-1].parameters["client_assertion"])
        assert len(set(seen)) == 3


@pytest.mark.parametrize("minutes", [5, -5, 90])
async def test_42_a_clock_that_is_off_costs_one_refusal(place: Place, minutes: int) -> None:
    async with asking(place) as it:
        it.provider.clock = timedelta(minutes=minutes)
        await keyed(it, "halo", EC)
        await it.given()
        assert len(it.provider.asked) == 2
        there = (datetime.now(UTC) + it.provider.clock).timestamp()
        one = it.provider.assertions[-1]
        assert one["iat"] < there < one["exp"] < one["iat"] + 200
        # From then on it is known.
        await it.refresh()
        assert len(it.provider.asked) == 3
        # A client that is refused for another reason is asked no second time.
        it.provider.keys["halo"] = ED.public_key()
        with pytest.raises(Unavailable, match="invalid_client"):
            await it.refresh()
        assert len(it.provider.asked) == 4


async def test_a_service_account_and_an_app_get_tokens_by_what_they_sign(place: Place) -> None:
    async with asking(place) as it:
        # As Google has it: the scope is in what is signed, and in whose name.
        await keyed(it, "google", RSA, "jwt_bearer", subject="a@example.com", scopes=["read", "write"])
        await it.given("google")
        asked, one = it.provider.asked[-1].parameters, it.provider.assertions[-1]
        assert asked.keys() == {"grant_type", "assertion", "scope"}
        assert asked["grant_type"] == JWT_BEARER
        assert {name: one[name] for name in ("iss", "sub", "scope", "aud")} == {
            "iss": "google", "sub": "a@example.com", "scope": "read write", "aud": f"{it.provider.url}/token",
        }  # fmt: skip
        # As GitHub has it: in a header, of an installation, with a time in place of a life; its clock is off.
        it.provider.clock = timedelta(minutes=-7)
        address = it.provider.url + "/app/installations/{installation}/access_tokens"
        app = {"token_url": address, "token_path": "token", "assertion_in": "header", "parameters": {"installation": "42"}}
        await keyed(it, "github", RSA, "jwt_bearer", **app)
        given = await it.given("github")
        assert given.token.startswith("access-token-")
        ends = datetime.fromisoformat(str(given.answer.expires_at)) - datetime.now(UTC)
        assert timedelta(minutes=59) < ends <= timedelta(minutes=60, seconds=1)
        # What a provider refuses is a mistake in the settings: no person has to allow anything.
        it.provider.keys["google"] = EC.public_key()
        with pytest.raises(Unavailable, match="invalid_grant"):
            await it.refresh("google")
        assert (await it.shown("google")).advice.startswith("compare the settings")


async def test_a_token_is_exchanged_for_that_of_another_connection(place: Place) -> None:
    async with asking(place) as it:
        await it.provide(token_parameters={"audience": "https://other.example"})
        await it.put("connection", "static", token="a static token")
        await it.put("connection", "subject", grant="client_credentials", provider="local")
        for name, exchanges in (("first", "static"), ("second", "subject"), ("third", "second"), ("fourth", "nobody")):
            shown = await it.put("connection", name, grant="token_exchange", provider="local", exchanges=exchanges)
            assert (shown.status, shown.reason is None) == ("pending", exchanges != "nobody")
        subject = (await it.given("subject")).token
        it.provider.exchangeable = {"a static token", subject}
        for name, token in (("first", "a static token"), ("second", subject)):
            assert (await it.given(name)).token not in {token, subject}
            asked = it.provider.asked[-1].parameters
            assert asked == {
                "grant_type": TOKEN_EXCHANGE, "subject_token": token, "audience": "https://other.example",
                "subject_token_type": "urn:ietf:params:oauth:token-type:access_token", "client_id": "client",
                "client_secret": "client-secret",
            }  # fmt: skip
        # Why none can be exchanged is shown, as any other mistake in the settings.
        with pytest.raises(Unavailable, match="got by an exchange itself"):
            await it.given("third")
        assert (await it.shown("third")).advice.startswith("compare the settings")
        await it.put("connection", "static", grant="basic", username="me", token="a password")
        with pytest.raises(Unavailable, match="'static' is no token"):
            await it.refresh("first")
        assert "a password" not in repr([asked.parameters for asked in it.provider.asked])
        with pytest.raises(Unavailable, match="no connection 'nobody'"):
            await it.given("fourth")


async def test_a_key_is_checked_where_it_enters_and_is_sent_nowhere(place: Place) -> None:
    async with asking(place) as it:
        url, key = it.provider.url, pem(EC)
        wrong: list[tuple[str, dict[str, Any], str]] = [
            ("provider", {"client_authentication": "private_key_jwt", "client_secret": "no key"}, "client_secret"),
            ("provider", {"client_secret": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"}, "client_secret"),
            ("provider", {"client_secret": pem(generate_rsa(65537, 1024))}, "client_secret"),
            ("provider", {"client_secret": key + key.replace("PRIVATE KEY", "CERTIFICATE")}, "client_secret"),
            ("connection", {"grant": "jwt_bearer", "provider": "p", "client_id": "c", "token": "no key"}, "token"),
            ("connection", {"grant": "jwt_bearer", "provider": "p", "client_id": "c"}, "token"),
            ("connection", {"grant": "token_exchange", "provider": "p", "client_id": "c"}, "exchanges"),
            ("connection", {"grant": "client_credentials", "provider": "p", "client_id": "c", "subject": "x"}, "subject"),
            ("connection", {"token": "x", "key_id": "k"}, "key_id"),
        ]
        await it.put("provider", "p", token_url=f"{url}/token")
        it.provider.announce(token_endpoint_auth_methods_supported=["client_secret_post", "client_secret_basic"])
        for noun, given, field in wrong:
            usual = {"token_url": f"{url}/token", "client_id": "client"} if noun == "provider" else {}
            with pytest.raises(Invalid) as refused:
                await it.put(noun, "wrong", **usual | given)
            assert field in [one.path for one in refused.value.errors], given
            assert "no key" not in refused.value.detail
        for method in ("post", "basic", "client_secret_jwt"):
            await it.put("provider", "p", token_url=f"{url}/token", client_authentication=method)
            await it.put("connection", "halo", grant="client_credentials", provider="p", client_id="client", token=key)
            with pytest.raises(Unavailable, match="is a private key, which is never sent"):
                await it.given()
        assert it.provider.asked == []
        # Unless the provider says otherwise, a key signs.
        it.provider.keys["client"] = EC.public_key()
        for given in ({"token_url": f"{url}/token"}, {"issuer": url}):
            await it.put("provider", "p", **given)
            await it.put("connection", "halo", grant="client_credentials", provider="p", client_id="client", token=key)
            await it.refresh()
            assert "client_assertion" in it.provider.asked[-1].parameters
        # The client of a platform's provider signs for nobody else.
        await it.put("provider", "app", org="global", token_url=f"{url}/token", client_id="client", client_secret=key)
        with pytest.raises(Invalid, match="only where a person authorizes them"):
            await it.put("connection", "other", grant="jwt_bearer", provider="app")
