"""Asks providers' endpoints, under the organization's egress policy: what is signed has the provider's time, and counts once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import timedelta
from urllib.parse import urlsplit

from services.oauth.answers import Granted, Ungranted, clock_of, read
from services.oauth.lending import Lending
from services.oauth.providers import Registered
from services.oauth.token_requests import RequestStamp, TokenCall, TokenRequest
from shared.egress.fetching import AnsweredTooMuch, Fetched, Fetcher, NotAllowed, NotSent
from shared.envelope import new_id, utc_now
from shared.errors import Unavailable

# Giving tokens back, which must not fail for having used many.
REVOKING = ("revoke_url",)
# Seconds of a whole request, with a second try.
REQUEST = 12.0
# A clock that is off by more than this is not that of a server, but of a cache.
MOST_OFF = timedelta(days=1)
# Off by less, an assertion is good all the same.
OFF = timedelta(seconds=20)
MOST_KEPT = 1000

Make = Callable[[TokenCall], TokenRequest]


class TokenEndpoint:
    """The endpoints of providers. Remembers how far each host's clock is off this one, as its answers date themselves."""

    def __init__(self, fetcher: Fetcher, lending: Lending) -> None:
        self._fetcher = fetcher
        self._lending = lending
        self._off: OrderedDict[str, timedelta] = OrderedDict()

    async def token(
        self, org: str, registered: Registered, make: Make, *, at: tuple[str, ...] = ("token_url",)
    ) -> Granted | Ungranted:
        """Send a token request to the first of the addresses `at` that there is, and return what its answer means.

        Raises `Invalid` where nothing can be sent.
        """
        try:
            answer = await self.post(org, registered, make, at=at)
        except NotAllowed as error:
            return not_allowed(error)
        except NotSent as error:
            return Ungranted("transient", error.detail)
        except AnsweredTooMuch as error:
            return Ungranted("malformed", error.detail)
        except Unavailable as error:
            return Ungranted("ambiguous", error.detail)
        is_refreshed = "refresh_url" in at
        return read(answer.status, answer.headers, answer.body, registered.provider, utc_now(), is_refreshed=is_refreshed)

    async def post(self, org: str, registered: Registered, make: Make, *, at: tuple[str, ...]) -> Fetched:
        """Return the answer to a request. One that is signed is made once more where it was refused by a clock that is off.

        Of a client that is lent the organization has so many requests; revoking a token counts for none. Raises `Invalid`,
        `Unavailable` as `Fetcher.send`.
        """
        if at != REVOKING:
            await self._count(org, registered)
        url = registered.address(*at)
        host, ends = urlsplit(url).netloc, time.monotonic() + REQUEST
        while True:
            off = self._off.get(host, timedelta(0))
            request = make(registered.call(url, RequestStamp(utc_now() + off, new_id())))
            left = ends - time.monotonic()
            answer = await self._fetcher.send(org, "POST", url, timeout=left, headers=request.headers, body=request.body)
            now_off = self._dated(host, answer.headers.get("date"))
            is_refused = answer.status in {400, 401, 403}
            if not (request.is_signed and is_refused and abs(now_off - off) > OFF and ends - time.monotonic() > 1):
                return answer

    async def _count(self, org: str, registered: Registered) -> None:
        """Raise `NotSent` where an organization has used up its share of a client that is lent to it."""
        if registered.lent is None:
            return
        try:
            taken = await self._lending.take(registered.lent, org)
        except Unavailable as error:
            raise NotSent(error.detail, retry_after=5) from error
        if not taken:
            share = f"{org} has used up the {registered.lent.a_minute} requests a minute that it has of a client of another one"
            raise NotSent(share, retry_after=60 / registered.lent.a_minute)

    async def get(self, org: str, url: str, headers: Mapping[str, str]) -> Fetched:
        """Return the answer of an API to a credential in these headers. Raises `Unavailable` with the reason."""
        return await self._fetcher.send(org, "GET", url, timeout=REQUEST, headers=headers)

    def _dated(self, host: str, date: str | None) -> timedelta:
        """Return how far a host's clock is off this one."""
        now = utc_now()
        off = clock_of(date, now) - now
        off = off if abs(off) < MOST_OFF else timedelta(0)
        self._off.pop(host, None)
        self._off[host] = off
        while len(self._off) > MOST_KEPT:
            self._off.popitem(last=False)
        return off


def not_allowed(error: NotAllowed) -> Ungranted:
    """Return the failure of a request that the egress policy refuses."""
    return Ungranted("not_allowed", f"refused by the egress policy: {error.detail}", is_local=True)
