"""Answers of token endpoints, told apart by what to do about them. Pure; nothing of a body is repeated but an error's code."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeGuard
from urllib.parse import parse_qsl

import msgspec

from shared.resources.provider import Provider
from shared.values import storable

# dead: the grant has ended. misconfigured: trying again changes nothing. transient, throttled: later. ambiguous: the provider may
# have done what it was asked for. malformed: no answer of a token endpoint. not_allowed: the egress policy refuses its address.
Failure = Literal["dead", "misconfigured", "transient", "throttled", "ambiguous", "malformed", "not_allowed"]

LONGEST_WAIT = timedelta(hours=1)
# Of a token, in characters: it travels in headers.
LONGEST_TOKEN = 64 * 1024
# Words only: a server may answer with what it was sent, and a token is no word.
_CODE = re.compile(r"[a-z]{2,20}(?:_[a-z]{1,20}){0,7}")
_MISCONFIGURED = {
    "invalid_client", "unauthorized_client", "invalid_scope", "unsupported_grant_type", "invalid_request", "invalid_target",
    "incorrect_client_credentials", "redirect_uri_mismatch", "bad_client_secret", "invalid_client_id", "invalid_redirect_uri",
}  # fmt: skip
# GitHub and Slack have words of their own.
_DEAD = {"invalid_grant", "bad_refresh_token", "bad_verification_code", "invalid_refresh_token", "token_revoked", "invalid_code"}
_TRANSIENT = {"temporarily_unavailable", "server_error", "slow_down", "internal_error", "service_unavailable"}
# Tokens that are sent with a proof. Any other type is sent as `Bearer`, whatever a provider calls it.
_UNUSABLE = {"dpop", "pop", "mac", "hmac"}
_REFRESH_ENDS = ("refresh_token_expires_in", "x_refresh_token_expires_in", "refresh_expires_in")


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens; no `refresh_token` where the answer has none: the one before stays. Lives are in seconds, None where unknown."""

    access_token: str
    refresh_token: str | None
    token_type: str
    life: float | None
    refresh_life: float | None
    scope: str | None
    id_token: str | None = None

    def __repr__(self) -> str:
        """Show no token."""
        return "Granted(...)"


class Ungranted(msgspec.Struct, frozen=True):
    """No token: the class of the answer, the reason for people, and for how long the provider wants no request."""

    failure: Failure
    reason: str
    wait: timedelta | None = None
    is_of_client: bool = False
    """Whether the provider refuses the client itself, which all connections of the provider share."""
    is_local: bool = False
    """Whether it was clear without asking the provider."""
    code: str | None = None
    """The error's code, as the provider has it."""


def read(
    status: int, headers: Mapping[str, str], body: bytes, provider: Provider, now: datetime, *, is_refreshed: bool = False
) -> Granted | Ungranted:
    """Return what an answer, which may be one to refreshing, means, as RFC 6749 has it and as providers depart from it."""
    if 300 <= status < 400:
        # Followed, the client's secret would go wherever the answer points.
        return Ungranted("misconfigured", f"the token address answered {status}: it leads elsewhere, which is never followed")
    wait = _waiting(headers.get("retry-after"), now)
    if status == 429 or (status == 503 and wait is not None):
        return Ungranted("throttled", f"the provider answered {status}: too many requests", wait)
    document = _document(body, headers.get("content-type", ""))
    code = _code(document)
    if status >= 500:
        return Ungranted("transient", f"the provider answered {status}" + (f" ({code})" if code else ""), wait)
    if code is not None or status >= 400:
        return msgspec.structs.replace(_refusal(status, code, wait), code=code)
    path = (provider.refreshed_path if is_refreshed else None) or provider.token_path or "access_token"
    granted = None if document is None else _granted(document, path, provider, clock_of(headers.get("date"), now))
    if granted is not None and granted.token_type.lower() in _UNUSABLE:
        return Ungranted(
            "misconfigured", f"the provider gave a token of the type {granted.token_type}, which needs a key of its own"
        )
    return granted or Ungranted("malformed", f"the provider answered {status} without a token")


def _refusal(status: int, code: str | None, wait: timedelta | None) -> Ungranted:
    says = f"the provider answered {status}" + (f" ({code})" if code else "")
    if code in _DEAD:
        return Ungranted("dead", says)
    if code in _TRANSIENT:
        return Ungranted("transient", says, wait)
    if code in {"ratelimited", "rate_limited", "too_many_requests"}:
        return Ungranted("throttled", says, wait)
    if code in _MISCONFIGURED or (code is not None and status in {400, 401, 403}):
        return Ungranted("misconfigured", says, is_of_client=code in {"invalid_client", "unauthorized_client"} or status == 401)
    if status in {401, 403, 404, 405, 410, 415}:
        return Ungranted("misconfigured", says, is_of_client=status == 401)
    return Ungranted("malformed", says)


def _granted(document: dict[str, Any], path: str, provider: Provider, clock: datetime) -> Granted | None:
    holder: Any = document
    *outer, member = path.split(".")
    for one in outer:
        holder = holder.get(one) if isinstance(holder, dict) else None
    if not isinstance(holder, dict):
        return None
    token = holder.get(member)
    if not _is_token(token):
        return None
    refresh = holder.get("refresh_token", document.get("refresh_token"))
    scope = holder.get("scope", document.get("scope"))
    kind = holder.get("token_type", document.get("token_type"))
    life = _life(holder.get("expires_in", document.get("expires_in")), provider)
    if life is None:
        life = _left(holder.get("expires_at", document.get("expires_at")), clock)
    return Granted(
        access_token=token,
        # An empty one is none.
        refresh_token=refresh if _is_token(refresh) else None,
        token_type=kind if isinstance(kind, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,30}", kind) else "Bearer",
        life=life if life is not None else provider.lifetime,
        refresh_life=next((found for name in _REFRESH_ENDS if (found := _seconds(document.get(name))) is not None), None),
        scope=_scope(scope, (token, refresh)),
        id_token=id_token if _is_token(id_token := document.get("id_token")) else None,
    )


def _scope(value: Any, tokens: tuple[Any, ...]) -> str | None:
    """Return a scope as it can be shown, which is published: None for one that repeats a token."""
    if not isinstance(value, str) or any(isinstance(one, str) and one and one in value for one in tokens):
        return None
    return "".join(one for one in storable(value[:2000]) if one.isprintable())


def _life(value: Any, provider: Provider) -> float | None:
    seconds = _seconds(value)
    return seconds / 1000 if seconds is not None and provider.expires_unit == "milliseconds" else seconds


def _left(value: Any, clock: datetime) -> float | None:
    """Return the seconds until an end that is given as a time; None for what is none, or has passed."""
    try:
        ends = datetime.fromisoformat(value) if isinstance(value, str) else clock
    except ValueError:
        return None
    return _seconds(((ends if ends.tzinfo is not None else ends.replace(tzinfo=UTC)) - clock).total_seconds())


def clock_of(date: str | None, now: datetime) -> datetime:
    """Return the provider's own time: an end that it names is by its clock, which may not be this machine's."""
    try:
        at = now if date is None else parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return now
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _seconds(value: Any) -> float | None:
    """Return a duration that is given as a number or as text; None for what is none, or has passed already."""
    try:
        seconds = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    # Ten years and ten thousand are the same here, and the second is beyond the calendar.
    return min(seconds, 10 * 366 * 86_400.0) if seconds > 0 else None


def _is_token(value: Any) -> TypeGuard[str]:
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_TOKEN
        and value.isascii()
        and not any(one <= " " or one == "\x7f" for one in value)
    )


def _document(body: bytes, media: str) -> dict[str, Any] | None:
    try:
        if media.partition(";")[0].strip().lower() == "application/x-www-form-urlencoded":
            return dict(parse_qsl(body.decode("ascii"), max_num_fields=100))
        decoded = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, dict) else None


def _code(document: dict[str, Any] | None) -> str | None:
    if document is None:
        return None
    code = document.get("error")
    if isinstance(code, str) and _CODE.fullmatch(code):
        return code
    # Slack answers 200 with `ok: false`.
    return "error" if code not in (None, "", False) or document.get("ok") is False else None


def _waiting(value: str | None, now: datetime) -> timedelta | None:
    """Return how long a `Retry-After` asks to wait, in seconds or as a date, capped."""
    if value is None:
        return None
    try:
        wait = timedelta(seconds=int(value)) if value.strip().isdigit() else _until(value, now)
    except (ValueError, OverflowError, TypeError):
        return None
    return min(max(wait, timedelta(0)), LONGEST_WAIT)


def _until(value: str, now: datetime) -> timedelta:
    at = parsedate_to_datetime(value)
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)) - now
