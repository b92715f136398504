"""Searches: queries of the archive that are kept by name, and what to do when they find too much."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.resources.declaration import Resource, Spec, about, resource
from shared.values import Expression

# Counted again and again: more than a search of so many rows is worth a second.
Limit = Annotated[int, msgspec.Meta(ge=0, le=100_000)]
Window = Annotated[float, msgspec.Meta(ge=10, le=86_400)]


class SearchAdds(msgspec.Struct, frozen=True):
    """Whether it finds more than `alert_above` now, and since when; null where nothing is counted."""

    above: bool | None
    since: str | None


@resource(
    "search",
    plural="searches",
    owner="logs",
    # Of one organization: each with an alert is counted every few seconds.
    most=200,
    columns=("name", "q", "alert_above", "alert_window", "above", "since", "enabled"),
    adds=SearchAdds,
    example={"q": "level:>=error", "alert_above": 10, "alert_window": 300},
)
class SavedSearch(Spec, frozen=True, kw_only=True):
    """A query of the archive. With `alert_above` it is counted every few seconds over the last `alert_window`.

    Where it finds more than that, the topic `millrace` has an event `millrace.search`; another one only after it has found no more
    than that for once.
    """

    q: Annotated[Expression, about("As `q` of a search: `level:>=error -workflow:sync`.")]
    alert_above: Annotated[Limit, about("How many messages are no reason for an event; null: no number is.")] | None = None
    alert_window: Annotated[Window, about("Seconds in which they are counted.")] = 300.0
    enabled: Annotated[bool, about("Whether it is counted.")] = True


SearchEntry = Resource[SavedSearch]
