"""Every stream, durable consumer, registry and bucket in one table; only `deploy.prepare` makes them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from shared.messages import (
    AlertRaised,
    BranchMoved,
    DeadLettered,
    EventAccepted,
    EventOverdue,
    EventUnroutable,
    Message,
    RegistrationFailed,
    RunAnswered,
    RunAsked,
    RunCrashed,
    RunExpired,
    RunFailed,
    RunReminded,
    RunRequested,
    RunResumed,
    RunTimedOut,
    ScheduleFailed,
    WebhookReceived,
    declaration_of,
)
from shared.messages.declaration import STREAM_OF_NOUN
from shared.messages.shards import in_shard, shards_of, subject_in
from shared.resources import KINDS

HOUR = 3600.0
DAY = 24 * HOUR
# JetStream remembers message ids for this long; creations stay unique beyond it by expecting to be the first.
DUPLICATE_WINDOW = 600.0
# Above this a body travels by reference: JetStream and every reader hold whole messages in memory.
INLINE_BYTES = 256 * 1024


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream: for how many seconds it is kept on the bus (None: for ever), and the services that read it besides `logs`.

    `purged_by` names the one service that may remove messages from it, `erased_by` the one that may erase single ones for good,
    `removed_by` the one that may do so for an organization that is removed, where that is another one. Of an `owned` one each
    service reads its own messages only.
    """

    name: str
    max_age: float | None
    readers: tuple[str, ...] = ()
    schedules: bool = False
    owned: bool = False
    purged_by: str | None = None
    erased_by: str | None = None
    removed_by: str | None = None
    shard: int = 0

    @property
    def nouns(self) -> list[str]:
        """Return the nouns of the subjects in the stream: of the messages that are declared to be in it, or in a shard of it."""
        return [in_shard(noun, self.shard) for noun, stream in STREAM_OF_NOUN.items() if in_shard(stream, self.shard) == self.name]

    @property
    def subjects(self) -> list[str]:
        """Return the subjects that the stream takes."""
        return [f"{noun}.>" for noun in self.nouns]


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A durable pull consumer `<service>-<purpose>` over one kind of message, or several.

    `ack_wait` in seconds. `managed` consumers are pulled by the service itself, not by `shared.bus`. Services in `watched_by` see
    how much waits and since when, and take nothing. `enveloped`: the handler, that of the first of `messages`, takes the envelope.
    """

    name: str
    service: str
    messages: tuple[type[Message], ...]
    subjects: tuple[str, ...]
    ack_wait: float = 30.0
    max_ack_pending: int = 1000
    managed: bool = False
    watched_by: tuple[str, ...] = ()
    enveloped: bool = False
    shard: int = 0

    @property
    def first(self) -> str:
        """Return the name of the consumer of the first shard, of which this one is the like in its own."""
        return self.name.partition("=")[0]

    @property
    def stream(self) -> str:
        """Return the name of the stream that is consumed."""
        return in_shard(declaration_of(self.messages[0]).stream, self.shard)


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """A KV bucket with one writing service and its readers."""

    bucket: str
    writer: str
    readers: tuple[str, ...]


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """An object store bucket of content-addressed blobs; `max_age` in seconds."""

    name: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    max_age: float | None = None


def among_replicas(service: str, what: str) -> str:
    """Return the subject of what the replicas of a service tell each other, and nobody else: kept nowhere, and lost at times."""
    return f"replicas.{service}.{what}"


def _in_shards(stream: Stream) -> tuple[Stream, ...]:
    """Return the shards of a stream, the first of which has its name."""
    shards = max(map(shards_of, stream.nouns))
    return tuple(msgspec.structs.replace(stream, name=in_shard(stream.name, shard), shard=shard) for shard in range(shards))


def _of_shards(work: Work) -> tuple[Work, ...]:
    """Return the consumer of each shard. In their names the number stands behind what is in no name of a worker group."""
    shards = shards_of(declaration_of(work.messages[0]).noun)
    others = (
        msgspec.structs.replace(
            work, name=f"{work.name}={shard}", subjects=tuple(subject_in(one, shard) for one in work.subjects), shard=shard
        )
        for shard in range(1, shards)
    )
    return (work, *others)


STREAMS = (
    Stream(name="WEBHOOKS", max_age=7 * DAY, readers=("events",), erased_by="events"),
    Stream(name="EVENTS", max_age=7 * DAY, readers=("events",), erased_by="events"),
    # No age limit: an unacknowledged message that ages out vanishes, even while it is kept in progress. Runs that ended are purged.
    *_in_shards(
        Stream(name="RUNS", max_age=None, readers=("executor", "events", "gateway"), purged_by="executor", erased_by="executor")
    ),
    Stream(name="LINES", max_age=3 * DAY, readers=("executor", "gateway"), erased_by="executor"),
    # No age limit: a schedule dies silently with its stream's.
    Stream(name="TIMERS", max_age=None, readers=("executor", "events"), schedules=True, owned=True, removed_by="executor"),
    Stream(
        name="CATALOG",
        max_age=None,
        readers=("gateway", "events", "executor", "oauth"),
        removed_by="gateway",
    ),
    Stream(name="CONNECTIONS", max_age=None, readers=("oauth", "events"), removed_by="oauth"),
    Stream(name="LOGS", max_age=3 * DAY, erased_by="logs"),
    Stream(name="AUDIT", max_age=30 * DAY),
    Stream(name="DEAD", max_age=None, readers=("events",), erased_by="events"),
)

# The services that read or write runs.
RUN_READERS = {"logs", *next(stream.readers for stream in STREAMS if "run" in stream.nouns)}
PRIORITIES: tuple[Literal["high", "normal", "low"], ...] = ("high", "normal", "low")
# The worker group of a workflow that names none, and the names of all others: part of a subject, and of a consumer's name.
DEFAULT_GROUP = "default"
GROUP = rf"\A(?!{DEFAULT_GROUP}\Z)[a-z0-9][a-z0-9_-]{{0,31}}\Z"

# Webhooks wait in the prompt lane, whose subjects have no suffix, unless much of their source waits already: so that others do not
# wait behind it. Several, so that such sources do not wait behind each other.
BULK_LANES = ("bulk-1", "bulk-2", "bulk-3")


def _in_lanes(name: str, handled: type[Message], subject: str) -> tuple[Work, ...]:
    """Return a consumer of the events service for each lane, the prompt one first; each is handled beside the others."""
    watched: dict[str, Any] = {"service": "events", "messages": (handled,), "watched_by": ("gateway",)}
    prompt = Work(name=name, subjects=(subject,), **watched)
    return (prompt, *(Work(name=f"{name}-{lane}", subjects=(f"{subject}.{lane}",), **watched) for lane in BULK_LANES))


def _alerting(purpose: str, *messages: type[Message]) -> Work:
    """Return the consumer of the events service that makes alerts of some failures, which share a stream."""
    subjects = tuple(declaration_of(one).pattern() for one in messages)
    return Work(name=f"events-alert-{purpose}", service="events", messages=messages, subjects=subjects, enveloped=True)


def work_of_runs(group: str = DEFAULT_GROUP) -> tuple[Work, ...]:
    """Return the consumers of the runs of a worker group, one for each priority and shard, those of the highest first.

    Those of the default group are made with the others; the executors that serve another group make its own.
    """
    ending = "" if group == DEFAULT_GROUP else group
    return tuple(
        work
        for priority in PRIORITIES
        for work in _of_shards(
            Work(
                name="-".join(filter(None, ("executor-runs", priority, ending))),
                service="executor",
                messages=(RunRequested, RunResumed),
                subjects=tuple(".".join(filter(None, (f"run.*.{verb}", priority, ending))) for verb in ("requested", "resumed")),
                managed=True,
                # Each run that goes on anywhere holds its message.
                max_ack_pending=20_000,
                watched_by=() if ending else ("gateway", "events"),
            )
        )
    )


WORK = (
    *_in_lanes("events-parse", WebhookReceived, "webhook.*.received"),
    *_in_lanes("events-route", EventAccepted, "event.*.accepted"),
    _alerting("deliveries", EventUnroutable, EventOverdue),
    _alerting("schedules", ScheduleFailed),
    _alerting("letters", DeadLettered),
    _alerting("searches", AlertRaised),
    _alerting("registrations", RegistrationFailed),
    *_of_shards(_alerting("runs", RunFailed, RunTimedOut, RunCrashed, RunExpired)),
    *_of_shards(_alerting("questions", RunAsked, RunReminded, RunAnswered)),
    # A look at a remote, a pull and a push take their time.
    Work(
        name="executor-branches",
        service="executor",
        messages=(BranchMoved,),
        subjects=("branch.*.moved",),
        ack_wait=600.0,
        enveloped=True,
    ),
    *work_of_runs(),
)

REGISTRIES = (
    *(Registry(bucket=one.plural, writer=one.owner, readers=one.registered) for one in KINDS.values() if one.registered),
    Registry(bucket="workflows", writer="executor", readers=("gateway", "events", "executor")),
    Registry(bucket="adapters", writer="executor", readers=("gateway", "events", "executor")),
    Registry(bucket="usage", writer="executor", readers=("gateway", "events")),
    Registry(bucket="removals", writer="gateway", readers=("gateway", "events", "executor", "logs")),
)

# A KV bucket of its own kind: each service that consumes work writes below the names of its consumers (`shared.suspects`).
SUSPECTS = "suspects"
# Another one: the trees of the archive's digests, which logs alone reads and writes (`services.logs.digests`).
DIGESTS = "digests"
# And the leases and tickets of locks, each service's below its name (`shared.locks`).
LOCKS = "locks"
LOCKING = ("executor", "gateway")
# And answers that took long to work out, each service's below its name and the organization (`shared.cache`): bytes of all, of
# which the oldest go, and entries of one organization.
CACHE = "cache"
CACHING = ("gateway",)
CACHED_BYTES = 512 * 1024**2
CACHED_KEYS = 500

BUCKETS = (
    Bucket(name="bodies", writers=("gateway", "events"), readers=("executor", "logs"), max_age=7 * DAY),
    # Results of runs that are too large for a message.
    Bucket(name="results", writers=("executor",), readers=("gateway",), max_age=30 * DAY),
    Bucket(name="workspace", writers=("gateway", "executor"), readers=("gateway", "executor")),
    # The files that a workspace and its repository had last in common, as one list.
    Bucket(name="agreed", writers=("executor",), readers=("executor",)),
)
