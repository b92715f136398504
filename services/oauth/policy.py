"""Decides when a token is refreshed, and what follows from a failure. Pure: time and chance come in as arguments."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from services.oauth.answers import Granted, Ungranted
from services.oauth.flows import FLOWS
from shared.envelope import rfc3339
from shared.resources.connection import Connection, Status

TokenStatus = Literal["pending", "healthy", "degraded", "needs_reauthorization"]
# Draws a number between two others.
Chance = Callable[[float, float], float]

# A token that ends this soon is not given out any more: a run has to get it, and its request there.
NEAR = timedelta(seconds=30)
# From one token that is got for a run's report to the next: an API may answer 401 to whatever it is sent.
REPORTED = timedelta(minutes=1)
# Tokens that live no longer are refreshed at some point of their second half.
SHORT = 600.0
DAY = 86_400.0
# The longest pause between two tries: a provider that comes back after a night is used within minutes.
LONGEST_PAUSE = 900.0
# Answers that were none, in a row, until they count as a wrong address.
MALFORMED = 4
# Seconds from one try to the next of what a person has to repair: where a run asks for it, and at most by itself.
UNREPAIRED, LONGEST_UNREPAIRED = 60.0, 3600.0


class TokenState(msgspec.Struct, frozen=True, kw_only=True):
    """The row of a connection's token; `sealed` holds it, and the token that refreshes it.

    `version` counts the tokens; `forced` is the one that was got because the one before was refused. `reported_at`: when a run
    first reported the token without a newer one being got. `origin` stands for what it was got by, None for one that was got before
    that was kept. `attempting`: an attempt began whose outcome is not known, so that the provider may have rotated. `doubted`: it
    has refused the grant after such a one.
    No attempt is made before `not_before`, unless `configured`, the version of all settings, has changed.
    """

    connection: str
    org: str
    provider: str
    sealed: str | None
    version: int
    status: TokenStatus
    failure: str | None
    reason: str | None
    scope: str | None
    expires_at: datetime | None
    refresh_expires_at: datetime | None
    refresh_at: datetime | None
    refreshed_at: datetime | None
    not_before: datetime | None
    failures: int
    forced: int
    attempting: bool
    doubted: bool
    configured: str
    owner: str | None
    fence: int
    until: datetime | None
    origin: str | None = None
    reported_at: datetime | None = None

    def is_live(self, now: datetime) -> bool:
        """Return whether there is a token that has not ended."""
        return self.sealed is not None and (self.expires_at is None or self.expires_at - NEAR > now)

    def is_usable(self, now: datetime) -> bool:
        """Return whether the token can be given out: the grant has not ended either, which may end its token before its time."""
        return self.status != "needs_reauthorization" and self.is_live(now)

    def is_replaceable(self, now: datetime) -> bool:
        """Return whether a report has another token got: not within a minute of the last one that was got for a report."""
        return self.forced != self.version or self.refreshed_at is None or now - self.refreshed_at >= REPORTED


def shown_state(
    name: str,
    spec: Connection,
    state: TokenState | None,
    opens: Callable[[TokenState], bool],
    now: datetime,
    *,
    lacks: str | None = None,
) -> dict[str, str | None]:
    """Return how the connection `name` is, why, and what is to be done; `opens` answers whether its sealed token does.

    `lacks`: the connection whose token it exchanges, where there is none of that name.
    """
    flow = FLOWS.get(spec.grant)
    if flow is None:
        return _shown("active", None, None)
    person = f"authorize it: millrace connections authorize {name}"
    if state is None or (state.sealed is None and state.failure is None and (state.until is None or state.until <= now)):
        if lacks is not None:
            return _shown("pending", f"there is no connection {lacks!r}, whose token it exchanges", "put that connection as well")
        if flow.person is None:
            return _shown("pending", None, "nothing: its token is got when it is first asked for")
        return _shown("pending", "nobody has authorized it yet", person)
    status: Status = "refreshing" if state.until is not None and state.until > now else state.status
    reason, advice = state.reason, None
    lives = state.is_live(now)
    if status == "healthy" and not lives:
        status = "degraded"
        reason = reason or f"its token has ended, or ends within {NEAR.total_seconds():g} s, which is too soon for a run"
    if state.sealed is not None and not opens(state):
        status, reason = "quarantined", "its token does not open: the key that sealed it is missing, or it was altered"
        advice = f"give the service that key again, or {'put it again' if flow.person is None else person}"
    elif state.status == "needs_reauthorization":
        advice = person
    elif state.failure == "misconfigured" or _is_wrong_address(state.failure, state.failures):
        advice = "compare the settings of the connection and its provider with the provider's own"
    elif state.failure == "not_allowed":
        advice = f"allow the address with MILLRACE_EGRESS_ALLOW, or correct it; then: millrace connections refresh {name}"
    elif state.reported_at is not None and lives:
        status = "degraded" if status == "healthy" else status
        why = "" if reason is None else f": {reason}"
        reason = f"an API refused its token (401), as a run reported at {rfc3339(state.reported_at)}, and no newer one was got{why}"
        advice = f"get another one: millrace connections refresh {name}; where that is refused as well, the token lacks a right"
    elif reason is not None:
        advice = "nothing: it is tried again by itself"
    times = (None if one is None else rfc3339(one) for one in (state.expires_at, state.refreshed_at))
    return _shown(status, reason, advice, *times, state.scope)


def _shown(status: Status, reason: str | None, advice: str | None, *more: str | None) -> dict[str, str | None]:
    ends, refreshed, scope = more or (None, None, None)
    return {
        "status": status,
        "reason": reason,
        "advice": advice,
        "expires_at": ends,
        "refreshed_at": refreshed,
        "granted_scope": scope,
    }


class Times(msgspec.Struct, frozen=True):
    """When a token ends, when the one that refreshes it does, and when it is refreshed; None: never, or unknown.

    `not_before`: until when no other one is got, though this one is not live.
    """

    expires_at: datetime | None
    refresh_expires_at: datetime | None
    refresh_at: datetime | None
    not_before: datetime | None = None


class Aftermath(msgspec.Struct, frozen=True, kw_only=True):
    """What a failure makes of a row. `is_news`: the reason is of another kind than before, so that it is published.

    `closed_until`: until when the provider wants no request of this client.
    """

    status: TokenStatus
    not_before: datetime | None
    refresh_at: datetime | None
    failures: int
    attempting: bool
    doubted: bool
    closed_until: datetime | None
    is_news: bool


# Seconds from one token of a connection to the next, whatever life the provider says that it has: each is stored and published.
SOONEST = 30.0


def times_of(granted: Granted, now: datetime, chance: Chance, *, renews: bool) -> Times:
    """Return the times of a new token; `renews`: there is a way to get the next one. Measured by this machine's clock only."""
    ends = None if granted.life is None else now + timedelta(seconds=granted.life)
    refresh_ends = None if granted.refresh_life is None else now + timedelta(seconds=granted.refresh_life)
    if not renews:
        return Times(ends, refresh_ends, ends)
    # One that is never live would be got anew, stored and published each time that a run asks.
    is_useless = granted.life is not None and granted.life <= NEAR.total_seconds()
    not_before = now + timedelta(seconds=SOONEST) if is_useless else None
    if granted.life is None:
        # Nobody knows its end; a grant that is not used for long ends as well.
        pause = DAY * chance(0.9, 1.0) if granted.refresh_token is not None or granted.refresh_life is not None else None
    elif granted.life <= SHORT:
        pause = granted.life * chance(0.5, 0.7)
    else:
        # By chance earlier, never later: what is cut off at a bound would come all at once there.
        pause = min(granted.life - max(300.0, granted.life / 10), DAY) * chance(0.8, 1.0)
    if granted.refresh_life is not None:
        before = granted.refresh_life * chance(0.7, 0.8)
        pause = before if pause is None else min(pause, before)
    return Times(ends, refresh_ends, None if pause is None else now + timedelta(seconds=max(pause, SOONEST)), not_before)


def after(before: TokenState, refused: Ungranted, now: datetime, chance: Chance) -> Aftermath:
    """Return what a failed attempt makes of a row, which is as it was when the attempt began."""
    failures = before.failures + 1
    lives = before.is_live(now)
    failure = refused.failure
    doubted, attempting, status = before.doubted, False, before.status
    not_before: datetime | None = None
    # What a provider asks for counts for its client; a pause of our own for this connection.
    closed_until = None if refused.wait is None else now + refused.wait
    if failure == "dead" and not refused.is_local and before.attempting and not before.doubted:
        # An attempt before may have rotated the token that was just refused, and its answer may still be stored by another.
        doubted, attempting = True, True
        not_before = now + timedelta(seconds=chance(2.0, 5.0))
    elif failure == "dead":
        return Aftermath(
            status="needs_reauthorization",
            not_before=None,
            refresh_at=None,
            failures=failures,
            attempting=False,
            doubted=False,
            closed_until=None,
            is_news=before.status != "needs_reauthorization",
        )
    elif failure in {"misconfigured", "not_allowed"} or _is_wrong_address(failure, failures):
        # What was repaired where the provider is has to be found by itself as well, and soon is not needed.
        pause = min(UNREPAIRED * 2.0 ** min(failures - 1, 20), LONGEST_UNREPAIRED) * chance(0.8, 1.0)
        return Aftermath(
            status="degraded",
            not_before=now + timedelta(seconds=UNREPAIRED),
            refresh_at=now + timedelta(seconds=max(pause, UNREPAIRED)),
            failures=failures,
            attempting=before.attempting,
            doubted=doubted,
            closed_until=closed_until,
            is_news=before.failure != failure or before.status != "degraded",
        )
    elif failure == "throttled":
        wait = timedelta(seconds=chance(30.0, 90.0)) if refused.wait is None else refused.wait
        not_before = closed_until = now + wait
        attempting = before.attempting
    elif failure == "ambiguous" and failures <= 2:
        attempting = True
        not_before = now + timedelta(seconds=chance(0.5, 2.0))
    else:
        attempting = failure == "ambiguous" or before.attempting
        pause = chance(0.0, min(LONGEST_PAUSE, 2.0 * 2.0 ** min(failures, 20)))
        not_before = now + max(timedelta(seconds=max(pause, 0.5)), refused.wait or timedelta(0))
    if not lives:
        status = "pending" if before.sealed is None and before.status == "pending" else "degraded"
    return Aftermath(
        status=status,
        not_before=not_before,
        refresh_at=not_before,
        failures=failures,
        attempting=attempting,
        doubted=doubted,
        closed_until=closed_until,
        is_news=before.failure != failure or before.status != status,
    )


def _is_wrong_address(failure: str | None, failures: int) -> bool:
    return failure == "malformed" and failures >= MALFORMED
