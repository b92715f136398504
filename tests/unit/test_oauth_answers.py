"""Answers of token endpoints and what follows from them, without a socket: each departure of providers from RFC 6749."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from services.oauth.addresses import filled
from services.oauth.answers import LONGEST_WAIT, Granted, Ungranted, read
from services.oauth.policy import Times, TokenState, after, shown_state, times_of
from shared.errors import Invalid
from shared.resources.connection import Connection
from shared.resources.provider import Provider

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GOOD = {"access_token": "tok", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "ref"}


def answer(body: Any, status: int = 200, provider: Provider | None = None, **headers: str) -> Granted | Ungranted:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(status, {"content-type": "application/json"} | named, content, provider or Provider(), NOW)


def granted(body: Any, provider: Provider | None = None, **headers: str) -> Granted:
    found = answer(body, provider=provider, **headers)
    assert isinstance(found, Granted)
    return found


def failure(body: Any, status: int = 200, **headers: str) -> str:
    found = answer(body, status, **headers)
    assert isinstance(found, Ungranted)
    assert "tok" not in found.reason.replace("token", "")
    return found.failure


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": "invalid_grant"}, "dead"),
        (401, {"error": "invalid_grant"}, "dead"),
        (200, {"error": "bad_refresh_token"}, "dead"),
        (401, {"error": "invalid_client"}, "misconfigured"),
        (400, {"error": "unauthorized_client"}, "misconfigured"),
        (400, {"error": "invalid_scope"}, "misconfigured"),
        (400, {"error": "unsupported_grant_type"}, "misconfigured"),
        (400, {"error": "invalid_request"}, "misconfigured"),
        (404, b"not here", "misconfigured"),
        (302, b"", "misconfigured"),
        (307, GOOD, "misconfigured"),
        (500, b"<html>", "transient"),
        (502, {"error": "server_error"}, "transient"),
        (503, b"", "transient"),
        (400, {"error": "temporarily_unavailable"}, "transient"),
        (429, b"", "throttled"),
        (200, {"ok": False, "error": "ratelimited"}, "throttled"),
        (200, b"<html>sign in</html>", "malformed"),
        (200, {"token_type": "Bearer"}, "malformed"),
        (200, {"access_token": ""}, "malformed"),
        (200, {"access_token": 7}, "malformed"),
        (200, {"access_token": "a\nb"}, "malformed"),
        (200, [GOOD], "malformed"),
        (200, b"[" * 100_000, "malformed"),
        (400, b"nothing", "malformed"),
        (200, {"ok": False, "access_token": "tok"}, "malformed"),
        (200, GOOD | {"token_type": "DPoP"}, "misconfigured"),
    ],
)
def test_each_answer_has_its_class(status: int, body: Any, expected: str) -> None:
    assert failure(body, status) == expected


@pytest.mark.parametrize(
    ("after_what", "wait"),
    [
        ("120", timedelta(seconds=120)),
        ("0", timedelta(0)),
        ("Fri, 02 Jan 2026 03:06:05 GMT", timedelta(seconds=120)),
        ("Fri, 02 Jan 2026 03:00:00 GMT", timedelta(0)),
        ("999999999999999999999", None),
        ("86400", LONGEST_WAIT),
        ("soon", None),
        (None, None),
    ],
)
def test_a_provider_says_how_long_it_wants_no_requests(after_what: str | None, wait: timedelta | None) -> None:
    headers = {} if after_what is None else {"retry_after": after_what}
    found = answer(b"", 429, **headers)
    assert isinstance(found, Ungranted)
    assert (found.failure, found.wait) == ("throttled", wait)


def test_21_a_form_is_read_as_json_is() -> None:
    form = b"access_token=tok&token_type=bearer&expires_in=3600&scope=repo%2Cgist"
    found = granted(form, content_type="application/x-www-form-urlencoded; charset=utf-8")
    assert (found.access_token, found.life, found.scope) == ("tok", 3600, "repo,gist")
    refused = answer(b"error=bad_refresh_token", content_type="application/x-www-form-urlencoded")
    assert isinstance(refused, Ungranted)
    assert refused.failure == "dead"


@pytest.mark.parametrize(
    ("value", "life"),
    [("3600", 3600), (3600.5, 3600.5), (0, None), (-5, None), ("x", None), (None, None), (True, None), ("nan", None), ([], None)],
)
def test_23_the_life_of_a_token_is_a_number_however_it_is_written(value: Any, life: float | None) -> None:
    assert granted(GOOD | {"expires_in": value}).life == life
    assert granted(GOOD | {"expires_in": value}, Provider(lifetime=60)).life == (life or 60)


@pytest.mark.parametrize(
    ("ends", "life"),
    [
        ("2026-01-02T03:05:05Z", 60), ("2026-01-02T04:05:05+01:00", 60), ("2026-01-02T03:05:05", 60),
        ("2026-01-02T03:04:05Z", None),
        ("2025-01-02T03:04:05Z", None), ("soon", None), ("", None), (1_767_323_105, None), (None, None), ([], None),
    ],
)  # fmt: skip
def test_an_end_that_is_a_time_counts_by_the_clock_that_named_it(ends: Any, life: float | None) -> None:
    body = {"access_token": "tok", "expires_at": ends}
    assert granted(body).life == life
    assert granted(body, date="no date").life == life
    assert granted(body, date="Fri, 02 Jan 2026 03:03:05 GMT").life == (
        120 if life else 60 if ends == "2026-01-02T03:04:05Z" else None
    )
    assert granted(body | {"expires_in": 5}).life == 5


def test_23_a_life_in_another_unit_or_beyond_all_bounds_is_one_of_seconds() -> None:
    assert granted(GOOD | {"expires_in": 3_600_000}, Provider(expires_unit="milliseconds")).life == 3600
    assert granted(GOOD | {"expires_in": 1e200}).life == 10 * 366 * 86_400


@pytest.mark.parametrize("value", ["", None, 7, "a b"])
def test_26_a_refresh_token_that_is_none_is_none(value: Any) -> None:
    assert granted(GOOD | {"refresh_token": value}).refresh_token is None


@pytest.mark.parametrize("kind", ["bearer", "BEARER", "bot", "", None, 7])
def test_28_a_token_of_another_type_is_one_unless_it_needs_a_proof(kind: Any) -> None:
    assert granted(GOOD | {"token_type": kind}).access_token == "tok"


def test_a_token_stands_where_its_provider_puts_it() -> None:
    nested = {"ok": True, "access_token": "bot", "authed_user": {"access_token": "user", "refresh_token": "r", "expires_in": 60}}
    found = granted(nested, Provider(token_path="authed_user.access_token"))
    assert (found.access_token, found.refresh_token, found.life) == ("user", "r", 60)
    # Slack gives a refreshed token elsewhere than the first one.
    body = msgspec.json.encode({"ok": True, "access_token": "user-2", "token_type": "user"})
    slack = Provider(token_path="authed_user.access_token", refreshed_path="access_token")
    again = read(200, {"content-type": "application/json"}, body, slack, NOW, is_refreshed=True)
    assert isinstance(again, Granted)
    assert again.access_token == "user-2"
    assert failure_of(msgspec.json.decode(body), slack) == "malformed"
    assert failure_of(nested, Provider(token_path="nobody.access_token")) == "malformed"
    assert failure_of(nested, Provider(token_path="ok.access_token")) == "malformed"


def failure_of(body: Any, provider: Provider) -> str:
    found = answer(body, provider=provider)
    assert isinstance(found, Ungranted)
    return found.failure


def state(**more: Any) -> TokenState:
    usual: dict[str, Any] = dict.fromkeys(TokenState.__struct_fields__)
    usual |= {"connection": "c", "org": "o", "provider": "p", "sealed": "s", "version": 1, "status": "healthy", "failures": 0}
    usual |= {"forced": 0, "attempting": False, "doubted": False, "configured": "", "fence": 1}
    return TokenState(**usual | {"expires_at": NOW + timedelta(minutes=5)} | more)


def low(a: float, _b: float) -> float:
    return a


def times(life: float | None, *, chance: Any = low, renews: bool = True, **more: Any) -> Times:
    body = GOOD | {"expires_in": life} | more
    return times_of(granted(body), NOW, chance, renews=renews)


def test_a_token_is_refreshed_before_its_end_and_at_the_latest_after_a_day() -> None:
    one = random.Random(1).uniform
    for life, least, most in ((3600, 0.72, 0.9), (60, 0.5, 0.7), (600, 0.5, 0.7), (7 * 86_400, 0.8 / 7, 1 / 7)):
        for _ in range(200):
            found = times(life, chance=one)
            assert found.refresh_at is not None
            share = (found.refresh_at - NOW).total_seconds() / life
            assert least <= share <= most


def test_a_life_of_a_moment_makes_no_loop_of_refreshing() -> None:
    assert times(0.5).refresh_at == times(1, refresh_token_expires_in=2).refresh_at == NOW + timedelta(seconds=30)


def test_22_a_token_of_unknown_life_is_refreshed_daily_so_that_its_grant_stays_in_use() -> None:
    found = times(None)
    assert (found.expires_at, found.refresh_at) == (None, NOW + timedelta(seconds=0.9 * 86_400))
    assert times(None, refresh_token=None).refresh_at is None


def test_32_a_grant_is_used_before_its_own_end() -> None:
    found = times(30 * 86_400, refresh_token_expires_in=3600)
    assert (found.refresh_expires_at, found.refresh_at) == (NOW + timedelta(hours=1), NOW + timedelta(seconds=0.7 * 3600))


def test_34_ten_thousand_tokens_of_one_moment_are_refreshed_over_a_while() -> None:
    one = random.Random(1).uniform
    found = sorted(times(3600, chance=one).refresh_at or NOW for _ in range(10_000))
    assert found[-1] < NOW + timedelta(seconds=3600)
    assert found[-1] - found[0] > timedelta(minutes=8)
    for first, later in zip(found, found[1_500:], strict=False):
        assert later - first > timedelta(seconds=30)


def shown(grant: Any, opens: bool = True, **more: Any) -> dict[str, str | None]:
    return shown_state("halo", Connection(grant=grant, provider="p"), state(**more), lambda _: opens, NOW)


def test_a_connection_is_healthy_only_while_its_token_can_be_given_out() -> None:
    assert shown("client_credentials")["status"] == "healthy"
    for left in (-60, 0, 30):
        found = shown("client_credentials", expires_at=NOW + timedelta(seconds=left))
        assert (found["status"], "within 30 s" in (found["reason"] or "")) == ("degraded", True)


def test_advice_names_the_connection_and_what_can_be_done_about_it() -> None:
    ended = shown("authorization_code", status="needs_reauthorization", reason="why")
    assert ended["advice"] == "authorize it: millrace connections authorize halo"
    lost = [shown(grant, opens=False)["advice"] or "" for grant in ("client_credentials", "authorization_code")]
    assert [one.partition("or ")[2] for one in lost] == ["put it again", "authorize it: millrace connections authorize halo"]


def refused(failure: Any, **more: Any) -> Ungranted:
    return Ungranted(failure, "why", **more)


def test_a_grant_that_ended_is_dead_at_once_unless_an_attempt_before_may_have_rotated() -> None:
    assert after(state(), refused("dead"), NOW, low).status == "needs_reauthorization"
    doubted = after(state(attempting=True), refused("dead"), NOW, low)
    assert (doubted.status, doubted.doubted, doubted.attempting) == ("healthy", True, True)
    assert doubted.refresh_at == NOW + timedelta(seconds=2)
    again = after(state(attempting=True, doubted=True), refused("dead"), NOW, low)
    assert (again.status, again.refresh_at) == ("needs_reauthorization", None)


def test_what_passes_leaves_a_connection_healthy_as_long_as_its_token_lives() -> None:
    for one in ("transient", "ambiguous", "malformed", "throttled"):
        assert after(state(), refused(one), NOW, low).status == "healthy"
        assert after(state(expires_at=NOW), refused(one), NOW, low).status == "degraded"


def test_pauses_grow_by_chance_and_have_a_bound() -> None:
    one = random.Random(1).uniform
    pauses = [[after(state(failures=n), refused("transient"), NOW, one).refresh_at for _ in range(300)] for n in range(30)]
    longest = [max((at or NOW) - NOW for at in of) for of in pauses]
    assert longest[0] <= timedelta(seconds=4)
    assert timedelta(minutes=14) < longest[-1] <= timedelta(minutes=15)
    assert min((at or NOW) - NOW for at in pauses[-1]) < timedelta(minutes=1)


def test_rubbish_is_tried_again_some_times_and_then_is_a_mistake_of_the_settings() -> None:
    for failures in range(3):
        assert after(state(failures=failures), refused("malformed"), NOW, low).refresh_at is not None
    last = after(state(failures=3), refused("malformed"), NOW, low)
    assert (last.status, last.is_news) == ("degraded", True)
    known = state(failures=4, failure="malformed", status="degraded")
    assert not after(known, refused("malformed"), NOW, low).is_news


def test_what_a_person_has_to_repair_is_tried_again_ever_more_seldom_and_published_once() -> None:
    pauses = []
    for failures in range(12):
        before = state(failures=failures, **({"failure": "misconfigured", "status": "degraded"} if failures else {}))
        found = after(before, refused("misconfigured"), NOW, low)
        assert (found.status, found.is_news, found.not_before) == ("degraded", failures == 0, NOW + timedelta(minutes=1))
        assert found.refresh_at is not None
        pauses.append(found.refresh_at - NOW)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (timedelta(minutes=1), timedelta(minutes=48))


def test_the_time_that_a_provider_asks_for_counts_for_its_client_whatever_its_answer_is() -> None:
    for one in ("transient", "throttled", "misconfigured"):
        wanted = Ungranted(one, "no", timedelta(minutes=2))  # type: ignore[arg-type]
        assert after(state(), wanted, NOW, low).closed_until == NOW + timedelta(minutes=2)
    assert after(state(), refused("transient"), NOW, low).closed_until is None


def test_a_refusal_that_needed_no_provider_is_believed_at_once() -> None:
    local = Ungranted("dead", "no token refreshes it", is_local=True)
    assert after(state(attempting=True), local, NOW, low).status == "needs_reauthorization"


def test_44_values_stay_where_they_stand() -> None:
    found = filled("https://api.example.com/{tenant}/token?a=b", {"tenant": "a/../b?c#d e"}, [])
    assert found == "https://api.example.com/a%2F..%2Fb%3Fc%23d%20e/token?a=b"
    for value in (".", ".."):
        with pytest.raises(Invalid):
            filled("https://api.example.com/{tenant}/token", {"tenant": value}, [])
    assert filled("https://{site}.example.com/t", {"site": "{site}"[1:5]}, []) == "https://site.example.com/t"
