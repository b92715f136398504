"""Commands to the owners of what belongs to an organization: to count it, to stop it, and to erase it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.questions.declaration import Command, command
from shared.values import Instant, Key

Step = Literal["count", "stop", "erase"]


class Left(msgspec.Struct, frozen=True):
    """What there is of an organization, by kind; after a step what it found, or what still goes on: nothing, once it is done."""

    counts: dict[str, int] = {}


class RemoveOrganization(Command[Left], frozen=True, kw_only=True):
    """Do a part of a step of the removal of `organization`, which began at `began_at`; `count` changes nothing.

    `stop`: whatever acts by itself ends, and resources are removed by their messages. `erase`: rows, objects and messages are
    deleted. Each call does as much as fits into some seconds, and may come again. Raises `Unavailable`.
    """

    organization: Key
    step: Step
    began_at: Annotated[Instant, msgspec.Meta(description="RFC 3339")]


class EraseOfOrganization(Command[Left], frozen=True, kw_only=True):
    """Erase messages of a stream that an organization left, which is being removed; and blobs that no other message names.

    May be repeated.
    """

    organization: Key
    stream: Key
    incarnation: Key
    sequences: list[int] = msgspec.field(default_factory=list)
    blobs: list[Key] = msgspec.field(default_factory=list)


@command("events.remove_organization", by="gateway", timeout=60.0)
class RemoveInEvents(RemoveOrganization, frozen=True, kw_only=True):
    """Of sources and what belongs to them, deliveries, schedules, replays and dead letters."""


@command("executor.remove_organization", by="gateway", timeout=60.0)
class RemoveInExecutor(RemoveOrganization, frozen=True, kw_only=True):
    """Of runs and the workspace."""


@command("oauth.remove_organization", by="gateway", timeout=60.0)
class RemoveInOAuth(RemoveOrganization, frozen=True, kw_only=True):
    """Of connections, secrets, providers and variables."""


@command("logs.remove_organization", by="gateway", timeout=60.0)
class RemoveInLogs(RemoveOrganization, frozen=True, kw_only=True):
    """Of the archive, and with it of every stream."""


@command("gateway.erase_of_organization", by="logs", timeout=60.0)
class EraseInGatewayOf(EraseOfOrganization, frozen=True, kw_only=True):
    """Of CATALOG."""


@command("oauth.erase_of_organization", by="logs", timeout=60.0)
class EraseInOAuthOf(EraseOfOrganization, frozen=True, kw_only=True):
    """Of CONNECTIONS."""


@command("events.erase_of_organization", by="logs", timeout=60.0)
class EraseInEventsOf(EraseOfOrganization, frozen=True, kw_only=True):
    """Of WEBHOOKS, EVENTS and DEAD, and the bucket `bodies`."""


@command("executor.erase_of_organization", by="logs", timeout=60.0)
class EraseInExecutorOf(EraseOfOrganization, frozen=True, kw_only=True):
    """Of RUNS, LINES and TIMERS, and the bucket `results`."""
