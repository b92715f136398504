"""Signed JSON Web Tokens (RFC 7515, 7519): their parts, their times, and whose key has signed them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from shared.egress.fetched import OrganizationDocuments
from shared.errors import MillraceError, Unauthenticated
from shared.jose import NamedKey, decoded, key_set, suits, verifies
from shared.values import decode_sent

# Characters; a header has 8 KiB at most.
MOST_TOKEN = 16_384
# Keys of a set that are tried for a token that names none.
MOST_TRIED = 8


class SignedToken(msgspec.Struct, frozen=True):
    """A token in its parts. Nothing of it is verified yet."""

    algorithm: str
    key_id: str | None
    payload: dict[str, Any]
    signed: bytes
    signature: bytes

    def __repr__(self) -> str:
        """Show nothing of what it claims."""
        return f"SignedToken({self.algorithm!r})"

    def is_signed_by(self, keys: Iterable[NamedKey]) -> bool:
        """Return whether one of the keys that suit the token's algorithm has signed it."""
        fitting = [
            one
            for one in keys
            if suits(self.algorithm, one.key)
            and one.algorithm in {None, self.algorithm}
            and (one.id is None or self.key_id is None or one.id == self.key_id)
        ]
        found = False
        for one in fitting[:MOST_TRIED]:
            found |= verifies(self.algorithm, one.key, self.signature, self.signed)
        return found

    def number(self, name: str) -> float | None:
        """Return a claim that is a time, None where it is not there. Raises `Unauthenticated` for what is none."""
        given = self.payload.get(name)
        if given is None:
            return None
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise Unauthenticated(f"the token's {name} is no time")
        return float(given)

    def check_times(self, now: float, tolerance: float) -> None:
        """Raise `Unauthenticated` for a token that is over, is not good yet, or would be good forever; times are in seconds."""
        expires, begins = self.number("exp"), self.number("nbf")
        if expires is None:
            raise Unauthenticated("the token has no exp: it would be good forever")
        if now > expires + tolerance:
            raise Unauthenticated(f"the token expired {now - expires:.0f} s ago")
        if begins is not None and now < begins - tolerance:
            raise Unauthenticated(f"the token is good in {begins - now:.0f} s only")


def parted(token: str, most: int = MOST_TOKEN) -> SignedToken:
    """Return a token of up to `most` characters in its parts. Raises `Unauthenticated` for what is none."""
    head, dot, signature = token.rpartition(".")
    header, other, payload = head.partition(".")
    if not dot or not other or "." in payload or len(token) > most or not token.isascii():
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
    return SignedToken(said["alg"], key_id if isinstance(key_id, str) else None, claims, head.encode(), made)


async def load_keys(documents: OrganizationDocuments, address: str, token: SignedToken) -> None:
    """Have the key set at an address known, fetched anew where it lacks the key that a token names. Raises `Unavailable`."""
    await documents.load(address, key_set)
    if token.key_id is not None and not any(one.id == token.key_id for one in documents.known(address) or ()):
        await documents.load(address, key_set, anew=True)
