"""Retentions: how long the archive keeps the messages of a stream."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.resources.declaration import Resource, Spec, about, resource

# The fewest days for which each stream's messages may be kept. What is not here is kept for ever: it says how things are now.
FEWEST = {"WEBHOOKS": 7, "EVENTS": 7, "RUNS": 30, "LINES": 7, "TIMERS": 7, "LOGS": 7, "AUDIT": 365}
# The days for which they are kept where neither the organization nor the platform says it; others are kept for ever.
DEFAULT = {"LOGS": 30, "LINES": 90}
Stream = Literal["WEBHOOKS", "EVENTS", "RUNS", "LINES", "TIMERS", "LOGS", "AUDIT"]


@resource(
    "retention",
    plural="retentions",
    owner="events",
    write="admin",
    registered=("logs",),
    inherited=True,
    columns=("name", "org", "stream", "days", "updated_at"),
    example={"stream": "LOGS", "days": 30},
)
class Retention(Spec, frozen=True, kw_only=True):
    """How long the archive keeps the messages of a stream: an organization's own, or the platform's. Of several the longest.

    Where neither says it, LOGS are kept 30 days, LINES 90, and all others for ever.
    """

    stream: Annotated[Stream, about("Whose messages.")]
    days: Annotated[
        int,
        msgspec.Meta(ge=7, le=36_500),
        about("From the storage of a message to its removal; of RUNS at least 30, of AUDIT at least 365."),
    ]


RetentionEntry = Resource[Retention]
