"""How senders sign, as data, and what checks it: the headers before the body is read, the signature once it is there.

A `Scheme` says where the signature is, how it was made and of what; it is compared in constant time with regard to the secret.
Nothing that a sender can put into a header makes anything here raise.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

# More signatures in one header than anybody sends while keys rotate; the rest is not looked at.
MAX_CANDIDATES = 16
# Seconds, both ways: what Stripe, Slack and Standard Webhooks ask for.
TOLERANCE = 300.0

Algorithm = Literal["sha1", "sha256", "sha512"]
Encoding = Literal["hex", "base64", "base64url"]
# How long a digest is as it is compared: base64url without its padding.
_SIZES: dict[tuple[Algorithm, Encoding], int] = {
    ("sha1", "hex"): 40,
    ("sha1", "base64"): 28,
    ("sha1", "base64url"): 27,
    ("sha256", "hex"): 64,
    ("sha256", "base64"): 44,
    ("sha256", "base64url"): 43,
    ("sha512", "hex"): 128,
    ("sha512", "base64"): 88,
    ("sha512", "base64url"): 86,
}
_ALPHANUMERIC = (string.ascii_letters + string.digits).encode()
_LETTERS: dict[Encoding, bytes] = {
    "hex": b"0123456789abcdef",
    "base64": _ALPHANUMERIC + b"+/=",
    "base64url": _ALPHANUMERIC + b"-_",
}


class Scheme(msgspec.Struct, frozen=True, kw_only=True):
    """An HMAC over a template, in a header. All header names are lower case.

    The header's value is split at `separator` (empty: it is one part); parts that begin with `prefix` are signatures, and the
    part that begins with `timestamp_prefix` is the time. Otherwise the time is in `timestamp_header`. `template` is what is
    signed: text with `{id}`, `{timestamp}` and, last, `{body}`. A scheme whose template has a time refuses what is further than
    `tolerance` seconds from now, either way. A secret is text whose bytes are the key, or base64 after `key_prefix`.
    """

    header: str
    algorithm: Algorithm = "sha256"
    encoding: Encoding = "hex"
    prefix: str = ""
    separator: str = ""
    template: str = "{body}"
    id_header: str | None = None
    timestamp_header: str | None = None
    timestamp_prefix: str | None = None
    timestamp_unit: Literal["s", "ms"] = "s"
    tolerance: float = TOLERANCE
    key_encoding: Literal["text", "base64"] = "text"
    key_prefix: str = ""


GITHUB = Scheme(header="x-hub-signature-256", prefix="sha256=")
STANDARD_WEBHOOKS = Scheme(
    header="webhook-signature",
    encoding="base64",
    prefix="v1,",
    separator=" ",
    template="{id}.{timestamp}.{body}",
    id_header="webhook-id",
    timestamp_header="webhook-timestamp",
    key_encoding="base64",
    key_prefix="whsec_",
)
# The same under the names that Svix gave it before it was a standard.
SVIX = msgspec.structs.replace(STANDARD_WEBHOOKS, header="svix-signature", id_header="svix-id", timestamp_header="svix-timestamp")


def key_of(scheme: Scheme, secret: str) -> bytes:
    """Return the key that a secret stands for. Raises ValueError when it is not in the scheme's form or is empty."""
    if scheme.key_encoding == "text":
        key = secret.encode()
    else:
        text = secret.removeprefix(scheme.key_prefix).rstrip("=")
        try:
            key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except binascii.Error as error:
            raise ValueError("the secret is not base64") from error
    if not key:
        raise ValueError("the secret is empty")
    return key


class Claim(msgspec.Struct, frozen=True):
    """What a request's headers say of its signature: the text that comes before the body in what is signed, and the signatures."""

    before: str
    candidates: tuple[bytes, ...]


def claim_of(scheme: Scheme, headers: Mapping[str, str], now: float) -> Claim | str:
    """Return what a request claims, or why no body could make it genuine; `now` is in epoch seconds.

    `headers` is looked up by lower-case names and may be case-insensitive. Never raises.
    """
    value = headers.get(scheme.header)
    if not value:
        return f"there is no {scheme.header} header"
    parts = [part.strip() for part in value.split(scheme.separator)] if scheme.separator else [value]
    timestamp = ""
    if scheme.timestamp_prefix is not None:
        timestamp = next((part[len(scheme.timestamp_prefix) :] for part in parts if part.startswith(scheme.timestamp_prefix)), "")
    elif scheme.timestamp_header is not None:
        timestamp = headers.get(scheme.timestamp_header) or ""
    if "{timestamp}" in scheme.template:
        reason = _out_of_time(scheme, timestamp, now)
        if reason is not None:
            return reason
    identity = ""
    if scheme.id_header is not None:
        identity = headers.get(scheme.id_header) or ""
        if not identity:
            return f"there is no {scheme.id_header} header"
    given = [_comparable(scheme, part[len(scheme.prefix) :]) for part in parts if part.startswith(scheme.prefix)]
    size, letters = _SIZES[scheme.algorithm, scheme.encoding], _LETTERS[scheme.encoding]
    candidates = tuple(one for one in given[:MAX_CANDIDATES] if len(one) == size and not one.strip(letters))
    if not candidates:
        return f"{scheme.header} holds no signature of the expected form"
    return Claim(_before(scheme, identity, timestamp), candidates)


def disproof(scheme: Scheme, keys: Sequence[bytes], claim: Claim, body: bytes) -> str | None:
    """Return why a body is not what was claimed, or None when one of `keys` signed it. Without keys everything is refused."""
    return None if _any_equal(scheme, keys, _signed(scheme, claim, body), claim.candidates) else f"{scheme.header} does not match"


def refusal(scheme: Scheme, keys: Sequence[bytes], headers: Mapping[str, str], body: bytes, now: float) -> str | None:
    """Return why a whole request is not genuine, or None when one of `keys` signed it: `claim_of` and `disproof` in one."""
    claim = claim_of(scheme, headers, now)
    return claim if isinstance(claim, str) else disproof(scheme, keys, claim, body)


def digest_of(scheme: Scheme, key: bytes, signed: bytes) -> str:
    """Return the signature of `signed` as the scheme writes it, without the prefix."""
    digest = hmac.digest(key, signed, scheme.algorithm)
    if scheme.encoding == "hex":
        return digest.hex()
    if scheme.encoding == "base64":
        return base64.b64encode(digest).decode()
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _any_equal(scheme: Scheme, keys: Iterable[bytes], signed: bytes, candidates: Sequence[bytes]) -> bool:
    found = False
    for key in keys:
        expected = digest_of(scheme, key, signed).encode()
        for candidate in candidates:
            # All are compared, whichever fits.
            found |= hmac.compare_digest(expected, candidate)
    return found


def _comparable(scheme: Scheme, candidate: str) -> bytes:
    """Return a signature as bytes to compare; what is no ASCII stays different from every digest."""
    if scheme.encoding == "hex":
        candidate = candidate.lower()
    elif scheme.encoding == "base64url":
        candidate = candidate.rstrip("=")
    return candidate.encode(errors="replace")


def _before(scheme: Scheme, identity: str, timestamp: str) -> str:
    before = scheme.template.partition("{body}")[0]
    return "".join({"{id}": identity, "{timestamp}": timestamp}.get(part, part) for part in _pieces(before)) if before else ""


def _signed(scheme: Scheme, claim: Claim, body: bytes) -> bytes:
    after = scheme.template.partition("{body}")[2]
    return b"".join((claim.before.encode(errors="replace"), body, after.encode())) if claim.before or after else body


def _pieces(template: str) -> list[str]:
    """Split "{id}.{timestamp}." into its placeholders and the text between, so that no value is taken for a placeholder."""
    return [part for part in template.replace("{", "\0{").replace("}", "}\0").split("\0") if part]


def _out_of_time(scheme: Scheme, timestamp: str, now: float) -> str | None:
    if not timestamp:
        return "there is no timestamp"
    # 2^53 ms is in the year 287396; longer digits are an attack on the parser.
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 16:
        return "the timestamp is not a number"
    seconds = int(timestamp) / (1000 if scheme.timestamp_unit == "ms" else 1)
    if abs(now - seconds) > scheme.tolerance:
        return f"the timestamp is more than {scheme.tolerance:g} s from now"
    return None
