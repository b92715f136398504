"""Decides what is due of a registration, and when: pure."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from services.events.adapters.registering import SenderResource
from shared.errors import Invalid, MillraceError, TooMany, Unavailable
from shared.messages import RegistrationState
from shared.values import moment_of

Step = Literal["nothing", "create", "renew", "replace"]

DAY = timedelta(days=1)
# What never ends is renewed so often, too: it may have been removed, or switched off, at the sender.
RENEWED_AT_LEAST = DAY
# A part of the time that is left, so that some failures leave time for more tries.
RENEWED_AFTER = 0.5
# Of the pause before the next try or the next renewal: senders should not hear from all sources at once.
JITTER = 0.2
# Seconds before the second try, doubled each time, and at most: of passing trouble, and of what a person has to change.
PASSING, LASTING = (30.0, 3600.0), (300.0, 6 * 3600.0)
LONGEST_PAUSE = DAY
LEAST_LIFE = timedelta(minutes=1)
# Tries at removing what is wanted no more: some hours.
MOST_REMOVALS = 8


class WantedRegistration(msgspec.Struct, frozen=True, kw_only=True):
    """A registration as its source wants it: at `place`, with the token of `connection`.

    `former` is the digest as it was made before keys were rotated.
    """

    place: str
    connection: str
    resource: SenderResource
    lifetime: int
    digest: str
    former: str | None = None
    # Of a sender that makes up the secret: it stays while the resource does, and without it there is nothing to verify by.
    handed: bool = False
    unknown: bool = False


def digest_of(place: str, connection: str, resource: SenderResource, callback: str, *secrets: str) -> str:
    """Return what stands for everything that a registration is made of; `secrets` are what stands for each secret."""
    parts = [place, connection, callback, *secrets, msgspec.to_builtins(resource.created, enc_hook=lambda one: one.value)]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


def step(last: RegistrationState | None, wanted: WantedRegistration, now: datetime, *, version: int, hurried: bool = False) -> Step:
    """Return what to do for a source at `version`; `hurried`: something changed that it may have failed for."""
    if last is None:
        return "create"
    if last.not_before is not None and now < moment_of(last.not_before):
        return "nothing"
    due = now >= moment_of(last.due_at) or (last.error is not None and (hurried or last.tried != version))
    lost = wanted.unknown and last.remote is not None
    if lost or last.digest not in {wanted.digest, wanted.former}:
        # What is there is not what is wanted: that waits for nothing but the pause after a failure.
        if not due and last.error is not None:
            return "nothing"
        same_place = (last.place, last.connection) == (wanted.place, wanted.connection)
        return "renew" if wanted.handed and same_place and last.remote is not None and not lost else "replace"
    if not due:
        return "nothing"
    return "create" if last.remote is None or last.notice == "create" or is_past(last.expires_at, now) else "renew"


def look_at(last: RegistrationState) -> datetime:
    """Return when to look at a registration again if nothing changes meanwhile."""
    at = moment_of(last.due_at)
    return at if last.not_before is None else max(at, moment_of(last.not_before))


def due_at(last: RegistrationState | None, version: int, now: datetime, *, hurried: bool = False) -> datetime:
    """Return when to look at a registration again; `version` is the source's, 0 where none is wanted."""
    if last is None:
        return now
    at = now if hurried or last.tried != version else moment_of(last.due_at)
    return at if last.not_before is None else max(at, moment_of(last.not_before))


def is_past(moment: str | None, now: datetime) -> bool:
    """Return whether a time is over; no time never is."""
    return moment is not None and moment_of(moment) <= now


def renewal(expires_at: datetime | None, now: datetime, chance: float) -> datetime:
    """Return when to renew what ends at a time, or never; `chance` is from 0 to 1."""
    left = RENEWED_AT_LEAST if expires_at is None else max(expires_at - now, LEAST_LIFE) * RENEWED_AFTER
    return now + min(left, RENEWED_AT_LEAST) * (1 - JITTER * chance)


def next_try(
    error: MillraceError, tries: int, expires_at: str | None, now: datetime, chance: float
) -> tuple[datetime, datetime | None]:
    """Return when to try again after that many failures, and the time that the sender has asked for, before which never.

    What ends meanwhile is looked at when it does.
    """
    first, most = PASSING if isinstance(error, Unavailable | TooMany) else LASTING
    at = now + timedelta(seconds=min(first * 2.0 ** min(tries, 30), most)) * (1 - JITTER * chance)
    if isinstance(error, TooMany) and error.retry_after is not None:
        # All that share the sender's limit come back after it, not with its end.
        asked = now + min(timedelta(seconds=error.retry_after), LONGEST_PAUSE)
        return max(at, asked + timedelta(seconds=chance)), asked
    if expires_at is not None and now < (ends := moment_of(expires_at)) < at:
        return ends, None
    return at, None


def is_given_up(last: RegistrationState, now: datetime) -> bool:
    """Return whether removing what is wanted no more has failed often enough, or is needless by now."""
    return last.tries >= MOST_REMOVALS or (last.tries > 0 and is_past(last.expires_at, now))


def moment_or_none(value: Any) -> datetime | None:
    """Return a sender's time, None where it is none."""
    try:
        return moment_of(value) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None


def checked_address(public_url: str | None) -> str:
    """Return the address of the gateway that senders are given. Raises `Invalid` where they cannot, or should not, use it."""
    if public_url is None:
        raise Invalid("MILLRACE_PUBLIC_URL is not set: the sender has to be given the address at which it reaches the gateway")
    host = urlsplit(public_url).hostname or ""
    if not public_url.startswith("https://") and not _is_loopback(host):
        raise Invalid(f"MILLRACE_PUBLIC_URL is {public_url}, and senders are given https addresses only")
    return public_url


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
