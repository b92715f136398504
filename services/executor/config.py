"""Settings of the executor service."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from pathlib import Path

from packaging.utils import InvalidName, canonicalize_name

from services.executor.domain import LEAST_KEPT
from services.executor.environments.indexes import Indexes, indexes
from services.executor.sandbox.interface import Tier
from services.executor.sandbox.machine import Machine
from services.executor.sandbox.process import ChildLimits
from services.executor.sizing import SlotBounds
from shared import config
from shared.config import Environment
from shared.egress.configured import egress_of
from shared.egress.policy import EgressRules
from shared.streams import DEFAULT_GROUP, GROUP

DAY = 24 * 3600
# Below a twentieth the kernel would let a run go for less than 5 ms at a time.
LEAST_CORES, MOST_CORES = 0.05, 1024
# Slots for each core: so many keep it busy with runs that compute, and so many wait on it for other systems.
SLOTS_LEAST, SLOTS_MOST = 12, 48
MOST_SLOTS = 1000
# Each has three pulls that wait at the broker.
MOST_GROUPS = 20
# Seconds: `millrace up` has fifteen for all that it stops.
DRAIN = 3


class ExecutorSettings(config.Settings, frozen=True, kw_only=True):
    """Read once at start. `data` is a folder for caches; `warm` bounds the children kept ready while the slots are the least.

    `cores` and `processes` bound one run's share of the processor, and its processes. `egress` lists the names that runs may reach.
    `runs_kept` is how long the messages of a run stay on the bus after its end; its row and its archive stay longer.
    `longest_chain` bounds the runs that start each other. `quotas` are those of organizations that have none of their own.
    """

    data: Path
    slots: SlotBounds
    """The least and the most runs at a time; the same twice for a fixed number."""
    groups: tuple[str, ...]
    """The worker groups whose runs are carried out here."""
    warm: int
    drain: int
    """Seconds for which runs may go on once the service is to stop."""
    cores: float
    processes: int
    sandbox_uid: int | None
    runs_kept: timedelta
    artifacts_kept: timedelta
    longest_chain: int
    quotas: dict[str, int | None]
    egress: EgressRules
    unsafe: bool
    """Whether runs may go on without isolation where no sandbox is available."""
    preloads: bool
    """Whether packages of workflows are imported ahead of their runs."""
    environment_bytes: int
    """Bound of all installed packages on this machine's disk."""
    sdists: frozenset[str]
    """Names of the packages that are built from their source."""
    indexes: Indexes
    """Where packages come from."""
    tier: Tier | None
    """The one tier to use; None for the best that this machine allows. "none" only together with `unsafe`."""


def read(environment: Environment) -> ExecutorSettings:
    """Return the settings; `environment.check` reports a missing one."""
    tiers: dict[str | None, Tier] = {"A": "A", "B": "B", "none": "none"}
    choices = ("A", "B", "none") if environment.flag("MILLRACE_UNSAFE") else ("A", "B")
    # Of a container's, where it has fewer than its machine.
    cores = math.ceil(Machine().cores)
    uid = environment.optional("MILLRACE_SANDBOX_UID")
    return ExecutorSettings(
        **config.common(environment),
        data=environment.path("MILLRACE_DATA"),
        slots=_slots(environment, cores),
        groups=_groups(environment),
        warm=environment.integer("MILLRACE_WARM", 2 * cores, minimum=1, maximum=200),
        cores=_cores(environment),
        processes=environment.integer("MILLRACE_RUN_PROCESSES", ChildLimits.processes, minimum=8, maximum=4096),
        drain=environment.integer("MILLRACE_DRAIN", DRAIN, maximum=DAY),
        sandbox_uid=None if uid is None else environment.integer("MILLRACE_SANDBOX_UID", 65532, minimum=1),
        runs_kept=timedelta(seconds=environment.integer("MILLRACE_RUNS_KEPT", DAY, minimum=int(LEAST_KEPT.total_seconds()))),
        artifacts_kept=timedelta(seconds=environment.integer("MILLRACE_ARTIFACTS_KEPT", 30 * DAY, minimum=DAY)),
        longest_chain=config.longest_chain(environment),
        quotas=config.quotas(environment),
        egress=egress_of(environment),
        unsafe=environment.flag("MILLRACE_UNSAFE"),
        preloads=environment.choice("MILLRACE_PRELOAD", ("on", "off")) != "off",
        environment_bytes=environment.integer("MILLRACE_ENVIRONMENT_BYTES", 10 << 30, minimum=1 << 20, maximum=1 << 50),
        sdists=_sdists(environment),
        indexes=_indexes(environment),
        tier=tiers.get(environment.choice("MILLRACE_SANDBOX_TIER", choices)),
    )


def _slots(environment: Environment, cores: int) -> SlotBounds:
    """Return a fixed number where `MILLRACE_SLOTS` is set; else bounds. One organization gets two thirds (`shares`)."""
    fixed, bounds = "MILLRACE_SLOTS", ("MILLRACE_SLOTS_MIN", "MILLRACE_SLOTS_MAX")
    if environment.optional(fixed) is not None:
        for name in bounds:
            if environment.optional(name) is not None:
                environment.complain(name, f"bounds a number of slots that follows the load, and {fixed} fixes it: set one of them")
        slots = environment.integer(fixed, 1, minimum=1, maximum=MOST_SLOTS)
        return SlotBounds(slots, slots)
    most = environment.integer(bounds[1], min(MOST_SLOTS, SLOTS_MOST * cores), minimum=1, maximum=MOST_SLOTS)
    least = environment.integer(bounds[0], min(most, SLOTS_LEAST * cores), minimum=1, maximum=MOST_SLOTS)
    if least > most:
        environment.complain(bounds[0], f"must be at most {bounds[1]}, which is {most}")
    return SlotBounds(least, max(least, most))


def _groups(environment: Environment) -> tuple[str, ...]:
    given = (environment.optional("MILLRACE_WORKER_GROUPS") or DEFAULT_GROUP).replace(",", " ").split()
    wrong = [one for one in given if one != DEFAULT_GROUP and not re.match(GROUP, one)]
    if wrong or len(given) > MOST_GROUPS:
        allowed = "lower-case letters, digits, - and _, at most 32, with commas between them"
        environment.complain("MILLRACE_WORKER_GROUPS", f"must be at most {MOST_GROUPS} names of groups of {allowed}")
        return (DEFAULT_GROUP,)
    return tuple(dict.fromkeys(given))


def _cores(environment: Environment) -> float:
    try:
        cores = float(environment.optional("MILLRACE_RUN_CORES") or 1.0)
    except ValueError:
        cores = 0.0
    if not LEAST_CORES <= cores <= MOST_CORES:
        environment.complain("MILLRACE_RUN_CORES", f"must be a number from {LEAST_CORES} to {MOST_CORES}")
        return 1.0
    return cores


def _sdists(environment: Environment) -> frozenset[str]:
    given = (environment.optional("MILLRACE_SDISTS") or "").replace(",", " ").split()
    try:
        return frozenset(canonicalize_name(one, validate=True) for one in given)
    except InvalidName:
        environment.complain("MILLRACE_SDISTS", "must be names of packages, with commas between them")
        return frozenset()


def _indexes(environment: Environment) -> Indexes:
    given = [environment.optional(f"MILLRACE_{name}") for name in ("INDEX_URL", "PIP_CONF", "INDEX_HOSTS")]
    try:
        return indexes(*given)
    except ValueError as error:
        environment.complain("MILLRACE_INDEX_URL" if given[1] is None else "MILLRACE_PIP_CONF", str(error))
        return Indexes()
