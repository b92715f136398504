"""Verifies requests by the schemes that an adapter has declared: the head before the body is read, the signature once it is there.

Comparisons take constant time with regard to the secret. Any request raises nothing here but `Unauthenticated`.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Sequence
from typing import Any

import msgspec

from services.gateway.outside import OutsideAddress
from services.gateway.places import Conditions, DeliveryId, Reader
from services.gateway.received import Received
from shared.egress.fetched import OrganizationDocuments
from shared.errors import Unauthenticated
from shared.signatures import Check, certified_key, check_of, decoded, size_of
from shared.values import at, moment_of
from shared.verification import PUBLIC_KEY, SignatureScheme, pieces

# More signatures in one header than senders use while keys rotate; the rest is not looked at.
MAX_CANDIDATES = 16
# Bytes that a scheme may have signed of one request: so many times its body, and so many more for addresses, times and ids. A
# template that repeats itself, or an item that holds all of the others, would have it held in memory thousands of times.
MOST_TIMES, MOST_BESIDE = 4, 1024 * 1024
# Characters of a signature or a token; RSA of 4096 bits has 684 as base64.
MOST_SIGNATURE = 4096
# Items of one body that are verified one by one.
MOST_ITEMS = 1000
_ALPHANUMERIC = (string.ascii_letters + string.digits).encode()
_LETTERS = {"hex": b"0123456789abcdef", "base64": _ALPHANUMERIC + b"+/=", "base64url": _ALPHANUMERIC + b"-_"}

# Algorithms whose signatures are compared, or verified, as bytes.
_AS_BYTES = PUBLIC_KEY | {"token"}


class _Room:
    """Counts the bytes that are signed of one request."""

    def __init__(self, received: Received) -> None:
        self._left = MOST_TIMES * len(received.body) + MOST_BESIDE

    def take(self, part: bytes) -> bytes:
        """Return a part of what is signed. Raises `Unauthenticated` where it is too much."""
        self._left -= len(part)
        if self._left < 0:
            raise Unauthenticated(f"the template has more than {MOST_TIMES} times the body signed")
        return part


class ClaimedSignature(msgspec.Struct, frozen=True):
    """A request's signatures as its head has them, None while they are in the body, and the values of its head that are signed."""

    values: dict[str, str]
    candidates: tuple[bytes, ...] | None


class Scheme:
    """One declared scheme with its keys. Raises ValueError for a public key that is none of the algorithm.

    Certificates are in `fetched`; without it such a scheme verifies nothing.
    """

    def __init__(self, declared: SignatureScheme, keys: Sequence[bytes], fetched: OrganizationDocuments | None = None) -> None:
        self.declared = declared
        self._fetched = fetched
        self._certificate = None if declared.certificate is None else OutsideAddress(declared.certificate)
        self.fetches = self._certificate is not None
        self._checks = [(key, check_of(declared, key)) for key in keys]
        self._signature = Reader(declared.signature) if declared.signature is not None else None
        self._timestamp = Reader(declared.timestamp) if declared.timestamp is not None else None
        values = [(name, Reader(place)) for name, place in declared.values.items()]
        self._head_values = [(name, reader) for name, reader in values if not reader.place.in_body]
        self._body_values = [(name, reader) for name, reader in values if reader.place.in_body]
        self._parts = [(text.encode(), name) for text, name in pieces(declared.template)]
        self._is_body = declared.template == "{body}"
        self._is_token = declared.algorithm == "token"
        self._is_keyed = "{secret}" in declared.template
        self._when = Conditions(declared.when)
        self._digest = Reader(declared.body_digest) if declared.body_digest is not None else None
        self._each = None if declared.each is None else declared.each.split(".")
        self._delivery = DeliveryId(declared.delivery, declared.delivery_with)
        self._size = size_of(declared)
        self._proof = _proof(declared)
        self._elsewhere = declared.signature is None or declared.signature.in_body
        readers = (self._signature, self._timestamp, self._digest, *(reader for _, reader in self._body_values))
        self.reads_document = self._each is not None or any(
            place.json is not None
            for place in (*(reader.place for reader in readers if reader is not None), *(place for place, _ in declared.when))
        )

    def claim(self, received: Received, now: float) -> ClaimedSignature:
        """Return the claim of a request's head; `now` is in epoch seconds. Raises `Unauthenticated` if no body could prove it."""
        if self._when.in_head and (unmet := self._when.unmet(received, body=False)) is not None:
            raise Unauthenticated(unmet)
        if self._signature is None or self._elsewhere:
            given = None
        elif not (given := self._signature.all(received)) and not self._signature.holds(received):
            raise self._signature.absent()
        values: dict[str, str] = {}
        if self._timestamp is not None and not self._timestamp.place.in_body:
            values["timestamp"] = self._time(self._timestamp.one(received), now)
        for name, reader in self._head_values:
            values[name] = _there(reader, received, None)
        return ClaimedSignature(values, None if given is None else self._candidates(given))

    def verify(self, claim: ClaimedSignature, received: Received, now: float) -> None:
        """Raise `Unauthenticated` unless one of the keys signed the whole request. Without keys everything is refused."""
        if self._when.in_body and (unmet := self._when.unmet(received, body=True)) is not None:
            raise Unauthenticated(unmet)
        if self._digest is not None:
            given = self._digest.one(received) or ""
            if given.lower() != hashlib.sha256(received.body).hexdigest():  # of no secret
                raise Unauthenticated(f"the {self._digest.place} is not the body's digest")
        room = _Room(received)
        if self._each is None:
            self._verify(claim, received, None, now, room)
            return
        items = at(received.document, self._each)
        if not isinstance(items, list) or not 0 < len(items) <= MOST_ITEMS:
            raise Unauthenticated(f"{self.declared.each} in the body is no list of 1 to {MOST_ITEMS:,} signed items")
        for item in items:
            # None would stand for the whole body.
            self._verify(claim, received, {} if item is None else item, now, room)

    def delivery(self, received: Received) -> str | None:
        """Return the sender's own id of the delivery, None where there is none that can be one. Raises `Unauthenticated`."""
        return self._delivery.read(received)

    def checked(self, received: Received, now: float) -> list[str]:
        """Return what `verify` has found of a genuine request, for people."""
        return [*self._proof, *(() if (stated := self.stated_time(received)) is None else (self._age(now - stated),))]

    async def load(self, _claim: ClaimedSignature, received: Received) -> None:
        """Have the certificate known that a request names; of one that is meant for this scheme. Raises as `Verifier` says."""
        if self._certificate is None or self._fetched is None or self._when.unmet(received, body=True) is not None:
            return
        await self._fetched.load(self._certificate.read(received), certified_key)

    @property
    def keys(self) -> list[bytes]:
        """Return the keys."""
        return [key for key, _ in self._checks]

    @property
    def form(self) -> str:
        """Return the form of a signature for a person."""
        prefix = "" if self._signature is None else self._signature.place.prefix
        size = "" if self._size is None else f"{self._size} characters of "
        return f"{f'{prefix} and ' if prefix else ''}{size}{self.declared.encoding} are expected"

    def with_keys(self, keys: Sequence[bytes]) -> Scheme:
        """Return the same scheme with other keys."""
        return Scheme(self.declared, keys, self._fetched)

    def stated_time(self, received: Received) -> float | None:
        """Return the time that a request states, in epoch seconds; None where it has none, or none that can be read."""
        try:
            given = None if self._timestamp is None else self._timestamp.one(received)
            return None if given is None else _seconds(given, self.declared.timestamp_unit)
        except (Unauthenticated, ValueError):
            return None

    def _verify(self, claim: ClaimedSignature, received: Received, item: Any, now: float, room: _Room) -> None:
        candidates, values = claim.candidates, claim.values
        if self._signature is None:
            return
        if candidates is None:
            given = self._signature.all(received, item)
            if not given:
                raise self._signature.absent()
            candidates = self._candidates(given)
        if self._timestamp is not None and "timestamp" not in values:
            values = values | {"timestamp": self._time(self._timestamp.one(received, item), now)}
        if self._body_values:
            values = values | {name: _there(reader, received, item) for name, reader in self._body_values}
        if not self._matches(candidates, values, received, room):
            raise Unauthenticated(f"the {self._signature.place} does not match")

    def _matches(self, candidates: Sequence[bytes], values: dict[str, str], received: Received, room: _Room) -> bool:
        """Return whether any key made any candidate. All are compared, whichever fits."""
        # A token signs nothing: each of many items may have one.
        found, signed = False, b"" if self._is_token else None
        for key, check in self._checks_of(received):
            if signed is None or self._is_keyed:
                signed = room.take(received.body) if self._is_body else self._signed(values, received, key, room)
            found |= check(candidates, signed)
        return found

    def _checks_of(self, received: Received) -> list[tuple[bytes, Check]]:
        if self._certificate is None:
            return self._checks
        key = None if self._fetched is None else self._fetched.known(self._certificate.read(received))
        if key is None:
            return []
        try:
            return [(key, check_of(self.declared, key))]
        except ValueError as error:
            raise Unauthenticated(f"the certificate does not fit: {error}") from error

    def _signed(self, values: dict[str, str], received: Received, key: bytes, room: _Room) -> bytes:
        parts: list[bytes] = []
        for text, name in self._parts:
            parts.append(text)
            if name == "body":
                parts.append(room.take(received.body))
            elif name == "secret":
                parts.append(key)
            elif name is not None:
                # A value is never taken for a template. Senders sign UTF-8; other bytes were not signed.
                value = values[name] if name in values else received.named(name)
                parts.append(room.take(value.encode(errors="surrogatepass")))
        return b"".join(parts)

    def holds(self, received: Received) -> bool:
        """Return whether a signature is in the head, in any form, or has its place elsewhere."""
        return self._elsewhere or (self._signature is not None and self._signature.holds(received))

    def _candidates(self, given: Sequence[str]) -> tuple[bytes, ...]:
        """Return signatures as they are compared. Raises `Unauthenticated` where none has the form of one."""
        found = tuple(one for one in map(self._comparable, given[:MAX_CANDIDATES]) if one is not None)
        if not found and self._signature is not None:
            raise Unauthenticated(f"the {self._signature.place} holds no signature of the expected form")
        return found

    def _comparable(self, given: str) -> bytes | None:
        encoding = self.declared.encoding
        if len(given) > MOST_SIGNATURE:
            return None
        if encoding == "text":
            return given.encode(errors="surrogatepass")
        if encoding == "hex":
            given = given.lower()
        elif encoding == "base64url":
            given = given.rstrip("=")
        text = given.encode(errors="replace")
        if text.strip(_LETTERS[encoding]) or (self._size is not None and len(text) != self._size):
            return None
        # A digest is compared as text, of which there is but one; signatures that are verified or compared as bytes are decoded.
        return decoded(text, encoding) if self.declared.algorithm in _AS_BYTES else text

    def _time(self, given: str | None, now: float) -> str:
        """Return a timestamp that is near enough to now. Raises `Unauthenticated`."""
        if not given:
            raise Unauthenticated("there is no timestamp")
        try:
            seconds = _seconds(given, self.declared.timestamp_unit)
        except ValueError as error:
            raise Unauthenticated(f"the timestamp is {error}") from error
        if abs(now - seconds) > self.declared.tolerance:
            raise Unauthenticated(self._age(now - seconds))
        return given

    def _age(self, seconds: float) -> str:
        side = "old" if seconds >= 0 else "ahead"
        return f"the timestamp is {abs(seconds):.0f} s {side}, and {self.declared.tolerance:g} s are allowed"


def _proof(declared: SignatureScheme) -> tuple[str, ...]:
    if declared.signature is None:
        return ("nothing was verified: whoever knows the address may send",)
    if declared.algorithm == "token":
        return (f"the {declared.signature} is the source's secret",)
    digest = () if declared.body_digest is None else (f"the {declared.body_digest} is the body's SHA-256",)
    return (*digest, f"the {declared.signature} is the {declared.algorithm} of {declared.template}")


def _there(reader: Reader, received: Received, item: Any) -> str:
    found = reader.one(received, item)
    if found is None:
        raise reader.absent()
    return found


def _seconds(given: str, unit: str) -> float:
    if unit == "rfc3339":
        try:
            return moment_of(given).timestamp()
        except ValueError as error:
            raise ValueError("not a time") from error
    # 2^53 ms is in the year 287396; longer digits are an attack on the parser.
    if not given.isascii() or not given.isdigit() or len(given) > 16:
        raise ValueError("not a number")
    return int(given) / (1000 if unit == "ms" else 1)
