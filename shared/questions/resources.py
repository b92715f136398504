"""Questions and commands to the owners of resources: the same for every noun, each at its owner's subject."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from shared.questions.declaration import Command, Page, Question, command, question
from shared.resources import KINDS
from shared.values import Key, Name, Sequence

Change = Literal["created", "changed", "none"]


class Shown(msgspec.Struct, frozen=True):
    """A resource as its organization sees it: its fields, `id`, `org`, `name`, times, `version`, and what its owner adds.

    After a change, `changes` has of each field that was changed the value before and after; of secrets only that they were. A
    command that came again has none.
    """

    fields: dict[str, Any]
    version: int
    change: Change = "none"
    changes: dict[str, tuple[Any, Any]] = {}


class Removed(msgspec.Struct, frozen=True):
    """A resource was removed; `changes` as of what is shown."""

    changes: dict[str, tuple[Any, Any]] = {}


class ShownPage(msgspec.Struct, frozen=True):
    """A page of resources."""

    items: list[dict[str, Any]]
    next_cursor: str | None


class Found(msgspec.Struct, frozen=True):
    """An entry of a registry with its sequence; `value` is None for what was removed."""

    seq: int
    value: dict[str, Any] | None


class GetResource(Question[Shown], frozen=True, kw_only=True):
    """The organization's resource of that name, or id; of an inherited kind else the platform's. Raises NotFound."""

    noun: Name
    name: Name


class ListResources(Question[ShownPage], frozen=True, kw_only=True):
    """The resources of one kind, by name. Of a kind whose path names the organization: those of `name`, by organization.

    `org` may be `*` there.
    """

    noun: Name
    page: Page = Page()
    name: Name | None = None


class FindResource(Question[Found], frozen=True, kw_only=True):
    """The registry's entry of a resource, by id, of any organization (`org` is not looked at). Raises NotFound."""

    noun: Name
    id: Key


class PutResource(Command[Shown], frozen=True, kw_only=True):
    """Create or replace a resource, or with `patch` change what `fields` hold of one that is there.

    Those of `fields` that may hold secrets arrive as `sealed`: their JSON, for (organization, command id, field). `expected` is the
    version that must be there (If-Match), 0 for none. Without one the last to come wins. A resource that is already what it is
    wanted to be is not changed. `dry_run`: everything is checked, and nothing is changed. `internal` are values of internal fields,
    for a resource that is created, or with `patch` for one that is there. `by_platform`: who asks has a key of the platform.
    Raises Invalid, NotFound (a patch), PreconditionFailed, Conflict, PermissionDenied.
    """

    noun: Name
    name: Name
    fields: dict[str, Any]
    sealed: dict[str, str] = msgspec.field(default_factory=dict)
    patch: bool = False
    expected: Sequence | None = None
    applied_as: Name | None = None
    dry_run: bool = False
    internal: dict[str, Any] = msgspec.field(default_factory=dict)
    by_platform: bool = False


class RemoveResource(Command[Removed], frozen=True, kw_only=True):
    """Remove a resource; `expected` as for putting it. Raises NotFound, PreconditionFailed, Conflict."""

    noun: Name
    name: Name
    expected: Sequence | None = None


_KINDS: dict[type[msgspec.Struct], tuple[Any, str, tuple[str, ...]]] = {
    GetResource: (question, "resource", ("gateway",)),
    ListResources: (question, "resources", ("gateway",)),
    FindResource: (question, "entry", ()),
    PutResource: (command, "put_resource", ("gateway",)),
    RemoveResource: (command, "remove_resource", ("gateway",)),
}
OWNERS = tuple(dict.fromkeys(one.owner for one in KINDS.values()))
_BY_OWNER: dict[tuple[type[msgspec.Struct], str], type[msgspec.Struct]] = {}
Q = TypeVar("Q", bound=msgspec.Struct)


def to(owner: str, kind: type[Q]) -> type[Q] | None:
    """Return the class of `kind` that is sent to this owner; None where there is none."""
    return _BY_OWNER.get((kind, owner))  # type: ignore[return-value]


def of(kind: type[Q], noun: str, **fields: Any) -> Q:
    """Return the question or the command to the owner of a noun."""
    found = to(KINDS[noun].owner, kind)
    assert found is not None  # noqa: S101 - every owner is asked, but for entries of registries that it does not have
    return found(noun=noun, **fields)


for _owner in OWNERS:
    _readers = {reader for one in KINDS.values() if one.owner == _owner for reader in one.registered} - {_owner}
    for _kind, (_declare, _verb, _by) in _KINDS.items():
        if not (_asked_by := _by or tuple(sorted(_readers))):
            continue
        _made = msgspec.defstruct(
            f"{_kind.__name__}Of{_owner.title()}",
            [],
            bases=(_kind,),
            frozen=True,
            kw_only=True,
            module=__name__,
            namespace={"__doc__": _kind.__doc__},
        )
        _BY_OWNER[_kind, _owner] = _declare(f"{_owner}.{_verb}", by=_asked_by)(_made)
