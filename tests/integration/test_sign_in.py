"""People sign in by OpenID Connect: what the service takes from an issuer, and refuses of a careless, broken or hostile one."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.egress import fetched
from shared.errors import Invalid, NotFound, Unavailable
from shared.jose import encoded, signed_token
from shared.questions.sign_in import GetSignOut, ListSignInProviders, SignInEnded
from tests.support.connections import oauth_process
from tests.support.inside import bus_of, eventually
from tests.support.issuer import BROWSER, CALLBACK, LocalIssuer, issuing, jwk
from tests.support.oauth_provider import local_provider
from tests.support.resources import got, putting, removing, ring, told
from tests.support.servers import Servers


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def it(servers: Servers) -> AsyncIterator[LocalIssuer]:
    async with servers.place() as place, issuing(place) as issuer:
        yield issuer


def reason(ended: SignInEnded, refusal: str = "refused") -> str:
    """Return why nobody is signed in."""
    assert (ended.person, ended.refusal) == (None, refusal), ended
    return ended.reason or ""


async def test_a_person_is_who_the_issuer_says_with_the_most_that_their_groups_give(it: LocalIssuer) -> None:
    groups = {"ops": {"acme": "operator", "beta": "viewer"}, "dev": {"acme": "developer"}, "root": {"global": "admin"}}
    spec = {"groups": groups, "default_roles": {"beta": "operator"}, "groups_claim": "realm_access.roles"}
    issuer = await it.provide("well", **spec)
    asked = await it.begin("well", return_to="/api/v1/docs")
    assert asked["scope"] == "openid profile email"
    assert (asked["code_challenge_method"], asked["response_type"], asked["redirect_uri"]) == ("S256", "code", CALLBACK)
    assert min(len(asked[one]) for one in ("state", "nonce")) >= 43
    person = {"preferred_username": "ada\n", "email": "ada@acme.example", "email_verified": True, "name": "Ada L."}
    claims = it.claims("well", asked, realm_access={"roles": ["dev", "ops", "unknown", 5]}, **person)
    ended = await it.finish(asked, it.signed("well", claims))
    found = ended.person
    assert found is not None, ended
    assert (found.issuer, found.subject, ended.provider, ended.return_to) == (issuer, "ada", "well", "/api/v1/docs")
    assert found.roles == {"acme": "developer", "beta": "operator"}
    assert (found.preferred_username, found.email, found.name) == ("ada", "ada@acme.example", "Ada L.")
    # Who the client is, and that it is the one who has begun, is shown to the provider.
    sent = it.provider.asked[-1].parameters
    verifier = hashlib.sha256(sent["code_verifier"].encode()).digest()
    assert encoded(verifier) == asked["code_challenge"]
    # An address that nobody has verified is none.
    assert (await it.sign_in("well", **person | {"email_verified": False})).person.email is None  # type: ignore[union-attr]
    # No group of theirs gives anything; nobody said anything else.
    assert (await it.sign_in("well", realm_access={"roles": ["ops"]})).person.roles["acme"] == "operator"  # type: ignore[index,union-attr]


SECONDS = 3600
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "issuer": ({"iss": "https://evil.example"}, "of another issuer"),
    "no-issuer": ({"iss": None}, "of another issuer"),
    "audience": ({"aud": "another"}, "for another client"),
    "no-audience": ({"aud": None}, "for another client"),
    "two-audiences": ({"aud": ["client", "another"]}, "for another client"),
    "party": ({"aud": ["client", "another"], "azp": "another"}, "for another client"),
    "nonce": ({"nonce": "another"}, "that of another sign-in"),
    "no-nonce": ({"nonce": None}, "that of another sign-in"),
    "expired": ({"exp": time.time() - SECONDS}, "the token expired"),
    "endless": ({"exp": None}, "no exp"),
    "later": ({"nbf": time.time() + SECONDS}, "is good in"),
    "old": ({"iat": time.time() - SECONDS}, "not made just now"),
    "early": ({"iat": time.time() + SECONDS}, "not made just now"),
    "no-time": ({"iat": "now"}, "iat is no time"),
    "undated": ({"iat": None}, "not made just now"),
    "hash": ({"at_hash": encoded(hashlib.sha256(b"another").digest()[:16])}, "of another access token"),
    "nobody": ({"sub": None}, "does not say whose it is"),
    "empty": ({"sub": ""}, "does not say whose it is"),
    "long": ({"sub": "a" * 256}, "does not say whose it is"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_token_with_a_wrong_claim_signs_nobody_in(it: LocalIssuer, name: str) -> None:
    claims, words = WRONG[name]
    if "wrong" not in it.keys:
        await it.provide("wrong")
    assert words in reason(await it.sign_in("wrong", **claims))


async def test_a_token_is_signed_by_a_key_of_the_issuer_and_by_no_secret(it: LocalIssuer) -> None:
    await it.provide("signed")
    key = it.keys["signed"]["first"]
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def none(claims: dict[str, Any]) -> str:
        return ".".join(encoded(msgspec.json.encode(one)) for one in ({"alg": "none"}, claims)) + "."

    foreign = ec.generate_private_key(ec.SECP256R1())
    made: list[tuple[Callable[[dict[str, Any]], str | None], str]] = [
        (none, "algorithm that is not taken"),
        (
            lambda claims: none(claims).replace(encoded(b'{"alg":"none"}'), encoded(b'{"alg":"NONE"}')),
            "algorithm that is not taken",
        ),
        # By the public key as it is written, and by the secret of the client.
        (lambda claims: signed_token(claims, pem, "HS256", {"kid": "first"}), "algorithm that is not taken"),
        (lambda claims: signed_token(claims, b"client-secret", "HS256", {}), "algorithm that is not taken"),
        (lambda claims: signed_token(claims, foreign, "ES256", {"kid": "first"}), "signed by no key of its issuer's"),
        (lambda claims: it.signed("signed", claims)[:-4] + "AAAA", "signed by no key of its issuer's"),
        (lambda claims: it.signed("signed", claims, crit="b64"), "extension that has to be understood"),
        # What a token says of where its key is, is not looked at.
        (
            lambda claims: signed_token(claims, foreign, "ES256", {"kid": "mine", "jku": f"{it.provider.url}/evil"}),
            "signed by no key of its issuer's",
        ),
        (lambda _claims: "no.token", "no signed JSON Web Token"),
        (lambda _claims: None, "sent no ID token"),
    ]
    for make, words in made:
        asked = await it.begin("signed")
        assert words in reason(await it.finish(asked, make(it.claims("signed", asked))))
    assert "/evil" not in it.provider.looked_up
    # Whoever of them has the private key.
    assert (await it.sign_in("signed")).person is not None


async def test_at_hash_and_azp_are_held_against_what_they_are_of(it: LocalIssuer) -> None:
    await it.provide("hash")
    asked = await it.begin("hash")
    it.provider.life = 3600
    claims = it.claims("hash", asked, aud=["client", "another"], azp="client")
    # The token that the next answer brings.
    token = f"access-token-{it.provider._count + 2}-secret"
    claims["at_hash"] = encoded(hashlib.sha256(token.encode()).digest()[:16])
    ended = await it.finish(asked, it.signed("hash", claims))
    assert ended.person is not None, ended


async def test_an_answer_counts_once_for_the_browser_that_has_begun_and_says_whose_it_is(it: LocalIssuer) -> None:
    issuer = await it.provide("once", {"authorization_response_iss_parameter_supported": True})
    asked = await it.begin("once")
    token = it.signed("once", it.claims("once", asked))
    before = len(it.provider.asked)
    # Somebody else's link signs nobody in, and takes nothing from who has begun.
    assert "in another browser" in reason(await it.finish(asked, token, browser="of another", iss=issuer), "unknown")
    assert len(it.provider.asked) == before
    ended = await asyncio.gather(*(it.finish(asked, token, iss=issuer) for _ in range(5)))
    assert sorted(one.person is not None for one in ended) == [False] * 4 + [True]
    assert len(it.provider.asked) == before + 1
    assert "was used already" in reason(await it.finish(asked, token, iss=issuer), "unknown")
    assert "was used already" in reason(await it.finish({"state": "made up"}, token), "unknown")
    # RFC 9207: of this issuer, and said where it promises to.
    for more, words in [({"iss": "https://evil.example"}, "another issuer"), ({}, "does not say which issuer's")]:
        asked = await it.begin("once")
        assert words in reason(await it.finish(asked, it.signed("once", it.claims("once", asked)), **more))
    for more, words in [
        ({"error": "access_denied"}, "says that it was not allowed"),
        ({"error": "<b>"}, "the provider refused it"),
        ({"sealed_code": None}, "sent no code"),
        ({"redirect": "https://evil.example/auth/callback"}, "to another address"),
    ]:
        asked = await it.begin("once")
        assert words in reason(await it.finish(asked, token, **{"iss": issuer} | more))
    assert len(it.provider.asked) == before + 1
    # What is stored of one tells nobody how to end it; one that is too old ends in nothing.
    asked = await it.begin("once")
    connection = await asyncpg.connect(it.place.database_url("oauth"))
    try:
        row = dict(await connection.fetchrow("SELECT * FROM authorization_request WHERE browser = $1", BROWSER))
        assert not {asked["state"], asked["nonce"]} & set(map(str, row.values()))
        assert asked["nonce"] not in str(row)
        await connection.execute("UPDATE authorization_request SET expires_at = now() WHERE state = $1", row["state"])
    finally:
        await connection.close()
    assert "ten minutes" in reason(await it.finish(asked, it.signed("once", it.claims("once", asked)), iss=issuer), "unknown")


async def test_keys_are_fetched_anew_for_one_that_is_not_known_and_not_for_each(
    it: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await it.provide("rotating")
    assert (await it.sign_in("rotating")).person is not None
    it.keys["rotating"] = {"second": ec.generate_private_key(ec.SECP256R1())}
    asked = await it.begin("rotating")
    # One that is new is not asked for within half a minute of the last time, whatever comes.
    token = it.signed("rotating", it.claims("rotating", asked), "second")
    assert "no key of its issuer's" in reason(await it.finish(asked, token))
    assert it.asked_for_keys.count("rotating") == 1
    monkeypatch.setattr(fetched, "UNKNOWN", 0.0)
    asked = await it.begin("rotating")
    ended = await it.finish(asked, it.signed("rotating", it.claims("rotating", asked), "second"))
    assert ended.person is not None
    assert it.asked_for_keys.count("rotating") == 2
    # The one before is none any more, and is looked for by one request at most.
    foreign = ec.generate_private_key(ec.SECP256R1())
    asked = await it.begin("rotating")
    old = signed_token(it.claims("rotating", asked), foreign, "ES256", {"kid": "first"})
    assert "no key of its issuer's" in reason(await it.finish(asked, old))
    assert it.asked_for_keys.count("rotating") == 3


async def _endless() -> AsyncIterator[bytes]:
    yield b'{"keys": ['
    while True:
        yield b" " * 65_536
        await asyncio.sleep(0)


async def _silent() -> AsyncIterator[bytes]:
    yield b'{"keys": ['
    await asyncio.Event().wait()


KEY_SETS: dict[str, tuple[Callable[[], web.StreamResponse], str]] = {
    "endless": (lambda: web.Response(body=_endless()), "answered more than"),
    "slow": (lambda: web.Response(body=_silent()), "still being fetched"),
    "redirect": (lambda: web.Response(status=302, headers={"Location": "https://evil.example"}), "answered 302"),
    "none": (lambda: web.Response(status=404), "answered 404"),
    "rubbish": (lambda: web.Response(text="<html>"), "no JSON Web Key Set"),
    "many": (
        lambda: web.json_response(
            {"keys": [jwk(str(one), ec.generate_private_key(ec.SECP256R1()).public_key()) for one in range(5)]}
        ),
        "no key of its issuer's",
    ),
}


@pytest.mark.parametrize("name", KEY_SETS)
async def test_keys_that_cannot_be_had_sign_nobody_in_and_hold_nobody_up(
    it: LocalIssuer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetched, "WAIT", 0.5)
    answer, words = KEY_SETS[name]
    await it.provide(f"keys-{name}")
    it.provider.metadata[f"/keys-{name}/jwks"] = answer
    ended = await it.sign_in(f"keys-{name}")
    assert words in reason(ended, "refused" if name == "many" else "unreachable")


async def test_what_an_issuer_announces_is_believed_of_itself_and_followed_nowhere_else(it: LocalIssuer) -> None:
    url = it.provider.url
    for name, announced, error, words in [
        ("foreign", {"issuer": "https://evil.example"}, Invalid, "is the metadata of 'https://evil.example'"),
        ("slashed", {"issuer": f"{url}/slashed/"}, Invalid, "is the metadata of"),
        ("leading", {"authorization_endpoint": "javascript:alert(1)"}, Unavailable, "authorization_endpoint|authorize_url"),
        ("lacking", {"authorization_endpoint": None}, Invalid, "no authorize_url"),
    ]:
        await it.provide(name, announced)
        with pytest.raises(error, match=words):
            await it.begin(name)
    await it.provide("led")
    it.provider.metadata["/led/.well-known/openid-configuration"] = lambda: web.Response(
        status=302, headers={"Location": f"{url}/well/.well-known/openid-configuration"}
    )
    it.provider.metadata["/led2/.well-known/openid-configuration"] = it.provider.metadata["/led/.well-known/openid-configuration"]
    await told(it.gateway, putting("identity_provider", "led2", org="global", issuer=f"{url}/led2", client_id="client"))
    with pytest.raises(Unavailable, match="answered 302"):
        await it.begin("led2")
    shown = await got(it.gateway, "identity_provider", "led2", org="global")
    assert "answered 302" in shown.warnings[0]["message"]
    # A private address that the operator has not allowed; the token address that leads elsewhere; keys that are nowhere.
    await told(it.gateway, putting("identity_provider", "near", org="global", issuer="https://10.0.0.1", client_id="client"))
    with pytest.raises(Unavailable, match="may not be fetched from"):
        await it.begin("near")
    await it.provide("moved")

    async def moved(_asked: Any) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "https://evil.example/token"})

    it.provider.faults = [moved]
    assert "never followed" in reason(await it.sign_in("moved"))
    await it.provide("keyless", {"jwks_uri": "ftp://evil.example"})
    assert "no address of its keys" in reason(await it.sign_in("keyless"))


async def test_a_person_is_asked_about_where_the_token_leaves_their_groups_open_and_only_then(it: LocalIssuer) -> None:
    url = it.provider.url
    await it.provide("asked", {"userinfo_endpoint": f"{url}/asked/me"}, groups={"dev": {"acme": "developer"}})
    said: dict[str, Any] = {"sub": "ada", "groups": ["dev"], "iss": "https://evil.example"}
    it.provider.metadata["/asked/me"] = lambda: web.json_response(said)
    assert (await it.sign_in("asked", groups=[])).person.roles == {}  # type: ignore[union-attr]
    assert "/asked/me" not in it.provider.looked_up
    ended = await it.sign_in("asked")
    assert ended.person is not None
    assert (ended.person.roles, ended.person.issuer) == ({"acme": "developer"}, f"{url}/asked")
    said["sub"] = "somebody else"
    assert "about another one" in reason(await it.sign_in("asked"))
    # Nobody's roles are taken away because the provider could not be asked, or does not send all groups.
    it.provider.metadata["/asked/me"] = lambda: web.Response(status=500)
    assert "without saying more" in reason(await it.sign_in("asked"), "unreachable")
    for claims in ({"hasgroups": True}, {"_claim_names": {"groups": "src1"}}):
        assert "more groups than the provider sends" in reason(await it.sign_in("asked", **claims))


async def test_only_verified_addresses_of_allowed_domains_count(it: LocalIssuer) -> None:
    await it.provide("mail", email_domains=["acme.example"])
    for claims, words in [
        ({}, "vouches for no e-mail address"),
        ({"email": "ada@acme.example"}, "vouches for no e-mail address"),
        ({"email": "ada@acme.example", "email_verified": False}, "vouches for no e-mail address"),
        ({"email": "ada@evil.example", "email_verified": True}, "a domain that is not allowed"),
        ({"email": "ada@acme.example@evil.example", "email_verified": True}, "a domain that is not allowed"),
        ({"email": "ada@sub.acme.example", "email_verified": True}, "a domain that is not allowed"),
        # Cut, or without what nobody sees, they would be of the allowed domain.
        ({"email": f"{'a' * 187}@acme.example.evil.example", "email_verified": True}, "vouches for no e-mail address"),
        ({"email": "ada@acme\u200d.example", "email_verified": True}, "vouches for no e-mail address"),
    ]:
        assert words in reason(await it.sign_in("mail", **claims))
    ended = await it.sign_in("mail", email="ada@ACME.example", email_verified="true")
    assert ended.person is not None
    # The mapping is empty: what they may do is for others to say.
    assert ended.person.roles is None


async def test_what_cannot_be_an_identity_provider_is_refused_where_it_is_put(it: LocalIssuer) -> None:
    async def refused(words: str, **spec: Any) -> None:
        usual = {"issuer": "https://id.example", "client_id": "client", "org": "global"}
        with pytest.raises(Invalid, match=words):
            await told(it.gateway, putting("identity_provider", "bad", ring(it.place), **usual | spec))

    for issuer in (
        "http://id.example",
        "ftp://id.example",
        "https://a@id.example",
        "https://id.example?a=b",
        "https://{a}.example",
    ):
        await refused("issuer must be", issuer=issuer)
    await refused("org must be global", org="acme")
    await refused("just_in_time needs", just_in_time=True)
    await refused(r"email_domains\[0\]", email_domains=["@acme.example"])
    await refused("secret", client_secret="line\nbreak")
    # The secret goes to no other issuer than it was given for.
    await it.provide("kept")
    with pytest.raises(Invalid, match="client_secret has to be given again"):
        await told(
            it.gateway,
            putting("identity_provider", "kept", org="global", issuer="https://evil.example", client_id="client", patch=True),
        )


async def test_those_that_are_enabled_are_offered_and_one_that_changes_meanwhile_signs_nobody_in(it: LocalIssuer) -> None:
    issuer = await it.provide("offered", display_name="The company")

    async def patch(**spec: Any) -> None:
        await told(it.gateway, putting("identity_provider", "offered", ring(it.place), org="global", patch=True, **spec))

    async def names() -> dict[str, str]:
        return {one.name: one.display_name for one in await it.gateway.ask(ListSignInProviders(org="global"))}

    assert (await names())["offered"] == "The company"
    asked = await it.begin("offered")
    token = it.signed("offered", it.claims("offered", asked))
    await patch(enabled=False)
    assert "offered" not in await names()
    with pytest.raises(NotFound):
        await it.begin("offered")
    assert "any more" in reason(await it.finish(asked, token))
    await patch(enabled=True)
    asked = await it.begin("offered")
    await patch(client_id="another", client_secret="another-secret")
    assert "another issuer or client" in reason(await it.finish(asked, it.signed("offered", it.claims("offered", asked))))
    # Who signs out here is signed out there as well, where it can be.
    out = await it.gateway.ask(GetSignOut(org="global", issuer=issuer, redirect="https://millrace.example/"))
    assert out.url == f"{issuer}/out?a=b&client_id=another&post_logout_redirect_uri=https%3A%2F%2Fmillrace.example%2F"
    assert (await it.gateway.ask(GetSignOut(org="global", issuer="https://evil.example", redirect="/"))).url is None
    asked = await it.begin("offered")
    await it.gateway.ask(removing("identity_provider", "offered", org="global"))
    assert reason(await it.finish(asked, token), "unknown")


async def test_a_sign_in_outlives_a_service_that_is_killed_and_an_answer_that_it_had_taken_is_lost(servers: Servers) -> None:
    async with servers.place() as place, local_provider() as provider, bus_of(place, "gateway") as gateway:
        it = LocalIssuer(place, provider, gateway)

        async def provided() -> bool:
            try:
                await it.provide("killed")
            except Unavailable:
                return False
            return True

        async with oauth_process(place) as process:
            await eventually(provided)
            asked = await it.begin("killed")
            process.kill()
            await process.wait()
        async with oauth_process(place) as process:
            await eventually(provided)
            assert (await it.finish(asked, it.signed("killed", it.claims("killed", asked)))).person is not None
            asked = await it.begin("killed")
            came, _ = provider.hold_next()
            lost = asyncio.create_task(it.finish(asked, it.signed("killed", it.claims("killed", asked))))
            await came.wait()
            process.kill()
            await process.wait()
            lost.cancel()
        async with oauth_process(place):
            await eventually(provided)
            # Its code may have been used.
            assert "begin again" in reason(await it.come_back(asked["state"]), "unknown")
            assert (await it.sign_in("killed")).person is not None
