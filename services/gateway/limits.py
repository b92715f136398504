"""Who may ask how often: the rates of a key, of its organization, and of the webhooks of an organization and of a source."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import msgspec
from aiohttp import web
from nats.aio.client import Client

from services.gateway.admission import WebhookEndpoint
from services.gateway.identity import Keys
from services.gateway.principals import Principal
from services.gateway.rates import DefaultRates, Rate, SharedBucket, SharedBuckets
from shared.errors import RateExceeded
from shared.health import Health
from shared.organizations import PLATFORM
from shared.registry import Entry, RegistryView
from shared.resources.organization import OrganizationEntry


class RateLimit(msgspec.Struct, frozen=True):
    """A limit that counts for a request: its name, as answers have it, and its bucket."""

    name: str
    bucket: SharedBucket


Limits = tuple[RateLimit, ...]
# The limits of a request, for the headers of its answer.
LIMITS: web.RequestKey[Limits] = web.RequestKey("limits")


class Organizations(RegistryView[OrganizationEntry]):
    """What organizations are held to, by name; one that is not here has nothing of its own."""

    def __init__(self, client: Client, health: Health) -> None:
        super().__init__(client, "orgs", OrganizationEntry, health)
        self._names: dict[str, str] = {}
        self.rates: dict[str, tuple[Rate | None, Rate | None]] = {}

    def learn(self, key: str, entry: Entry[OrganizationEntry]) -> None:
        """Take an entry over, as every view does, with the rates of requests and of webhooks."""
        super().learn(key, entry)
        if self.get(key) is not entry:
            return
        # A name may be another one's by now.
        if (name := self._names.pop(key, None)) is not None and name not in self._names.values():
            self.rates.pop(name, None)
        if entry.value is not None:
            spec = entry.value.spec
            self._names[key] = entry.value.name
            self.rates[entry.value.name] = (_rate(spec.rate, spec.burst), _rate(spec.webhook_rate, spec.webhook_burst))


class RateLimits:
    """Finds the limits of requests, and counts those that were refused."""

    def __init__(self, buckets: SharedBuckets, keys: Keys, organizations: Organizations, defaults: DefaultRates) -> None:
        self._buckets = buckets
        self._keys = keys
        self._rates = organizations.rates
        self._defaults = defaults
        self._of_keys: dict[str, tuple[Any, Rate | None]] = {}
        self._refused: Counter[str] = Counter()

    def fact(self) -> dict[str, Any]:
        """Return how many buckets there are, and how many requests each kind of limit has refused."""
        return {"buckets": len(self._buckets), "refused": dict(self._refused)}

    def of_caller(self, principal: Principal, org: str) -> Limits:
        """Return the limits of a key or a user, and of the organization that is meant, if it is anybody there, or else its own.

        The platform's have those alone that they were given.
        """
        if principal.id is None:
            return ()
        found: list[RateLimit] = []
        is_platform = principal.role_in(PLATFORM) is not None
        rate = None if principal.is_user else self._of_key(principal.id)
        if rate is None and not is_platform:
            rate = self._defaults.key
        if rate is not None:
            what = "user" if principal.is_user else "key"
            found.append(RateLimit(what, self._buckets.bucket(f"{what}:{principal.id}", rate)))
        whose = principal.org if principal.role_in(org) is None else org
        # A user of several organizations may mean none of them: nobody else's limit counts for that.
        if not is_platform and whose != PLATFORM:
            rate = self._rates.get(whose, (None, None))[0] or self._defaults.org
            if rate is not None:
                found.append(RateLimit("organization", self._buckets.bucket(f"org:{whose}", rate)))
        return tuple(found)

    def of_webhook(self, hook: WebhookEndpoint) -> Limits:
        """Return the limits of a source, and of all webhooks of its organization."""
        own = self._rates.get(hook.org)
        whole = self._defaults.org_webhooks if own is None or own[1] is None else own[1]
        if hook.rate is None and whole is None:
            return ()
        found: list[RateLimit] = []
        if hook.rate is not None:
            found.append(RateLimit("source", self._buckets.bucket(f"source:{hook.source}", hook.rate)))
        if whole is not None:
            found.append(RateLimit("organization", self._buckets.bucket(f"hooks:{hook.org}", whole)))
        return tuple(found)

    def check(self, limits: Limits) -> None:
        """Take nothing. Raises `RateExceeded` for the first limit that has no token."""
        now = time.monotonic()
        for one in limits:
            if wait := one.bucket.wait(now):
                self._refused[one.name] += 1
                raise RateExceeded(one.name, f"the {one.name} has used up its rate for now", retry_after=wait)

    def take(self, limits: Limits) -> None:
        """Take a token of each limit, or of none. Raises `RateExceeded`."""
        self.check(limits)
        now = time.monotonic()
        for one in limits:
            one.bucket.take(now)

    def _of_key(self, id_: str) -> Rate | None:
        entry = self._keys.get(id_)
        if entry is None or entry.value is None:
            return None
        known = self._of_keys.get(id_)
        if known is None or known[0] is not entry:
            spec = entry.value.spec
            known = self._of_keys[id_] = (entry, _rate(spec.rate, spec.burst))
        return known[1]


def headers_of(limits: Limits) -> dict[str, str]:
    """Return what a client is told of its limits (draft-ietf-httpapi-ratelimit-headers, version 10).

    Of each its name, as policy the size of its bucket `q` and the seconds `w` in which it fills, and now the tokens left `r` and
    the seconds `t` until it is full.
    """
    now = time.monotonic()
    policies, states = [], []
    for one in limits:
        rate = one.bucket.rate
        left, full = one.bucket.left(now)
        policies.append(f'"{one.name}";q={rate.size};w={max(1, math.ceil(rate.size / rate.per_second))}')
        states.append(f'"{one.name}";r={left};t={math.ceil(full)}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)}


def _rate(per_second: float | None, burst: int | None) -> Rate | None:
    return None if per_second is None else Rate(per_second, burst)
