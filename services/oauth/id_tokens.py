"""What an ID token has to be (OpenID Connect Core 1.0, section 3.1.3.7), and what its claims say of a person. Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Any, get_args

import msgspec

from shared.errors import PermissionDenied, Unauthenticated
from shared.jose import encoded
from shared.resources.declaration import Role
from shared.resources.identity_provider import IdentityProvider
from shared.web_tokens import SignedToken

# By public keys alone: by a secret, whoever has the public key of a careless server could sign.
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
# Seconds that the provider's clock may be off, and that may lie between the making of a token and its receipt.
SKEW, LATE = 60.0, 600.0
# Characters of `sub`.
LONGEST_SUBJECT = 255
# Groups of a person that are looked at.
MOST_GROUPS = 10_000
_ROLES: tuple[Role, ...] = get_args(Role)
# EdDSA is by Ed25519, which hashes by the last one.
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384}


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a token is held against; `nonce` is the hash of the one that was sent."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str

    def __repr__(self) -> str:
        """Show no token."""
        return f"Expected({self.issuer!r})"


def hashed_nonce(nonce: str) -> str:
    """Return a nonce as it is kept."""
    return hashlib.sha256(nonce.encode()).hexdigest()


def check_algorithm(token: SignedToken) -> None:
    """Raise `Unauthenticated` for a token that is signed by no public key."""
    if token.algorithm not in ALGORITHMS:
        raise Unauthenticated("the provider's ID token is signed by an algorithm that is not taken")


def check_claims(token: SignedToken, expected: Expected, now: float) -> None:
    """Raise `Unauthenticated` naming what is wrong with a token whose signature is right; `now` is in seconds."""
    claims = token.payload
    if claims.get("iss") != expected.issuer:
        raise Unauthenticated("the provider's ID token is of another issuer")
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    party = claims.get("azp")
    if expected.client_id not in named or (party is None and len(named) > 1) or party not in {None, expected.client_id}:
        raise Unauthenticated("the provider's ID token is for another client")
    token.check_times(now, SKEW)
    made = token.number("iat")
    if made is None or not now - LATE - SKEW <= made <= now + SKEW:
        raise Unauthenticated("the provider's ID token was not made just now: compare the clocks of both servers")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(hashed_nonce(nonce), expected.nonce):
        raise Unauthenticated("the provider's ID token is that of another sign-in")
    digest = claims.get("at_hash")
    if digest is not None and digest != _left_half(token.algorithm, expected.access_token):
        raise Unauthenticated("the provider's ID token is of another access token")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 1 <= len(subject) <= LONGEST_SUBJECT or not subject.isprintable():
        raise Unauthenticated("the provider's ID token does not say whose it is")


def lacking(spec: IdentityProvider, claims: Mapping[str, Any]) -> bool:
    """Return whether the claims leave something open that is needed of a person, and that the provider may be asked for."""
    if spec.groups and not is_cut(spec, claims) and groups_of(spec, claims) is None:
        return True
    if spec.email_domains and "email" not in claims:
        return True
    return spec.just_in_time and not {"preferred_username", "email"} & claims.keys()


def is_cut(spec: IdentityProvider, claims: Mapping[str, Any]) -> bool:
    """Return whether the provider says that somebody has more groups than it sends: Entra ID does from 200 on."""
    elsewhere = claims.get("_claim_names")
    return claims.get("hasgroups") is True or (isinstance(elsewhere, dict) and spec.groups_claim in elsewhere)


def groups_of(spec: IdentityProvider, claims: Mapping[str, Any]) -> list[str] | None:
    """Return somebody's groups, None where the claim is not there. A claim may have dots in its name."""
    found: Any = claims.get(spec.groups_claim)
    if found is None:
        found = claims
        for one in spec.groups_claim.split("."):
            found = found.get(one) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return [found]
    return [one for one in found[:MOST_GROUPS] if isinstance(one, str)] if isinstance(found, list) else None


def roles_of(spec: IdentityProvider, claims: Mapping[str, Any]) -> dict[str, Role] | None:
    """Return what a person may do, by organization; None where the provider says nothing of that.

    Raises `PermissionDenied` where the provider sends not all of their groups: it would take roles away that they have.
    """
    if not spec.groups and not spec.default_roles:
        return None
    if spec.groups and is_cut(spec, claims):
        raise PermissionDenied(
            "you have more groups than the provider sends: it can be told to send those of the application alone"
        )
    groups = dict.fromkeys(groups_of(spec, claims) or ())
    return _most([spec.default_roles, *(spec.groups[one] for one in groups if one in spec.groups)])


def check_email(spec: IdentityProvider, claims: Mapping[str, Any]) -> None:
    """Raise `PermissionDenied` for a person without an address of an allowed domain that the provider has verified."""
    if not spec.email_domains:
        return
    if (address := email_of(claims)) is None:
        raise PermissionDenied("the provider vouches for no e-mail address of yours, which is needed here")
    if address.rpartition("@")[2].lower() not in {one.lower() for one in spec.email_domains}:
        raise PermissionDenied("your e-mail address is of a domain that is not allowed here")


def email_of(claims: Mapping[str, Any]) -> str | None:
    """Return somebody's verified address, None where there is none."""
    address = claims.get("email")
    # One of which something would be left out is another one, and may be of another domain.
    if not isinstance(address, str) or "@" not in address or address != text_of(claims, "email"):
        return None
    # Some send a text.
    return address if claims.get("email_verified") in (True, "true") else None


def text_of(claims: Mapping[str, Any], name: str) -> str | None:
    """Return a claim that is a text, which anybody may have written."""
    found = claims.get(name)
    return "".join(one for one in found[:200] if one.isprintable()).strip() or None if isinstance(found, str) else None


def _most(given: Iterable[Mapping[str, Role]]) -> dict[str, Role]:
    found: dict[str, Role] = {}
    for roles in given:
        for org, role in roles.items():
            found[org] = max(role, found.get(org, role), key=_ROLES.index)
    return found


def _left_half(algorithm: str, access_token: str) -> str:
    digest = _HASHES.get(algorithm[2:], hashlib.sha512)(access_token.encode()).digest()
    return encoded(digest[: len(digest) // 2])
