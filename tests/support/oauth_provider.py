"""An OAuth provider on the loopback that behaves as it is told: rotations, outages, rubbish, delays."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import msgspec
from aiohttp import web

from shared.jose import Key, decoded, suits, verifies
from tests.support.web import served

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Answers in place of the usual one: status, headers, body.
Fault = Callable[["Asked"], Awaitable[web.StreamResponse | None]]


class Asked(msgspec.Struct, frozen=True):
    """A token request as it came: its parameters, its headers, and the client that it names, however that was sent."""

    parameters: dict[str, str]
    headers: dict[str, str]
    client: tuple[str, str | None]

    @property
    def grant(self) -> str:
        """Return the grant type."""
        return self.parameters.get("grant_type", "")


class LocalProvider:
    """A token endpoint. A refresh token is used once; a second use ends its whole family, but for one within the `grace`.

    That is in seconds, True for ever; `spared` are the families of each token that was used again within it.

    `faults` are taken one by one, each for one request; None in it means the usual answer. `always` is one for every request.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.revoked: list[dict[str, str]] = []
        self.faults: list[Fault | None] = []
        self.always: Fault | None = None
        self.clients: dict[str, str | None] = {"client": "client-secret"}
        self.life: Any = 3600
        self.rotates = True
        self.grace: float = False
        self.spared: list[str] = []
        self.more: dict[str, Any] = {}
        self.keys: dict[str, Key] = {}
        """Public keys of clients, and bytes of their secrets, by the client's id."""
        self.assertions: list[dict[str, Any]] = []
        """The claims of every assertion that came, with what its header has."""
        self.clock = timedelta(0)
        """How far this server's clock is off."""
        self.device: dict[str, Any] = {"interval": 0.02, "expires_in": 600}
        """What a device is answered besides its codes."""
        self.polls: list[str | None] = []
        """What its polls are answered, one by one: an error's code, None for tokens."""
        self.called: list[str] = []
        self.api_status = 0
        """What the API answers; 0: by the token."""
        self.exchangeable: set[str] = set()
        self.codes: dict[str, dict[str, str]] = {}
        self.metadata: dict[str, Callable[[], web.StreamResponse]] = {}
        """What is answered at well-known addresses, by their path."""
        self.looked_up: list[str] = []
        self.families: dict[str, str] = {}
        """Refresh tokens that are alive, with their family."""
        self.used: dict[str, str] = {}
        self.used_at: dict[str, float] = {}
        self.dead: set[str] = set()
        self.given: list[str] = []
        """Every token, of either kind, that was given out."""
        self.at_once = 0
        self.most_at_once = 0
        self._count = 0

    def begin(self, family: str = "family") -> str:
        """Return the first refresh token of a grant."""
        return self._refresh_token(family)

    def is_alive(self, family: str = "family") -> bool:
        """Return whether a grant can be refreshed."""
        return family not in self.dead

    def hold_next(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Hold the next request up: return what is set when it has come, and what lets it be answered."""
        came, let = asyncio.Event(), asyncio.Event()

        async def slow(_asked: Asked) -> None:
            came.set()
            await let.wait()

        self.faults = [slow]
        return came, let

    async def token(self, request: web.Request) -> web.StreamResponse:
        """Answer a token request."""
        asked = await _asked(request)
        self.asked.append(asked)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            fault = self.faults.pop(0) if self.faults else self.always
            if fault is not None and (answer := await fault(asked)) is not None:
                return answer
            document, status = self.usual(asked)
            return web.json_response(document, status=status, headers=self._dated())
        finally:
            self.at_once -= 1

    async def well_known(self, request: web.Request) -> web.StreamResponse:
        """Answer a look for metadata."""
        self.looked_up.append(request.path)
        answer = self.metadata.get(request.path)
        return web.Response(status=404) if answer is None else answer()

    def announce(self, issuer: str = "", *, at: str = "/.well-known/openid-configuration", **more: Any) -> str:
        """Have metadata of an issuer at a path; return the issuer, which is this server unless given."""
        issuer = issuer or self.url
        endpoints = {"token_endpoint": "token", "authorization_endpoint": "authorize", "revocation_endpoint": "revoke"}
        document = {"issuer": issuer} | {name: f"{self.url}/{path}" for name, path in endpoints.items()} | more
        self.metadata[at] = lambda: web.json_response(document)
        return issuer

    async def revoke(self, request: web.Request) -> web.StreamResponse:
        """Answer a revocation."""
        asked = await _asked(request)
        self.revoked.append(asked.parameters)
        return web.Response()

    def usual(self, asked: Asked) -> tuple[Any, int]:
        """Return the answer as the specification has it, with its status; rotates."""
        parameters = asked.parameters
        if asked.grant == JWT_BEARER:
            refusal = self._refusal(parameters["assertion"])
            return ({"error": "invalid_grant"}, 400) if refusal else (self._answer(None), 200)
        identity, secret = asked.client
        if "client_assertion" in parameters:
            if parameters["client_assertion_type"] != CLIENT_ASSERTION or self._refusal(parameters["client_assertion"]):
                return {"error": "invalid_client"}, 401
        elif self.clients.get(identity, "?") != secret:
            return {"error": "invalid_client"}, 401
        if asked.grant == TOKEN_EXCHANGE and parameters["subject_token"] not in self.exchangeable:
            return {"error": "invalid_request"}, 400
        if asked.grant in {"client_credentials", TOKEN_EXCHANGE}:
            return self._answer(None), 200
        if asked.grant == "authorization_code":
            return self._exchanged(asked)
        if asked.grant == DEVICE_CODE:
            error = (
                self.polls.pop(0) if parameters["device_code"] == "device-code-secret" and self.polls else "authorization_pending"
            )
            return (self._answer(self._refresh_token("family")), 200) if error is None else ({"error": error}, 400)
        old = asked.parameters.get("refresh_token", "")
        family = self.families.get(old)
        if family is None or family in self.dead:
            is_spared = old in self.used and family not in self.dead and self._is_spared(old)
            if old in self.used and not is_spared:
                self.dead.add(self.used[old])
            if not is_spared:
                return {"error": "invalid_grant"}, 400
            family = self.used[old]
        if not self.rotates:
            return self._answer(None), 200
        self.families.pop(old, None)
        self.used[old] = family
        self.used_at.setdefault(old, time.monotonic())
        return self._answer(self._refresh_token(family)), 200

    async def begin_device(self, request: web.Request) -> web.StreamResponse:
        """Answer with the codes of a device and of its user."""
        asked = await _asked(request)
        self.asked.append(asked)
        if self.clients.get(asked.client[0], "?") != asked.client[1]:
            return web.json_response({"error": "invalid_client"}, status=401)
        address = f"{self.url}/device"
        codes = {"device_code": "device-code-secret", "user_code": "WDJB-MJHT", "verification_uri": address}
        return web.json_response(codes | {"verification_uri_complete": f"{address}?user_code=WDJB-MJHT"} | self.device)

    async def introspect(self, request: web.Request) -> web.StreamResponse:
        """Answer whether a token was given out, to a client."""
        asked = await _asked(request)
        if self.clients.get(asked.client[0], "?") != asked.client[1]:
            return web.json_response({"error": "invalid_client"}, status=401)
        return web.json_response({"active": asked.parameters["token"] in self.given})

    async def api(self, request: web.Request) -> web.StreamResponse:
        """Answer as an API that takes every token that was given out, and the key `k1`."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.query.get("key", "")
        self.called.append(token)
        return web.Response(status=self.api_status or (200 if token in {*self.given, "k1"} else 401), text="a secret answer")

    async def installation(self, request: web.Request) -> web.StreamResponse:
        """Answer as GitHub does where an app asks for the token of an installation."""
        refusal = self._refusal(request.headers["Authorization"].removeprefix("Bearer "))
        if refusal:
            return web.json_response({"message": refusal}, status=401, headers=self._dated())
        answer = self._answer(None)
        ends = datetime.now(UTC) + self.clock + timedelta(seconds=self.life)
        document = {"token": answer["access_token"], "expires_at": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return web.json_response(document, status=201, headers=self._dated())

    def _dated(self) -> dict[str, str]:
        return {"Date": format_datetime(datetime.now(UTC) + self.clock, usegmt=True)}

    def _refusal(self, assertion: str) -> str:
        """Return what is wrong with an assertion: its signature, its times by this server's clock, or that it came before."""
        signed, _, signature = assertion.rpartition(".")
        header, claims = (msgspec.json.decode(decoded(part)) for part in signed.split("."))
        self.assertions.append({"header": header} | claims)
        key, now = self.keys[claims["iss"]], (datetime.now(UTC) + self.clock).timestamp()
        if not (suits(header["alg"], key) and verifies(header["alg"], key, decoded(signature), signed.encode())):
            return "signature"
        if not claims["iat"] <= now < claims["exp"] <= now + 600:
            return "time"
        return "again" if [one["jti"] for one in self.assertions].count(claims["jti"]) > 1 else ""

    def _is_spared(self, old: str) -> bool:
        if self.grace is True or time.monotonic() - self.used_at[old] < self.grace:
            self.spared.append(self.used[old])
            return True
        return False

    def _exchanged(self, asked: Asked) -> tuple[Any, int]:
        code = self.codes.pop(asked.parameters.get("code", ""), None)
        if code is None or code["redirect_uri"] != asked.parameters.get("redirect_uri"):
            return {"error": "invalid_grant"}, 400
        return self._answer(self._refresh_token(code.get("family", "family"))), 200

    def _refresh_token(self, family: str) -> str:
        self._count += 1
        token = f"refresh-token-{family}-{self._count}-secret"
        self.families[token] = family
        self.given.append(token)
        return token

    def _answer(self, refresh_token: str | None) -> dict[str, Any]:
        self._count += 1
        access = f"access-token-{self._count}-secret"
        self.given.append(access)
        answer = {"access_token": access, "token_type": "Bearer", "expires_in": self.life, "refresh_token": refresh_token}
        return {name: value for name, value in (answer | self.more).items() if value is not None}


def answers(status: int, body: Any = None, **headers: str) -> Fault:
    """Return the fault that answers this: JSON, or bytes as they are."""

    async def fault(_asked: Asked) -> web.StreamResponse:
        content = body if isinstance(body, bytes) else msgspec.json.encode({} if body is None else body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=status, body=content, headers={"Content-Type": "application/json"} | named)

    return fault


@asynccontextmanager
async def local_provider() -> AsyncIterator[LocalProvider]:
    """Run a provider for the block; its `url` is where its endpoints are."""
    made, application = LocalProvider(), web.Application(client_max_size=1 << 20)
    application.router.add_post("/token", made.token)
    application.router.add_post("/revoke", made.revoke)
    application.router.add_post("/device", made.begin_device)
    application.router.add_post("/introspect", made.introspect)
    application.router.add_get("/api", made.api)
    application.router.add_post("/app/installations/{id}/access_tokens", made.installation)
    application.router.add_get("/{path:.*}", made.well_known)
    async with served(application) as made.url:
        yield made


async def _asked(request: web.Request) -> Asked:
    body = await request.read()
    if request.content_type == "application/json":
        parameters = msgspec.json.decode(body, type=dict[str, str])
    else:
        parameters = dict(parse_qsl(body.decode(), keep_blank_values=True))
    basic = request.headers.get("Authorization", "")
    if basic.startswith("Basic "):
        identity, _, secret = base64.b64decode(basic[6:]).decode().partition(":")
        client: tuple[str, str | None] = (unquote_plus(identity), unquote_plus(secret))
    else:
        client = (parameters.get("client_id", ""), parameters.get("client_secret"))
    return Asked(parameters, dict(request.headers), client)


async def hangs(_asked: Asked) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError
