"""Verifies requests by a JSON Web Token (RFC 7519), as an adapter has declared. It covers a body only by a claim of its digest."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec

from services.gateway.places import DeliveryId, Reader, Received
from shared.egress.fetched import OrganizationDocuments
from shared.errors import MillraceError, Unauthenticated
from shared.jose import Key, NamedKey, decoded, key_set, suits, verifies
from shared.values import decode_sent
from shared.verification import WebToken

# Characters; a header has 8 KiB at most.
MOST_TOKEN = 16_384
# Keys of a set that are tried for a token that names none.
MOST_TRIED = 8


class ClaimedToken(msgspec.Struct, frozen=True):
    """A token in its parts."""

    algorithm: str
    key_id: str | None
    payload: dict[str, Any]
    signed: bytes
    signature: bytes


class TokenScheme:
    """One declared token with its keys: bytes of secrets, or public keys."""

    reads_document = False

    def __init__(self, declared: WebToken, keys: Sequence[Key], fetched: OrganizationDocuments | None = None) -> None:
        self.declared = declared
        self._keys = [NamedKey(None, None, key) for key in keys]
        self._fetched = fetched
        self._token = Reader(declared.token)
        self._delivery = DeliveryId(declared.delivery, declared.delivery_with)
        self.fetches = declared.key_set is not None

    def holds(self, received: Received) -> bool:
        """Return whether a token's place is not empty."""
        return self._token.holds(received)

    def claim(self, received: Received, now: float) -> ClaimedToken:
        """Return the token of a request, whose times and claims are as they have to be. Raises `Unauthenticated`."""
        given = self._token.one(received)
        if given is None:
            raise self._token.absent()
        claim = _parted(given)
        if claim.algorithm not in self.declared.algorithms:
            raise Unauthenticated("the token is signed by an algorithm that is not this source's")
        self._check_times(claim.payload, now)
        self._check_claims(claim.payload)
        return claim

    async def load(self, claim: ClaimedToken, _received: Received) -> None:
        """Have the key known that a token names. Raises `Unavailable`."""
        address = self.declared.key_set
        if address is None or self._fetched is None:
            return
        await self._fetched.load(address, key_set)
        if claim.key_id is not None and not any(one.id == claim.key_id for one in self._fetched.known(address) or ()):
            await self._fetched.load(address, key_set, anew=True)

    def verify(self, claim: ClaimedToken, received: Received, _now: float) -> None:
        """Raise `Unauthenticated` unless one of the keys made the token, and the body is the one that it claims."""
        found = False
        for one in self._suiting(claim):
            found |= verifies(claim.algorithm, one.key, claim.signature, claim.signed)
        if not found:
            raise Unauthenticated("the token is signed by no key of this source's")
        name = self.declared.body_claim
        if name is not None:
            digest, given = hashlib.sha256(received.body).digest(), claim.payload.get(name)
            if not isinstance(given, str) or not _is_digest(given, digest):
                raise Unauthenticated(f"the token's {name} is not the body's digest")

    def delivery(self, received: Received) -> str | None:
        """Return the sender's own id of the delivery, None where there is none that can be one. Raises `Unauthenticated`."""
        return self._delivery.read(received)

    def _suiting(self, claim: ClaimedToken) -> list[NamedKey]:
        keys = list(self._keys)
        if self.declared.key_set is not None and self._fetched is not None:
            keys += self._fetched.known(self.declared.key_set) or ()
        fitting = [
            one
            for one in keys
            if suits(claim.algorithm, one.key)
            and one.algorithm in {None, claim.algorithm}
            and (one.id is None or claim.key_id is None or one.id == claim.key_id)
        ]
        return fitting[:MOST_TRIED]

    def _check_times(self, payload: dict[str, Any], now: float) -> None:
        expires, begins = _number(payload, "exp"), _number(payload, "nbf")
        if expires is None:
            raise Unauthenticated("the token has no exp: it would be good forever")
        if now > expires + self.declared.tolerance:
            raise Unauthenticated(f"the token expired {now - expires:.0f} s ago")
        if begins is not None and now < begins - self.declared.tolerance:
            raise Unauthenticated(f"the token is good in {begins - now:.0f} s only")

    def _check_claims(self, payload: dict[str, Any]) -> None:
        declared = self.declared
        if declared.issuer is not None and payload.get("iss") != declared.issuer:
            raise Unauthenticated("the token is of another issuer")
        if declared.audience:
            given = payload.get("aud")
            audience = given if isinstance(given, list) else [given]
            if not any(one in declared.audience for one in audience if isinstance(one, str)):
                raise Unauthenticated("the token is for another audience")
        for name, wanted in declared.claims.items():
            if payload.get(name) != wanted:
                raise Unauthenticated(f"the token's {name} is another")


def _parted(token: str) -> ClaimedToken:
    head, dot, signature = token.rpartition(".")
    header, other, payload = head.partition(".")
    if not dot or not other or "." in payload or len(token) > MOST_TOKEN or not token.isascii():
        raise Unauthenticated("the token is no signed JSON Web Token")
    try:
        said, claims = decode_sent(decoded(header)), decode_sent(decoded(payload))
        made = decoded(signature)
    except (ValueError, MillraceError) as error:
        raise Unauthenticated("the token is no signed JSON Web Token") from error
    if not isinstance(said, dict) or not isinstance(claims, dict) or not isinstance(said.get("alg"), str):
        raise Unauthenticated("the token is no signed JSON Web Token")
    if "crit" in said:
        raise Unauthenticated("the token has an extension that has to be understood, and is not")
    key_id = said.get("kid")
    return ClaimedToken(said["alg"], key_id if isinstance(key_id, str) else None, claims, head.encode(), made)


def _number(payload: dict[str, Any], name: str) -> float | None:
    given = payload.get(name)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise Unauthenticated(f"the token's {name} is no time")
    return float(given)


def _is_digest(given: str, digest: bytes) -> bool:
    try:
        return hmac.compare_digest(bytes.fromhex(given) if len(given) == 64 else decoded(given.rstrip("=")), digest)
    except ValueError:
        return False
