"""Token requests as the specifications and providers' habits have them. Pure: no socket, no clock."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec

from services.oauth.domain import is_key
from shared.errors import Invalid, Problem
from shared.jose import Key, encoded, private_key_of, signed_token, suits, thumbprint_of, usual_algorithm
from shared.resources.connection import Connection
from shared.resources.provider import Format, Provider

# An assertion is good from a little before it is made, since clocks differ, and for as long as a slow request takes.
BEFORE, GOOD = timedelta(seconds=30), timedelta(seconds=120)
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
_CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Reading a key checks it, which takes longer than signing.
_key = lru_cache(maxsize=64)(private_key_of)


class OAuthClient(msgspec.Struct, frozen=True):
    """A client at a provider, with its secret, which may be a private key of the id `key_id`; none for a public one."""

    id: str
    secret: str | None
    key_id: str | None = None

    @property
    def has_key(self) -> bool:
        """Return whether the secret is a private key, which is never sent."""
        return self.secret is not None and is_key(self.secret)

    def __repr__(self) -> str:
        """Show no secret."""
        return f"OAuthClient({self.id!r})"


class RequestStamp(msgspec.Struct, frozen=True):
    """When a request is made, by its receiver's clock, and an id that no other one has: for what is signed."""

    at: datetime
    id: str


class TokenCall(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a request goes to, from whom, and when: what every request to a provider is made of."""

    provider: Provider
    client: OAuthClient
    url: str
    issuer: str | None
    stamp: RequestStamp

    def __repr__(self) -> str:
        """Show no secret."""
        return f"TokenCall({self.url!r})"


class TokenRequest(msgspec.Struct, frozen=True):
    """A request, ready to send; its body and its headers hold secrets. `is_signed`: it holds an assertion, which has times."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    is_signed: bool = False

    def __repr__(self) -> str:
        """Show no secret."""
        return f"TokenRequest({self.url!r})"


def client_credentials(call: TokenCall, spec: Connection, _subject: str | None) -> TokenRequest:
    """Return the request for a token of the client's own (RFC 6749, section 4.4)."""
    return _request(call, {"grant_type": "client_credentials"} | _scope(call, spec) | call.provider.token_parameters)


def jwt_bearer(call: TokenCall, spec: Connection, _subject: str | None) -> TokenRequest:
    """Return the request with an assertion in the name of the client, or of `spec.subject` (RFC 7523, section 2.1).

    GitHub takes it in a header: the provider's `assertion_in`.
    """
    provider, client, scope = call.provider, call.client, _scope(call, spec)
    if not client.has_key:
        raise _unfit("is no private key, which jwt_bearer needs")
    about = {} if spec.subject is None else {"sub": spec.subject}
    claims = about | scope | {"iss": client.id, "aud": provider.assertion_audience or call.url}
    assertion = _assertion(call, claims)
    if provider.assertion_in == "header":
        return _sent(
            _in(call, provider.token_format or "json"),
            provider.token_parameters,
            {"Authorization": f"Bearer {assertion}"},
            is_signed=True,
        )
    asked = {"grant_type": JWT_BEARER, "assertion": assertion} | scope | provider.token_parameters
    return _sent(call, asked, {}, is_signed=True)


def token_exchange(call: TokenCall, spec: Connection, subject: str | None) -> TokenRequest:
    """Return the request that exchanges the token `subject` for another one (RFC 8693, section 2.1)."""
    asked = {"grant_type": TOKEN_EXCHANGE, "subject_token": subject or "", "subject_token_type": ACCESS_TOKEN}
    return _request(call, asked | _scope(call, spec) | call.provider.token_parameters)


# The requests of those who ask without a person, by their grant.
REQUESTS: Mapping[str, Callable[[TokenCall, Connection, str | None], TokenRequest]] = {
    "client_credentials": client_credentials,
    "jwt_bearer": jwt_bearer,
    "token_exchange": token_exchange,
}


def refreshing(call: TokenCall, refresh_token: str) -> TokenRequest:
    """Return the request that refreshes a token (RFC 6749, section 6)."""
    asked = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return _request(call, asked | call.provider.token_parameters | call.provider.refresh_parameters)


def exchanging(call: TokenCall, code: str, redirect: str, verifier: str | None) -> TokenRequest:
    """Return the request that exchanges a code for a token (section 4.1.3), with PKCE's verifier if it was used."""
    asked = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect}
    proof = {} if verifier is None else {"code_verifier": verifier}
    return _request(call, asked | proof | call.provider.token_parameters)


def asking_for_device(call: TokenCall, spec: Connection) -> TokenRequest:
    """Return the request for the codes of a device and of its user (RFC 8628, section 3.1)."""
    return _request(_in(call, "form"), _scope(call, spec))


def polling(call: TokenCall, device_code: str) -> TokenRequest:
    """Return the request that asks whether a device's user has allowed it (section 3.4)."""
    return _request(call, {"grant_type": DEVICE_CODE, "device_code": device_code} | call.provider.token_parameters)


def revoking(call: TokenCall, token: str, hint: str) -> TokenRequest:
    """Return the request that revokes a token (RFC 7009); `hint` is its kind."""
    # A form, unless the provider says otherwise: RFC 7009 knows nothing else, whatever token requests are sent as.
    return _request(_in(call, call.provider.revoke_format or "form"), {"token": token, "token_type_hint": hint})


def introspecting(call: TokenCall, token: str) -> TokenRequest:
    """Return the request that asks whether a token is active (RFC 7662)."""
    return _request(_in(call, "form"), {"token": token, "token_type_hint": "access_token"})


def authorizing(
    provider: Provider, url: str, client_id: str, *, redirect: str, scope: str, state: str, verifier: str | None
) -> str:
    """Return the address where a person is asked (section 4.1.1, RFC 7636)."""
    asked = {provider.scope_parameter or "scope": scope} if scope else {}
    asked |= {_id_parameter(provider): client_id}
    asked |= {"response_type": "code", "redirect_uri": redirect, "state": state}
    if verifier is not None:
        digest = hashlib.sha256(verifier.encode()).digest()
        asked |= {"code_challenge": encoded(digest), "code_challenge_method": "S256"}
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query, keep_blank_values=True), *(provider.authorize_parameters | asked).items()]
    return parts._replace(query=urlencode(query)).geturl()


def scope_of(provider: Provider, scopes: list[str]) -> str:
    """Return the scope that is asked for: the connection's, else the provider's."""
    return (provider.scope_separator or " ").join(scopes or provider.scopes)


def _scope(call: TokenCall, spec: Connection) -> dict[str, str]:
    scope = scope_of(call.provider, spec.scopes)
    return {"scope": scope} if scope else {}


def _id_parameter(provider: Provider) -> str:
    return provider.client_id_parameter or "client_id"


def _in(call: TokenCall, form: Format) -> TokenCall:
    return msgspec.structs.replace(call, provider=msgspec.structs.replace(call.provider, token_format=form))


def _request(call: TokenCall, asked: Mapping[str, str]) -> TokenRequest:
    """Return a request that shows who the client is, as its provider wants it (RFC 6749, section 2.3; OpenID Connect, 9)."""
    client = call.client
    wanted = call.provider.client_authentication or ("private_key_jwt" if client.has_key else "post")
    if client.secret is None or wanted == "none":
        return _sent(call, {**asked, _id_parameter(call.provider): client.id}, {})
    if wanted == "private_key_jwt" and not client.has_key:
        raise _unfit("is no private key, which private_key_jwt needs")
    if wanted != "private_key_jwt" and client.has_key:
        raise _unfit(f"is a private key, which is never sent: client_authentication is {wanted}, and not private_key_jwt")
    if wanted in {"private_key_jwt", "client_secret_jwt"}:
        audience = call.provider.assertion_audience or call.issuer or call.url
        assertion = _assertion(call, {"iss": client.id, "sub": client.id, "aud": audience})
        proof = {"client_id": client.id, "client_assertion_type": _CLIENT_ASSERTION, "client_assertion": assertion}
        return _sent(call, {**asked, **proof}, {}, is_signed=True)
    if wanted == "post":
        return _sent(call, {**asked, _id_parameter(call.provider): client.id, "client_secret": client.secret}, {})
    # Both are form-encoded first (section 2.3.1), a blank as `%20`: some servers take a `+` for itself.
    pair = f"{quote(client.id, safe='')}:{quote(client.secret, safe='')}"
    return _sent(call, asked, {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"})


def _sent(call: TokenCall, parameters: Mapping[str, str], headers: Mapping[str, str], *, is_signed: bool = False) -> TokenRequest:
    headers = {**call.provider.token_headers, "Accept": "application/json", **headers}
    if call.provider.token_format == "json":
        body = msgspec.json.encode(parameters)
        return TokenRequest(call.url, headers | {"Content-Type": "application/json"}, body, is_signed)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return TokenRequest(call.url, headers | form, urlencode(parameters).encode(), is_signed)


def _assertion(call: TokenCall, claims: dict[str, Any]) -> str:
    """Return a token of these claims, signed by the client; no two are the same, and none is good for long."""
    client, at, secret = call.client, call.stamp.at, call.client.secret or ""
    try:
        key: Key = _key(secret) if client.has_key else secret.encode()
    except ValueError as error:
        raise _unfit(f"cannot be used: {error}") from error
    times = {"iat": int((at - BEFORE).timestamp()), "exp": int((at + GOOD).timestamp()), "jti": call.stamp.id}
    algorithm = call.provider.assertion_algorithm or usual_algorithm(key)
    if algorithm is None or not suits(algorithm, key if isinstance(key, bytes) else key.public_key()):
        raise _unfit(f"is no key for {algorithm}")
    named = {"kid": client.key_id, "x5t#S256": thumbprint_of(secret) if client.has_key else None}
    return signed_token(claims | times, key, algorithm, {name: one for name, one in named.items() if one is not None})


def _unfit(detail: str) -> Invalid:
    return Invalid(f"the client's secret {detail}", errors=(Problem("client_secret", detail),))
