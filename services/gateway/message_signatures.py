"""Verifies requests by HTTP message signatures (RFC 9421), whose components each sender chooses, as an adapter has declared."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from services.gateway.fields import ByteSequence, InnerList, Item, dictionary, written
from services.gateway.places import DeliveryId
from services.gateway.received import Received
from shared.errors import Unauthenticated
from shared.jose import MESSAGE_ALGORITHMS, Key, suits, verifies
from shared.verification import MessageSignature

# Signatures of one request that are looked at, and components of one.
MOST_SIGNATURES, MOST_COMPONENTS = 8, 50
_DIGESTS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
# What the address as a whole stands for.
_WITHIN_TARGET = frozenset({"@authority", "@scheme", "@path", "@query", "@request-target"})
_PORTS = {"http": ":80", "https": ":443"}


class ClaimedMessage(msgspec.Struct, frozen=True):
    """The signatures of a request that may be meant: each with the text that it signs, and whether that holds the body's digest."""

    found: list[tuple[bytes, bytes, bool]]


class MessageScheme:
    """One declared message signature with its keys, each of its algorithm."""

    fetches = False
    reads_document = False

    def __init__(self, declared: MessageSignature, keys: Sequence[Key]) -> None:
        self.declared = declared
        self._algorithm = MESSAGE_ALGORITHMS[declared.algorithm]
        if not all(suits(self._algorithm, key) for key in keys):
            raise ValueError(f"the key is none of {declared.algorithm}")
        self._keys = list(keys)
        self._delivery = DeliveryId(declared.delivery, declared.delivery_with)

    def holds(self, received: Received) -> bool:
        """Return whether there is a Signature header."""
        return bool(received.headers.getall("Signature", ()))

    def claim(self, received: Received, now: float) -> ClaimedMessage:
        """Return the signatures that may be meant. Raises `Unauthenticated` where there is none, with the first one's reason."""
        given = _field(received, "signature")
        inputs = _field(received, "signature-input")
        if given is None or inputs is None:
            raise Unauthenticated(f"there is no Signature{'' if given is None else '-Input'} header")
        try:
            signatures, described = dictionary(given), dictionary(inputs)
        except ValueError as error:
            raise Unauthenticated(f"the Signature headers are malformed: {error}") from error
        found: list[tuple[bytes, bytes, bool]] = []
        reason: Unauthenticated | None = None
        for label, one in [*described.items()][:MOST_SIGNATURES]:
            made = signatures.get(label)
            try:
                if not isinstance(one, InnerList) or not isinstance(made, Item) or not isinstance(made.value, ByteSequence):
                    raise Unauthenticated(f"the signature {label} is no signature, or not described")
                self._check(one, now)
                covered = [written(item) for item in one.items]
                found.append((made.value, _base(one, received), '"content-digest"' in covered))
            except Unauthenticated as error:
                reason = reason or error
        if not found:
            raise reason or Unauthenticated("the request has no signature")
        return ClaimedMessage(found)

    async def load(self, _claim: ClaimedMessage, _received: Received) -> None:
        """Nothing is fetched."""

    def verify(self, claim: ClaimedMessage, received: Received, _now: float) -> None:
        """Raise `Unauthenticated` unless one of the keys made one of the signatures, and a digest that it covers is the body's."""
        for signature, base, has_digest in claim.found:
            found = False
            for key in self._keys:
                found |= verifies(self._algorithm, key, signature, base)
            if found:
                if has_digest:
                    _check_digest(received)
                return
        raise Unauthenticated("the signature does not match")

    def delivery(self, received: Received) -> str | None:
        """Return the sender's own id of the delivery, None where there is none that can be one. Raises `Unauthenticated`."""
        return self._delivery.read(received)

    def checked(self, _received: Received, _now: float) -> list[str]:
        """Return what `verify` has found of a genuine request, for people."""
        covered = ", ".join(self.declared.components)
        return [
            f"the Signature header is {self.declared.algorithm} of at least {covered}, made within {self.declared.tolerance:g} s"
        ]

    def _check(self, described: InnerList, now: float) -> None:
        declared, parameters = self.declared, described.parameters
        for name, wanted in (("alg", declared.algorithm), ("keyid", declared.key_id), ("tag", declared.tag)):
            if wanted is not None and parameters.get(name, wanted if name == "alg" else None) != wanted:
                raise Unauthenticated(f"the signature's {name} is another")
        created, expires = parameters.get("created"), parameters.get("expires")
        if isinstance(created, bool) or not isinstance(created, int):
            raise Unauthenticated("the signature does not say when it was created")
        if abs(now - created) > declared.tolerance:
            raise Unauthenticated(f"the signature was created more than {declared.tolerance:g} s from now")
        if expires is not None and (isinstance(expires, bool) or not isinstance(expires, int) or now > expires):
            raise Unauthenticated("the signature has expired")
        if len(described.items) > MOST_COMPONENTS:
            raise Unauthenticated(f"the signature covers more than {MOST_COMPONENTS} components")
        covered = {item.value for item in described.items if not item.parameters}
        if "@target-uri" in covered:
            covered |= _WITHIN_TARGET
        missing = [one for one in declared.components if one not in covered]
        if missing:
            raise Unauthenticated(f"the signature does not cover {missing[0]}")


def _base(described: InnerList, received: Received) -> bytes:
    """Return the text that is signed (RFC 9421, 2.5)."""
    lines: list[str] = []
    seen: set[str] = set()
    for item in described.items:
        identifier = written(item)
        if identifier in seen:
            raise Unauthenticated(f"the signature covers {identifier} twice")
        seen.add(identifier)
        lines.append(f"{identifier}: {_value(item, received)}")
    lines.append(f'"@signature-params": {written(described)}')
    return "\n".join(lines).encode(errors="surrogateescape")


def _value(item: Item, received: Received) -> str:
    name = item.value
    if not isinstance(name, str) or name != name.lower():
        raise Unauthenticated("the signature covers a component without a name")
    if item.parameters and not (name == "@query-param" and item.parameters.keys() == {"name"}):
        raise Unauthenticated(f"the signature covers {written(item)}, which is not understood")
    if not name.startswith("@"):
        value = _field(received, name)
        if value is None:
            raise Unauthenticated(f"the signature covers the header {name}, and there is none")
        return value
    parts = urlsplit(received.base)
    path, mark, query = received.target.partition("?")
    if name == "@query-param" and item.parameters:
        return _parameter(item, query)
    values = {
        "@method": received.method,
        "@target-uri": received.base + received.target,
        "@authority": parts.netloc.lower().removesuffix(_PORTS.get(parts.scheme, "\0")),
        "@scheme": parts.scheme.lower(),
        "@request-target": received.target,
        "@path": path,
        "@query": f"?{query}" if mark else "?",
    }
    if name not in values:
        raise Unauthenticated(f"the signature covers {name}, which no request has")
    return values[name]


def _parameter(item: Item, query: str) -> str:
    found = [value for name, value in parse_qsl(query, keep_blank_values=True) if quote(name, safe="") == item.parameters["name"]]
    if len(found) != 1:
        raise Unauthenticated(f"the signature covers {written(item)}, which the query has {len(found)} times")
    return quote(found[0], safe="")


def _field(received: Received, name: str) -> str | None:
    """Return a header's values as they are signed (RFC 9421, 2.1)."""
    values = received.headers.getall(name, ())
    # Lines and blanks of HTTP alone: Python knows more, which a sender signs as they are.
    return ", ".join(" ".join(line.strip(" \t\r") for line in value.split("\n")) for value in values) if values else None


def _check_digest(received: Received) -> None:
    try:
        digests = dictionary(_field(received, "content-digest") or "")
    except ValueError as error:
        raise Unauthenticated(f"the Content-Digest header is malformed: {error}") from error
    known = [(_DIGESTS[name], one.value) for name, one in digests.items() if name in _DIGESTS and isinstance(one, Item)]
    if not known:
        raise Unauthenticated("the Content-Digest header has no digest by sha-256 or sha-512")
    for digest, value in known:
        if not isinstance(value, ByteSequence) or not hmac.compare_digest(digest(received.body).digest(), value):
            raise Unauthenticated("the Content-Digest header is not the body's digest")
