"""The gateway's decisions: the organization of a request, the parts of it to keep, headers, the view of a run. No I/O here."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address
from urllib.parse import unquote

from shared.envelope import Envelope, Sealed, derived_id, open_message, rfc3339
from shared.errors import Invalid, PreconditionFailed, Problem
from shared.messages import RunRequested, RunSucceeded
from shared.messages.declaration import KEY, declaration_of
from shared.questions.runs import RunView
from shared.runs import queued_ms
from shared.values import storable

DEFAULT_ORG = "default"
# The value of `?org=`, beside a name, where all organizations can be searched.
EVERY_ORG = "*"
REDACTED = "[redacted]"
REDACTED_HEADERS = frozenset(
    {
        "authorization",
        "cookie",
        "proxy-authorization",
        "x-hub-signature",
        "x-hub-signature-256",
    }
)
REDACTED_PARAMETERS = frozenset({"access_token"})
# Characters of a secret that is found within a longer text; a shorter one, such as `json`, is also a part of innocent texts.
WITHIN = 8
# A chain is searched this far before its run, where the chain's id does not hold its beginning.
CHAIN_BEFORE = timedelta(days=1)
# Clocks of two machines differ; a message of a chain may look older than the chain.
CLOCKS_DIFFER = timedelta(minutes=5)
# A browser that was brought here shows nothing, runs nothing, and tells nobody where it was.
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
# Two years, as the lists that browsers are built with demand; other hosts of the domain are not ours to speak for.
_ALWAYS_HTTPS = {"Strict-Transport-Security": "max-age=63072000"}
_BEARER = re.compile(r"bearer +(\S+) *\Z", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"([^"]*)"\Z')
_TAGS = re.compile(r'(W/)?"([^"]*)"[ \t]*(?:,[ \t]*|\Z)')


def always_of(public_url: str) -> dict[str, str]:
    """Return the headers that every answer has, where its handler says nothing else."""
    return _ALWAYS | (_ALWAYS_HTTPS if public_url.startswith("https:") else {})


def bearer(authorization: str | None) -> str | None:
    """Return the token of an `Authorization` header, or None when it holds no bearer token."""
    found = _BEARER.match(authorization or "")
    return found[1] if found else None


def org_of(given: str | None) -> str:
    """Return the organization that a request names, `default` when it names none. Raises `Invalid`."""
    if given is None:
        return DEFAULT_ORG
    if not KEY.match(given):
        raise Invalid("an organization's name has up to 64 letters, digits, - and _", errors=(Problem("org", "no such name"),))
    return given


class SecretTexts:
    """The secrets of a source, recognized in what is sent to it. They are in no representation of this."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        stripped = {secret.strip() for secret in secrets} - {""}
        self._long = tuple(sorted(one for one in stripped if len(one) >= WITHIN))
        self._short = stripped.difference(self._long)

    def within(self, text: str) -> bool:
        """Return whether a text holds a secret, as it is or percent-encoded; one of less than 8 characters only as a whole word."""
        return self._holds(text) or ("%" in text and self._holds(unquote(text)))

    def _holds(self, text: str) -> bool:
        if any(one in text for one in self._long):
            return True
        return bool(self._short) and (text.strip() in self._short or not self._short.isdisjoint(text.split()))


_NO_SECRETS = SecretTexts()


def kept_headers(
    headers: Iterable[tuple[str, str]], redacted: frozenset[str], secrets: SecretTexts = _NO_SECRETS
) -> list[tuple[str, str]]:
    """Return headers as a message keeps them: names in lower case, in order, credentials, signatures and secrets replaced."""
    kept: list[tuple[str, str]] = []
    for name, value in headers:
        lower = storable(name.lower())
        hidden = lower in redacted or lower.startswith("x-hub-signature") or secrets.within(value)
        kept.append((lower, REDACTED if hidden else storable(value)))
    return kept


def kept_query(
    query: Iterable[tuple[str, str]], redacted: frozenset[str] = REDACTED_PARAMETERS, secrets: SecretTexts = _NO_SECRETS
) -> list[tuple[str, str]]:
    """Return query parameters as a message keeps them: in order, repeated ones too, credentials and secrets replaced."""
    kept: list[tuple[str, str]] = []
    for name, value in query:
        hidden = name.lower() in redacted or secrets.within(value)
        # `?the-secret` is a parameter without a value.
        kept.append((REDACTED if secrets.within(name) else storable(name), REDACTED if hidden else storable(value)))
    return kept


def delivery_id(source: str, sender_id: str) -> str:
    """Return the id of the delivery that a sender calls `sender_id`: the same whenever it comes again."""
    return derived_id(source, "delivery", sender_id)


def remote_of(peer: str | None, forwarded_for: Sequence[str], trusted: Sequence[IPv4Network | IPv6Network]) -> str | None:
    """Return the client's address: the peer, or, where the peer is a trusted proxy, the nearest address that is not one.

    `forwarded_for` are the values of X-Forwarded-For, whose farther end any client can write: entries beyond the first untrusted
    address are not believed, nor are entries that are no address.
    """
    if peer is None or not trusted or not within(peer, trusted):
        return peer
    nearest = peer
    for hop in reversed([hop.strip() for value in forwarded_for for hop in value.split(",")]):
        address = _address(hop)
        if address is None:
            return nearest
        nearest = address
        if not within(address, trusted):
            return nearest
    return nearest


def expected_version(if_match: str | None, if_none_match: str | None) -> int | None:
    """Return the version that must be there, 0 for none, None for any; not for `If-Match: *`. Raises `PreconditionFailed`."""
    if if_none_match == "*":
        return 0
    if if_match is None:
        return None
    tag = tag_of(if_match)
    if tag is None:
        raise PreconditionFailed(
            f'If-Match takes one entity tag in quotation marks, such as "3", and not {storable(if_match)[:80]}'
        )
    if not tag.isascii() or not tag.isdigit() or len(tag) > 18:
        raise PreconditionFailed(f"{storable(if_match)[:80]} is no version that was ever there")
    return int(tag)


def tag_of(header: str) -> str | None:
    """Return the content of an entity tag between its quotes, or None when it is none (or several)."""
    found = _TAG.match(header.strip())
    return found[1] if found else None


def tags_of(header: str, *, weak: bool) -> set[str] | None:
    """Return the entity tags of a header (RFC 9110, 13.1), weak ones only where they count; None where it is no list of tags."""
    found: set[str] = set()
    at, header = 0, header.strip()
    while at < len(header):
        tag = _TAGS.match(header, at)
        if tag is None:
            return None
        if weak or not tag[1]:
            found.add(tag[2])
        at = tag.end()
    return found


def chain_began(correlation_id: str, requested: datetime) -> datetime:
    """Return a time before which nothing of a run's chain happened. A chain's id is its first message's, which holds the time."""
    try:
        id_ = uuid.UUID(correlation_id)
        began = datetime.fromtimestamp((id_.int >> 80) / 1000, UTC) if id_.version == 7 else requested - CHAIN_BEFORE
    except (ValueError, OverflowError):
        began = requested - CHAIN_BEFORE
    return min(began, requested) - CLOCKS_DIFFER


def succeeded(request: Sealed[RunRequested], end: Envelope) -> RunView | None:
    """Return a run between its request and its end as the executor would show it; None for an end with too few fields.

    Raises `Invalid` for an end that cannot be read.
    """
    if end.type != declaration_of(RunSucceeded).type:
        return None
    asked, done = request.message, open_message(end, RunSucceeded)
    if done.started_at is None or done.tier is None or done.isolation is None:
        return None
    requested_at = rfc3339(request.envelope.time)
    return RunView(
        id=asked.run,
        org=request.envelope.org,
        workflow=asked.workflow,
        version=asked.version,
        status="succeeded",
        reason=None,
        blocked_on=None,
        attempt=done.attempt,
        input=asked.input if asked.input_ref is None else {"$ref": asked.input_ref},
        result=done.result,
        error=None,
        requested_by=asked.requested_by,
        delivery=asked.delivery,
        requested_at=requested_at,
        started_at=done.started_at,
        finished_at=rfc3339(end.time),
        queue_ms=queued_ms(asked.run_at or requested_at, done.started_at),
        duration_ms=done.duration_ms,
        usage=done.usage,
        sandbox={"tier": done.tier, "isolation": done.isolation},
        correlation_id=request.envelope.correlationid,
        causation_id=request.envelope.causationid,
        parent=asked.parent,
        rerun_of=asked.rerun_of,
        resumes=asked.resumes,
        run_at=asked.run_at,
        scheduled_for=asked.scheduled_for,
        concurrency_key=done.concurrency_key or asked.concurrency_key,
        hops=asked.hops,
        input_ref=asked.input_ref,
        result_ref=done.result_ref,
        result_bytes=done.result_bytes,
        fingerprint=asked.fingerprint,
    )


def _address(text: str) -> str | None:
    if text.startswith("[") and "]" in text:
        text = text[1 : text.index("]")]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def within(text: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Return whether a text is an address in one of some networks."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in network for network in networks)
