"""Quotas of organizations, and how much of them is used: known in memory wherever they count, so that no request looks it up."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
from nats.aio.client import Client

from shared.envelope import utc_now
from shared.errors import TooMany
from shared.health import Health
from shared.messages.declaration import hashed_key
from shared.registry import RegistryView
from shared.resources.organization import OrganizationEntry

QUOTAS = ("runs_in_flight", "runs_a_day", "stored_bytes", "sources")
# Days for which replaced versions of files are kept, and how many of one file, where an organization does not say.
HISTORY = (30, 100)
# Seconds after which a run that found too many in flight is asked for again, from and to.
AGAIN = (30.0, 90.0)
# Seconds over which those of a day that is over are spread.
SPREAD = 1800.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The quotas of an organization; None: there is none."""

    runs_in_flight: int | None = None
    runs_a_day: int | None = None
    stored_bytes: int | None = None
    sources: int | None = None

    @property
    def has_runs(self) -> bool:
        """Whether there is one for runs."""
        return self.runs_in_flight is not None or self.runs_a_day is not None


class RunsUsed(msgspec.Struct, frozen=True, kw_only=True):
    """The runs of an organization as the executor has counted them: those in flight, and those of a day, as an ordinal."""

    in_flight: int
    on_day: int
    day: int


class OverQuota(TooMany):
    """A run would be more than a quota allows; from `again_at` on it may be asked for again."""

    again_at: datetime


class Quotas:
    """The quotas of all organizations, and the runs that those with a quota for them have.

    What is counted is a second or so old. Runs that this process has admitted since are counted on top.
    """

    def __init__(
        self, client: Client, health: Health, defaults: Limits, organizations: RegistryView[OrganizationEntry] | None = None
    ) -> None:
        """Read a view of organizations of its own, unless the process has one."""
        self.organizations = organizations or RegistryView(client, "orgs", OrganizationEntry, health)
        self.used = RegistryView(client, "usage", RunsUsed, health)
        self.defaults = defaults
        self._limits: dict[str, Limits] = {}
        self._history: dict[str, tuple[int, int]] = {}
        self._indexed = -1
        # By organization: those admitted here since what is known was counted, and what that was.
        self._admitted: Counter[str] = Counter()
        self._counted: dict[str, RunsUsed | None] = {}

    def of(self, org: str) -> Limits:
        """Return an organization's quotas: its own, else the default."""
        self._index()
        return self._limits.get(org, self.defaults)

    def history(self, org: str) -> tuple[int, int]:
        """Return for how many days an organization keeps versions of its files that were replaced, and how many of one file."""
        self._index()
        return self._history.get(org, HISTORY)

    def limited(self) -> list[str]:
        """Return the organizations that have a quota of their own for runs."""
        self._index()
        return sorted(org for org, limits in self._limits.items() if limits.has_runs)

    def admit_run(self, org: str, now: datetime | None = None) -> None:
        """Count a run that is about to be asked for. Raises `OverQuota` naming the quota where it would be one too many."""
        limits = self.of(org)
        if not limits.has_runs:
            return
        now = now or utc_now()
        found = self.used.get(hashed_key(org))
        used = None if found is None else found.value
        if org not in self._counted or self._counted[org] is not used:
            self._counted[org] = used
            self._admitted[org] = 0
        since = self._admitted[org]
        today = since + (used.on_day if used is not None and used.day == now.toordinal() else 0)
        going = since + (0 if used is None else used.in_flight)
        if limits.runs_a_day is not None and today >= limits.runs_a_day:
            tomorrow = datetime.combine(now.astimezone(UTC).date() + timedelta(days=1), datetime.min.time(), UTC)
            again = tomorrow + timedelta(seconds=random.uniform(0, SPREAD))  # noqa: S311 - no secret
            raise _over(org, "runs_a_day", limits.runs_a_day, "today", now, again)
        if limits.runs_in_flight is not None and going >= limits.runs_in_flight:
            again = now + timedelta(seconds=random.uniform(*AGAIN))  # noqa: S311 - no secret
            raise _over(org, "runs_in_flight", limits.runs_in_flight, "in flight", now, again)
        self._admitted[org] += 1

    def _index(self) -> None:
        if self._indexed == self.organizations.changes:
            return
        self._indexed = self.organizations.changes
        self._limits, self._history = {}, {}
        for one in self.organizations.values():
            days, versions = one.spec.history_days, one.spec.history_versions
            self._history[one.name] = HISTORY[0] if days is None else days, HISTORY[1] if versions is None else versions
            own = {name: value for name in QUOTAS if (value := getattr(one.spec, name)) is not None}
            if own:
                self._limits[one.name] = msgspec.structs.replace(self.defaults, **own)


def _over(org: str, quota: str, limit: int, when: str, now: datetime, again: datetime) -> OverQuota:
    error = OverQuota(
        f"the organization {org} has {limit:,} run{'s' * (limit != 1)} {when}, which is its quota {quota}",
        retry_after=(again - now).total_seconds(),
    )
    error.again_at = again
    return error
