"""Token requests as the specification and providers' habits have them. Pure: no socket, no clock."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote_plus, urlencode, urlsplit

import msgspec

from shared.resources.provider import Provider


class OAuthClient(msgspec.Struct, frozen=True):
    """A client at a provider, with its secret; no secret for a public one."""

    id: str
    secret: str | None

    def __repr__(self) -> str:
        """Show no secret."""
        return f"OAuthClient({self.id!r})"


class TokenRequest(msgspec.Struct, frozen=True):
    """A request, ready to send; its body and its headers hold secrets."""

    url: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        """Show no secret."""
        return f"TokenRequest({self.url!r})"


def client_credentials(provider: Provider, url: str, client: OAuthClient, scope: str) -> TokenRequest:
    """Return the request for a token of the client's own (RFC 6749, section 4.4)."""
    asked = {"grant_type": "client_credentials"} | ({"scope": scope} if scope else {}) | provider.token_parameters
    return _request(provider, url, client, asked)


def refreshing(provider: Provider, url: str, client: OAuthClient, refresh_token: str) -> TokenRequest:
    """Return the request that refreshes a token (section 6)."""
    asked = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return _request(provider, url, client, asked | provider.token_parameters | provider.refresh_parameters)


def exchanging(provider: Provider, url: str, client: OAuthClient, code: str, redirect: str, verifier: str | None) -> TokenRequest:
    """Return the request that exchanges a code for a token (section 4.1.3), with PKCE's verifier if it was used."""
    asked = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect}
    proof = {} if verifier is None else {"code_verifier": verifier}
    return _request(provider, url, client, asked | proof | provider.token_parameters)


def revoking(provider: Provider, url: str, client: OAuthClient, token: str, hint: str) -> TokenRequest:
    """Return the request that revokes a token (RFC 7009); `hint` is its kind."""
    # A form, unless the provider says otherwise: RFC 7009 knows nothing else, whatever token requests are sent as.
    its = msgspec.structs.replace(provider, token_format=provider.revoke_format or "form")
    return _request(its, url, client, {"token": token, "token_type_hint": hint})


def authorizing(
    provider: Provider, url: str, client_id: str, *, redirect: str, scope: str, state: str, verifier: str | None
) -> str:
    """Return the address where a person is asked (section 4.1.1, RFC 7636)."""
    asked = {"response_type": "code", "client_id": client_id, "redirect_uri": redirect, "state": state}
    asked |= {"scope": scope} if scope else {}
    if verifier is not None:
        digest = hashlib.sha256(verifier.encode()).digest()
        asked |= {"code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="), "code_challenge_method": "S256"}
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query, keep_blank_values=True), *(provider.authorize_parameters | asked).items()]
    return parts._replace(query=urlencode(query)).geturl()


def scope_of(provider: Provider, scopes: list[str]) -> str:
    """Return the scope that is asked for: the connection's, else the provider's."""
    return (provider.scope_separator or " ").join(scopes or provider.scopes)


def _request(provider: Provider, url: str, client: OAuthClient, asked: Mapping[str, str]) -> TokenRequest:
    headers, parameters = provider.token_headers | {"Accept": "application/json"}, dict(asked)
    if provider.client_authentication == "basic" and client.secret is not None:
        # Both are form-encoded first (section 2.3.1).
        pair = f"{quote_plus(client.id)}:{quote_plus(client.secret)}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        parameters["client_id"] = client.id
        if client.secret is not None and provider.client_authentication != "none":
            parameters["client_secret"] = client.secret
    if provider.token_format == "json":
        return TokenRequest(url, headers | {"Content-Type": "application/json"}, msgspec.json.encode(parameters))
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return TokenRequest(url, headers | form, urlencode(parameters).encode())
