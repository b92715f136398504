"""Questions and commands about the state that an organization's workflows keep."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from shared.questions.declaration import Command, Done, Page, Question, command, question
from shared.values import YEAR, Name, Sequence


class StateView(msgspec.Struct, frozen=True, kw_only=True):
    """A value of the state. A version is of one change of one key; `updated_by` is `run:…`, or who changed it by the API."""

    key: str
    value: Any
    version: int
    updated_at: str
    updated_by: str
    expires_at: str | None


class StateList(msgspec.Struct, frozen=True):
    """A page of values, by key."""

    items: list[StateView]
    next_cursor: str | None


@question("executor.state_value", by="gateway")
class GetState(Question[StateView], frozen=True, kw_only=True):
    """The value of a key. Raises NotFound."""

    key: Name


@question("executor.state_values", by="gateway")
class ListState(Question[StateList], frozen=True, kw_only=True):
    """The values whose keys begin with `prefix`, by key. Raises Malformed for a foreign cursor."""

    prefix: Annotated[str, msgspec.Meta(max_length=200)] = ""
    page: Page = Page()


@command("executor.put_state", by="gateway")
class PutState(Command[StateView], frozen=True, kw_only=True):
    """Give a key a value, for `ttl` seconds if that is said. `expected` is the version that must be there, 0 for none.

    Raises PreconditionFailed, Invalid, TooLarge, TooMany.
    """

    key: Name
    value: Any
    expected: Sequence | None = None
    ttl: Annotated[float, msgspec.Meta(gt=0, le=YEAR)] | None = None


@command("executor.remove_state", by="gateway")
class RemoveState(Command[Done], frozen=True, kw_only=True):
    """Remove a key. Raises NotFound, PreconditionFailed."""

    key: Name
    expected: Sequence | None = None
