"""Discovers a provider's addresses from its issuer (RFC 8414, OpenID Connect Discovery 1.0)."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from services.oauth.addresses import check_template
from shared.egress.fetched import FetchedDocuments
from shared.errors import Invalid, Problem, Unavailable
from shared.resources.provider import ADDRESSES, ClientAuthentication, Provider

# How a client shows who it is, best first.
_AUTHENTICATIONS: dict[str, ClientAuthentication] = {
    "client_secret_basic": "basic",
    "client_secret_post": "post",
    "private_key_jwt": "private_key_jwt",
    "client_secret_jwt": "client_secret_jwt",
    "none": "none",
}


class Discovered(msgspec.Struct, frozen=True):
    """What an issuer announces: its addresses, and how clients may show who they are, best first.

    `promises_iss`: each of its answers to a browser has `iss` (RFC 9207). `key_set` is where the keys are that sign its tokens,
    `end_session_url` where people are signed out.
    """

    provider: Provider
    authentications: tuple[ClientAuthentication, ...]
    promises_iss: bool
    key_set: str | None = None
    end_session_url: str | None = None


class _Metadata(msgspec.Struct, frozen=True, kw_only=True):
    issuer: str
    token_endpoint: str
    authorization_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    introspection_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    jwks_uri: str | None = None
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: list[str] | None = None
    authorization_response_iss_parameter_supported: bool = False


class _Foreign(msgspec.Struct, frozen=True):
    """Metadata that is that of another issuer."""

    issuer: str


class Discovery:
    """The metadata of issuers, kept for an hour, and for a day where it cannot be fetched anew."""

    def __init__(self, documents: FetchedDocuments) -> None:
        self._documents = documents

    async def of(self, org: str, issuer: str) -> Discovered:
        """Return what an issuer announces, asked under the organization's egress policy; no redirect is followed.

        Raises `Invalid` for metadata of another issuer, which is used for nothing; `Unavailable` where there is none.
        """
        documents, failed, reasons = self._documents.of(org), Unavailable(""), []
        # One that has answered before is the one to ask.
        for url in sorted(_places(issuer), key=lambda one: documents.known(one) is None):
            try:
                await documents.load(url, lambda read: _read(read, issuer), anew=isinstance(documents.known(url), _Foreign))
            except Unavailable as error:
                failed = error
                reasons.append(error.detail)
                continue
            found: Discovered | _Foreign = documents.known(url)
            if isinstance(found, _Foreign):
                raise _foreign(url, found, issuer)
            return found
        raise type(failed)(f"the issuer's metadata could not be fetched: {'; '.join(dict.fromkeys(reasons))}", retry_after=10)

    def warning(self, org: str, issuer: str) -> str | None:
        """Return what is wrong with an issuer, as it was when it was last asked within the hour; nothing is asked for this."""
        documents, places = self._documents.of(org), _places(issuer)
        for url in places:
            if (found := documents.known(url)) is not None:
                return _foreign(url, found, issuer).detail if isinstance(found, _Foreign) else None
        reasons = [reason for url in places if (reason := documents.failure(url)) is not None]
        return f"its metadata could not be fetched: {'; '.join(dict.fromkeys(reasons))}" if reasons else None


def _foreign(url: str, found: _Foreign, issuer: str) -> Invalid:
    detail = f"{url} is the metadata of {found.issuer!r}, and not of {issuer!r}"
    return Invalid(detail, errors=(Problem("issuer", detail),))


def _places(issuer: str) -> list[str]:
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    return [
        parts._replace(path=f"{path}/.well-known/openid-configuration").geturl(),
        parts._replace(path=f"/.well-known/oauth-authorization-server{path}").geturl(),
    ]


def _read(document: bytes, issuer: str) -> Discovered | _Foreign:
    """Return what metadata means. Raises ValueError for what is none."""
    read = msgspec.json.decode(document, type=_Metadata)
    if read.issuer != issuer:
        return _Foreign(read.issuer[:300])
    # Without a list it is this one.
    methods = read.token_endpoint_auth_methods_supported or ["client_secret_basic"]
    authentications = tuple(one for name, one in _AUTHENTICATIONS.items() if name in methods)
    provider = Provider(
        token_url=read.token_endpoint,
        authorize_url=read.authorization_endpoint,
        device_url=read.device_authorization_endpoint,
        revoke_url=read.revocation_endpoint,
        introspect_url=read.introspection_endpoint,
        userinfo_url=read.userinfo_endpoint,
    )
    for field in ADDRESSES:
        if (address := getattr(provider, field)) is not None:
            _check(field, address, issuer)
    return Discovered(
        provider,
        authentications,
        read.authorization_response_iss_parameter_supported,
        _usable("jwks_uri", read.jwks_uri, issuer),
        _usable("end_session_endpoint", read.end_session_endpoint, issuer),
    )


def _usable(field: str, address: str | None, issuer: str) -> str | None:
    """Return an address that no connection needs, None where it is wrong."""
    try:
        if address is not None:
            _check(field, address, issuer)
    except ValueError:
        return None
    return address


def _check(field: str, address: str, issuer: str) -> None:
    """Raise ValueError for an address that is none, that a parameter would change, or that is less safe than the issuer's."""
    try:
        check_template(field, address, [])
    except Invalid as error:
        raise ValueError(error.detail) from error
    if "{" in address or (urlsplit(address).scheme == "http" and urlsplit(issuer).scheme != "http"):
        raise ValueError(f"{field} must be an address that begins with https://, without braces")
