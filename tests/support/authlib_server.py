"""An OAuth server made of Authlib's, on the loopback: another reading of code, PKCE, `iss`, rotation and revocation."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from authlib.common.security import generate_token
from authlib.oauth2.rfc6749 import AuthorizationServer, ClientMixin, OAuth2Request, TokenMixin, grants
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerGrant
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc9207 import IssuerParameter
from joserfc.jwk import RSAKey

from tests.support.web import served

PERSON = "ada"


class Client(ClientMixin):
    """The one client; `method` is how it shows who it is, and `secret` that, or its public key as PEM."""

    def __init__(self, secret: str, redirect: str, method: str) -> None:
        self.secret = secret
        self.redirect = redirect
        self.method = method

    def get_client_id(self) -> str:
        return "a client"

    def get_default_redirect_uri(self) -> str:
        return self.redirect

    def get_allowed_scope(self, scope: str) -> str:
        # Narrower than what is asked for.
        return " ".join(one for one in scope.split() if one != "write")

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return redirect_uri == self.redirect

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method == self.method

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code"

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in {"authorization_code", "refresh_token", "client_credentials", _Bearer.GRANT_TYPE}


class Code:
    """A code that was given out, for a request."""

    def __init__(self, request: OAuth2Request) -> None:
        data = request.payload.data
        self.redirect = request.payload.redirect_uri
        self.scope = request.scope
        self.code_challenge = data.get("code_challenge")
        self.code_challenge_method = data.get("code_challenge_method")

    def get_redirect_uri(self) -> str:
        return self.redirect

    def get_scope(self) -> str:
        return self.scope


class Issued(TokenMixin):
    """A pair of tokens; `live` are those of them that count."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.live = {document["access_token"], document.get("refresh_token")} - {None}

    def check_client(self, client: Client) -> bool:
        return True

    def get_scope(self) -> str:
        return str(self.document.get("scope", ""))


class _Request(OAuth2Request):
    def __init__(self, request: web.Request, form: Mapping[str, str]) -> None:
        super().__init__(request.method, str(request.url), headers=dict(request.headers))
        self.payload = BasicOAuth2Payload({**request.query, **form})
        self._form, self._args = form, dict(request.query)

    @property
    def form(self) -> Mapping[str, str]:
        return self._form

    @property
    def args(self) -> Mapping[str, str]:
        return self._args


class _Response(web.Response):
    @property
    def location(self) -> str | None:
        return self.headers.get("Location")

    @location.setter
    def location(self, value: str) -> None:
        self.headers["Location"] = value


class SecondServer(AuthorizationServer):
    """The server; `issued` is what it has given out, `refused` the refusals, by their code."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.url = ""
        self.client = client
        self.codes: dict[str, Code] = {}
        self.issued: list[Issued] = []
        self.refused: list[str] = []
        tokens = BearerTokenGenerator(lambda **_: generate_token(42), lambda **_: generate_token(48))
        self.register_token_generator("default", tokens)
        self.register_grant(_CodeGrant, [CodeChallenge(required=True)])
        self.register_grant(_RefreshGrant)
        self.register_grant(grants.ClientCredentialsGrant)
        self.register_grant(_Bearer)
        self.register_endpoint(_Revocation)
        self.register_extension(_Issuer(self))

    def of(self, token: str) -> Issued | None:
        """Return the pair that a token that counts is of."""
        return next((one for one in self.issued if token in one.live), None)

    def query_client(self, client_id: str) -> Client | None:
        return self.client if client_id == self.client.get_client_id() else None

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        self.issued.append(Issued(token))

    def create_oauth2_request(self, request: Any) -> OAuth2Request:
        return request

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        pass

    def handle_response(self, status: int, body: Any, headers: Any) -> web.Response:
        if isinstance(body, dict) and "error" in body:
            self.refused.append(body["error"])
        named = {name: value for name, value in headers if name.lower() != "content-type"}
        content = json.dumps(body) if isinstance(body, dict) else body
        return _Response(text=content, status=status, headers=named, content_type="application/json")

    async def authorize(self, request: web.Request) -> web.Response:
        """Let the person agree at once."""
        asked = _Request(request, {})
        grant = self.get_consent_grant(asked, PERSON)
        return self.create_authorization_response(asked, PERSON, grant)

    async def token(self, request: web.Request) -> web.Response:
        """Answer a token request."""
        return self.create_token_response(_Request(request, dict(await request.post())))

    async def revoke(self, request: web.Request) -> web.Response:
        """Answer a revocation."""
        return self.create_endpoint_response("revocation", _Request(request, dict(await request.post())))

    async def metadata(self, request: web.Request) -> web.Response:
        """Announce all that (RFC 8414)."""
        return web.json_response(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "revocation_endpoint": f"{self.url}/revoke",
                "token_endpoint_auth_methods_supported": [self.client.method],
                "authorization_response_iss_parameter_supported": True,
            }
        )


class _Issuer(IssuerParameter):
    def __init__(self, server: SecondServer) -> None:
        self._server = server

    def get_issuer(self) -> str:
        return self._server.url


class _CodeGrant(grants.AuthorizationCodeGrant):
    def save_authorization_code(self, code: str, request: OAuth2Request) -> None:
        self.server.codes[code] = Code(request)

    def query_authorization_code(self, code: str, client: Client) -> Code | None:
        return self.server.codes.get(code)

    def delete_authorization_code(self, authorization_code: Code) -> None:
        self.server.codes = {code: one for code, one in self.server.codes.items() if one is not authorization_code}

    def authenticate_user(self, authorization_code: Code) -> str:
        return PERSON


class _RefreshGrant(grants.RefreshTokenGrant):
    INCLUDE_NEW_REFRESH_TOKEN = True
    TOKEN_ENDPOINT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

    def authenticate_refresh_token(self, refresh_token: str) -> Issued | None:
        return self.server.of(refresh_token)

    def authenticate_user(self, refresh_token: Issued) -> str:
        return PERSON

    def revoke_old_credential(self, refresh_token: Issued) -> None:
        refresh_token.live.clear()


class _Bearer(JWTBearerGrant):
    def resolve_issuer_client(self, issuer: str) -> Client | None:
        return self.server.query_client(issuer)

    def resolve_client_public_key(self, client: Client) -> RSAKey:
        return RSAKey.import_key(client.secret)

    def get_audiences(self) -> list[str]:
        return [f"{self.server.url}/token"]

    def authenticate_user(self, subject: str) -> str | None:
        return PERSON if subject == PERSON else None

    def has_granted_permission(self, client: Client, user: str) -> bool:
        return True


class _Revocation(RevocationEndpoint):
    CLIENT_AUTH_METHODS = ("client_secret_basic", "client_secret_post")

    def query_token(self, token_string: str, token_type_hint: str | None) -> Issued | None:
        return self.server.of(token_string)

    def revoke_token(self, token: Issued, request: OAuth2Request) -> None:
        token.live.discard(request.form["token"])


@asynccontextmanager
async def second_server(redirect: str, *, secret: str, method: str) -> AsyncIterator[SecondServer]:
    """Run the server for the block, with a client of that secret."""
    made, application = SecondServer(Client(secret, redirect, method)), web.Application()
    application.router.add_get("/.well-known/oauth-authorization-server", made.metadata)
    application.router.add_get("/authorize", made.authorize)
    application.router.add_post("/token", made.token)
    application.router.add_post("/revoke", made.revoke)
    async with served(application) as made.url:
        yield made
