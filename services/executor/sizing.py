"""Sizing of the pool: how many runs may go on at a time in this executor, between the least and the most that its settings allow.

Slots grow while runs wait for one and cores and memory are left: a run that waits for another system takes a slot and no core.
They grow to what would have all that waits begin within `WITHIN`, at most twofold at a time, and never so far that the cores
would be used beyond `GOAL` at the present use of each slot. Where others use the cores it is what runs take of them that counts:
slots grow as far as that would be `OWN`. Between `GOAL` and `FULL` nothing changes; above `FULL` they shrink, unless runs take
less than `OWN_MOST`.
After `QUIET` seconds with less to do they shrink to the most that was needed in that time, so that a burst finds what the last
one needed. Pure: no clock, nothing is measured here.
"""

from __future__ import annotations

import math

import msgspec

# Seconds within which all that waits is to begin.
WITHIN = 0.5
# Seconds that the oldest may have waited; then runs take longer than they did, and all that waits gets a slot.
LATE = 2.0
# Use of all cores up to which slots grow, and above which they shrink.
GOAL, FULL = 0.8, 0.95
# The part of all cores that runs take, up to which slots grow where others use the rest, and below which they do not shrink.
OWN, OWN_MOST = 0.25, 0.35
# Seconds for which the cores must have been in use: starting children takes all of them for a moment.
PERSISTS = 3.0
# Seconds with less to do after which slots shrink; a burst mostly comes in company.
QUIET = 30.0
# A change by less than a tenth is not worth it.
WORTH = 1.1
# Part of the memory that is left free by growing, and below which slots shrink.
RESERVED, SHORT = 0.1, 0.05
# MB that a run takes at least, its page tables and its group's included.
SMALLEST_MB = 8.0
# One organization gets two thirds of the slots: for its runs there must be half as many again.
SPARE = 1.5
# Seconds within which more executors should have begun all that waits: starting one takes a while.
REPLICA_WITHIN = 30.0
# The weight of the newest run in what runs take.
_NEWEST = 0.1


class SlotBounds(msgspec.Struct, frozen=True):
    """The least and the most slots."""

    least: int
    most: int


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. `running` runs go on; `queued` wait for a slot, anywhere, the oldest for `oldest_s`.

    A run has lately taken `run_s` seconds and `run_mb` MB. `busy` is the part of all cores that is in use, by whomever, `own` that
    of runs and this executor;
    `free_mb` of `memory_mb` are left, None where nobody can tell.
    """

    running: int
    queued: int = 0
    oldest_s: float = 0.0
    run_s: float = 1.0
    run_mb: float = 32.0
    busy: float = 0.0
    own: float = 0.0
    free_mb: float | None = None
    memory_mb: float | None = None


class RunUse:
    """What a run has taken lately: seconds and MB, the newest run counting most. Until the first has ended they are guessed."""

    def __init__(self) -> None:
        self.run_s, self.run_mb = 1.0, 32.0
        self._is_guess = True

    def ended(self, seconds: float, megabytes: float) -> None:
        """Count an attempt."""
        weight = 1.0 if self._is_guess else _NEWEST
        self._is_guess = False
        self.run_s += weight * (seconds - self.run_s)
        if megabytes > 0:  # else it was over before it could be measured
            self.run_mb += weight * (megabytes - self.run_mb)


class PoolSize(msgspec.Struct, frozen=True, kw_only=True):
    """The slots, why they were changed last, and what is known of the time since.

    `quiet_since`: from then on fewer were needed, `needed` at most. `full_since`: from then on the cores are in use.
    """

    slots: int
    reason: str = "start"
    quiet_since: float | None = None
    needed: int = 0
    full_since: float | None = None


def slots_for(load: Load) -> int:
    """Return the slots that would have all begin in time that waits."""
    begins = load.queued if load.oldest_s > LATE else min(load.queued, math.ceil(load.queued * load.run_s / WITHIN))
    return math.ceil((load.running + begins) * SPARE)


def resized(pool: PoolSize, load: Load, bounds: SlotBounds, now: float) -> PoolSize:
    """Return the pool as it is to be from `now` on (seconds of a clock that only goes on)."""
    full_since = None if load.busy < FULL or load.own < OWN_MOST else pool.full_since if pool.full_since is not None else now
    pool = msgspec.structs.replace(pool, full_since=full_since)
    needed = min(max(slots_for(load), bounds.least), bounds.most)
    if pool.slots > (fits := _fitting(load, bounds, SHORT)):
        return _changed(pool, fits, "memory")
    if full_since is not None and now - full_since >= PERSISTS and pool.slots > bounds.least:
        return _changed(pool, max(bounds.least, min(pool.slots - 1, int(pool.slots / WORTH))), "cores")
    if needed < pool.slots:
        return _quiet(pool, needed, bounds, now)
    pool = msgspec.structs.replace(pool, quiet_since=None, needed=0)
    if needed == pool.slots:
        return pool
    more = max(GOAL / max(load.busy, 0.01) if load.busy < GOAL else 0.0, OWN / max(load.own, 0.01))
    slots = min(needed, _fitting(load, bounds, RESERVED), 2 * pool.slots, int(pool.slots * more))
    if slots < min(needed, pool.slots * WORTH):
        return pool
    return _changed(pool, slots, "queue") if slots > pool.slots else pool


def replicas_for(load: Load, in_work: int, pool: PoolSize, bounds: SlotBounds) -> int:
    """Return how many executors like this one should serve the runs of which `in_work` go on in all of them together.

    One that cannot grow for its cores or its memory counts with the slots that it has.
    """
    begins = min(load.queued, math.ceil(load.queued * load.run_s / REPLICA_WITHIN))
    able = pool.slots if load.busy >= GOAL or pool.reason == "memory" else bounds.most
    return max(1, math.ceil((in_work + begins) * SPARE / max(1, able)))


def _fitting(load: Load, bounds: SlotBounds, reserved: float) -> int:
    """Return for how many runs there is memory, but for a reserved part; the least slots are the operator's promise."""
    if load.free_mb is None or load.memory_mb is None:
        return bounds.most
    left = load.free_mb - reserved * load.memory_mb
    return min(bounds.most, max(bounds.least, load.running + math.floor(left / max(load.run_mb, SMALLEST_MB))))


def _quiet(pool: PoolSize, needed: int, bounds: SlotBounds, now: float) -> PoolSize:
    since = now if pool.quiet_since is None else pool.quiet_since
    needed = max(needed, pool.needed)
    if now - since < QUIET:
        return msgspec.structs.replace(pool, quiet_since=since, needed=needed)
    if needed > bounds.least and pool.slots < needed * WORTH:
        return msgspec.structs.replace(pool, quiet_since=None, needed=0)
    return _changed(pool, needed, "quiet")


def _changed(pool: PoolSize, slots: int, reason: str) -> PoolSize:
    return PoolSize(slots=slots, reason=reason, full_since=None if reason == "cores" else pool.full_since)
