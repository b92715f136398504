"""Levels: from which level on the services log, as an operator sets it while they run."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.messages.log import SERVICES
from shared.resources.declaration import Names, Resource, Spec, about, resource
from shared.resources.shapes import Moment


class LevelAdds(msgspec.Struct, frozen=True):
    """Whether it is in force: not after its end."""

    active: bool


@resource(
    "level",
    plural="levels",
    owner="logs",
    write="admin",
    names=Names("|".join(SERVICES), f"the name is that of a service: {', '.join(SERVICES)}", example=SERVICES[0]),
    registered=SERVICES,
    of_platform=True,
    columns=("name", "level", "until", "active", "updated_at"),
    adds=LevelAdds,
    example={"level": "warning"},
)
class Level(Spec, frozen=True, kw_only=True):
    """The level from which on the service of this name logs, at each replica. Without one, and after its end, it is `info`."""

    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], about("What is below it is not logged.")]
    until: Annotated[Moment, about("When it ends; of `debug` at most seven days ahead. null: never.")] | None = None


LevelEntry = Resource[Level]
