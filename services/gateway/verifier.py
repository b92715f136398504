"""Verifies requests by any of a source's schemes, of whatever kind: the head before the body is read, the rest once it is there.

Any request raises nothing here but `Unauthenticated`; `Unavailable` where a key has to be fetched and cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from services.gateway.received import Received
from shared.errors import Unauthenticated


class AnyScheme(Protocol):
    """One way in which a sender proves to have sent a request. `fetches`: a key may have to be loaded before `verify`."""

    fetches: bool
    reads_document: bool

    def holds(self, received: Received) -> bool:
        """Return whether a signature or a token is in the head, in any form, or has its place elsewhere."""

    def claim(self, received: Received, now: float) -> Any:
        """Return the claim of a request's head; `now` is in epoch seconds. Raises `Unauthenticated` if no body could prove it."""

    async def load(self, claim: Any, received: Received) -> None:
        """Have the key known that a claim needs. Raises `Unauthenticated`, `Unavailable`."""

    def verify(self, claim: Any, received: Received, now: float) -> None:
        """Raise `Unauthenticated` unless the claim is proven by the whole request."""

    def delivery(self, received: Received) -> str | None:
        """Return the sender's own id of the delivery, None where there is none that can be one. Raises `Unauthenticated`."""

    def checked(self, received: Received, now: float) -> list[str]:
        """Return what `verify` has found of a genuine request, for people: no secret and no signature is in it."""


# A scheme, and what it claims of a head.
Claim = tuple[AnyScheme, Any]


class Verifier:
    """All schemes of a source: a request is genuine when any of them verifies it."""

    def __init__(self, schemes: Sequence[AnyScheme]) -> None:
        self.schemes = tuple(schemes)
        self.reads_document = any(scheme.reads_document for scheme in schemes)
        self.fetches = any(scheme.fetches for scheme in schemes)

    def claims(self, received: Received, now: float) -> list[Claim]:
        """Return the claims of a request's head. Raises `Unauthenticated` if no body could prove any, or without a scheme.

        The reason is that of the scheme whose signature is there, else of the first one.
        """
        claims: list[Claim] = []
        reason: Unauthenticated | None = None
        for scheme in self.schemes:
            if claims and not scheme.holds(received):
                continue  # the other names of one signature: their reasons are not shown
            try:
                claims.append((scheme, scheme.claim(received, now)))
            except Unauthenticated as error:
                if reason is None or scheme.holds(received):
                    reason = error
        if not claims:
            raise reason or Unauthenticated("nothing can be verified here")
        return claims

    async def load(self, claims: Sequence[Claim], received: Received) -> None:
        """Have the keys known that claims need. Raises `Unavailable` for one that cannot be fetched."""
        for scheme, claim in claims:
            if scheme.fetches:
                try:
                    await scheme.load(claim, received)
                except Unauthenticated:
                    continue  # verifying it says so

    def verify(self, claims: Sequence[Claim], received: Received, now: float) -> AnyScheme:
        """Return the scheme by which a request is genuine. Raises `Unauthenticated`."""
        reason: Unauthenticated | None = None
        for scheme, claim in claims:
            try:
                scheme.verify(claim, received, now)
            except Unauthenticated as error:
                reason = reason or error
            else:
                return scheme
        raise reason or Unauthenticated("nothing was claimed")
