"""Variables: values that an organization gives to its runs by name."""

from __future__ import annotations

from typing import Annotated, Any

from shared.resources.declaration import SETTING, Spec, about, resource


@resource(
    "variable",
    plural="variables",
    owner="oauth",
    names=SETTING,
    columns=("name", "value", "updated_at"),
    example={"value": 50},
)
class Variable(Spec, frozen=True, kw_only=True):
    """Any JSON value, for every member of the organization to read."""

    value: Annotated[Any, about("JSON; text where it is none.")]
