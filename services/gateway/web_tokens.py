"""Verifies requests by a JSON Web Token (RFC 7519), as an adapter has declared. It covers a body only by a claim of its digest."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from services.gateway.places import DeliveryId, Reader
from services.gateway.received import Received
from shared.egress.fetched import OrganizationDocuments
from shared.errors import Unauthenticated
from shared.jose import Key, NamedKey, decoded
from shared.verification import WebToken
from shared.web_tokens import SignedToken, load_keys, parted


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

    def claim(self, received: Received, now: float) -> SignedToken:
        """Return the token of a request, whose times and claims are as they have to be. Raises `Unauthenticated`."""
        given = self._token.one(received)
        if given is None:
            raise self._token.absent()
        claim = parted(given)
        if claim.algorithm not in self.declared.algorithms:
            raise Unauthenticated("the token is signed by an algorithm that is not this source's")
        claim.check_times(now, self.declared.tolerance)
        self._check_claims(claim.payload)
        return claim

    async def load(self, claim: SignedToken, _received: Received) -> None:
        """Have the key known that a token names. Raises `Unavailable`."""
        address = self.declared.key_set
        if address is None or self._fetched is None:
            return
        await load_keys(self._fetched, address, claim)

    def verify(self, claim: SignedToken, received: Received, _now: float) -> None:
        """Raise `Unauthenticated` unless one of the keys made the token, and the body is the one that it claims."""
        keys = list(self._keys)
        if self.declared.key_set is not None and self._fetched is not None:
            keys += self._fetched.known(self.declared.key_set) or ()
        if not claim.is_signed_by(keys):
            raise Unauthenticated("the token is signed by no key of this source's")
        name = self.declared.body_claim
        if name is not None:
            digest, given = hashlib.sha256(received.body).digest(), claim.payload.get(name)
            if not isinstance(given, str) or not _is_digest(given, digest):
                raise Unauthenticated(f"the token's {name} is not the body's digest")

    def delivery(self, received: Received) -> str | None:
        """Return the sender's own id of the delivery, None where there is none that can be one. Raises `Unauthenticated`."""
        return self._delivery.read(received)

    def checked(self, _received: Received, _now: float) -> list[str]:
        """Return what `verify` has found of a genuine request, for people."""
        declared = self.declared
        names = [name for name in ("issuer", "audience") if getattr(declared, name)] + [*declared.claims]
        claims = f", and {', '.join(names)} are as the source wants them" if names else ""
        body = [] if declared.body_claim is None else [f"the token's {declared.body_claim} is the body's SHA-256"]
        return [f"the {declared.token} is a token that a key of the source's signed, not expired{claims}", *body]

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


def _is_digest(given: str, digest: bytes) -> bool:
    try:
        return hmac.compare_digest(bytes.fromhex(given) if len(given) == 64 else decoded(given.rstrip("=")), digest)
    except ValueError:
        return False
