"""An OpenID Connect server on the loopback that says of people whatever it is told, and somebody who signs in by it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec

from shared.bus import Bus
from shared.envelope import new_id
from shared.jose import encoded, signed_token
from shared.questions.sign_in import BeginSignIn, FinishSignIn, SignInBegun, SignInEnded
from tests.support.connections import ALLOWED
from tests.support.inside import bus_of, running
from tests.support.oauth_provider import LocalProvider, local_provider
from tests.support.resources import putting, ring, told
from tests.support.servers import Place

CALLBACK = "https://millrace.example/auth/callback"
BROWSER = "the hash of a browser's cookie"
CODE = "a-code-secret"


class LocalIssuer:
    """Issuers by name on one server, each with its keys; `keys` are by issuer, then by their id."""

    def __init__(self, place: Place, provider: LocalProvider, gateway: Bus) -> None:
        self.place = place
        self.provider = provider
        self.gateway = gateway
        self.keys: dict[str, dict[str, Any]] = {}
        self.asked_for_keys: list[str] = []

    async def provide(self, name: str, announced: dict[str, Any] | None = None, **spec: Any) -> str:
        """Have an identity provider of that name, with an issuer of its own that announces this besides; return the issuer."""
        issuer = f"{self.provider.url}/{name}"
        self.keys[name] = {"first": ec.generate_private_key(ec.SECP256R1())}
        usual = {"issuer": issuer, "jwks_uri": f"{issuer}/jwks", "end_session_endpoint": f"{issuer}/out?a=b"}
        self.provider.announce(at=f"/{name}/.well-known/openid-configuration", **usual | (announced or {}))
        self.provider.metadata[f"/{name}/jwks"] = lambda: self._key_set(name)
        given = {"issuer": issuer, "client_id": "client", "client_secret": "client-secret"} | spec
        await told(self.gateway, putting("identity_provider", name, ring(self.place), org="global", **given))
        return issuer

    def _key_set(self, name: str) -> web.Response:
        self.asked_for_keys.append(name)
        return web.json_response({"keys": [jwk(id_, one.public_key()) for id_, one in self.keys[name].items()]})

    async def begin(self, name: str, browser: str = BROWSER, return_to: str = "/") -> dict[str, str]:
        """Begin to sign in; return the parameters of the provider's address."""
        command = BeginSignIn(
            id=new_id(),
            org="global",
            actor="anonymous",
            provider=name,
            browser=browser,
            redirect=CALLBACK,
            return_to=return_to,
        )
        begun: SignInBegun = await self.gateway.ask(command)
        return dict(parse_qsl(urlsplit(begun.url).query))

    def claims(self, issuer: str, asked: dict[str, str], /, **more: Any) -> dict[str, Any]:
        """Return the claims of a good token for who was led to the provider with these parameters; None leaves one out."""
        now = int(time.time())
        usual = {
            "iss": f"{self.provider.url}/{issuer}",
            "aud": asked["client_id"],
            "nonce": asked["nonce"],
            "iat": now,
            "exp": now + 300,
            "sub": "ada",
        }
        return {claim: value for claim, value in (usual | more).items() if value is not None}

    def signed(self, name: str, claims: dict[str, Any], key: str = "first", **header: str) -> str:
        """Return a token, signed by a key of an issuer."""
        return signed_token(claims, self.keys[name][key], "ES256", {"kid": key} | header)

    async def finish(self, asked: dict[str, str], id_token: str | None, **more: Any) -> SignInEnded:
        """Come back from the provider, which then gives this token for the code."""
        self.provider.codes[CODE] = {"redirect_uri": CALLBACK}
        self.provider.more = {"id_token": id_token}
        return await self.come_back(asked["state"], **more)

    async def come_back(self, state: str, **more: Any) -> SignInEnded:
        """Come back from the provider with a code, as the gateway passes it on."""
        id_ = new_id()
        usual = {
            "id": id_,
            "org": "global",
            "actor": "anonymous",
            "redirect": CALLBACK,
            "sealed_code": ring(self.place).seal(CODE, "global", id_, "code"),
            "browser": BROWSER,
        }
        ended: SignInEnded = await self.gateway.ask(FinishSignIn(state=state, **usual | more))
        return ended

    async def sign_in(self, issuer: str, /, **claims: Any) -> SignInEnded:
        """Sign in with these claims, by a good token else."""
        asked = await self.begin(issuer)
        return await self.finish(asked, self.signed(issuer, self.claims(issuer, asked, **claims)))


def jwk(id_: str | None, key: ec.EllipticCurvePublicKey, **more: Any) -> dict[str, Any]:
    """Return a public key as it stands in a key set."""
    numbers = key.public_numbers()
    point = {name: encoded(value.to_bytes(32, "big")) for name, value in (("x", numbers.x), ("y", numbers.y))}
    return {"kty": "EC", "crv": "P-256", **point, **({} if id_ is None else {"kid": id_}), **more}


@asynccontextmanager
async def issuing(place: Place) -> AsyncIterator[LocalIssuer]:
    """Run the oauth service in this process, with a server for its issuers."""
    async with local_provider() as provider, bus_of(place, "gateway") as gateway, running(place, "oauth", **ALLOWED):
        yield LocalIssuer(place, provider, gateway)
