"""The one declaration of a resource, from which its messages, rows, registry entry, endpoints and commands follow."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from shared.errors import Invalid, Problem
from shared.messages.declaration import STREAM_OF_NOUN, Message, declaration_of, hashed_key, message
from shared.resources.shapes import (
    BY_ID,
    INTERNAL,
    MEMBERS,
    MERGED,
    REFERS_TO,
    SECRET,
    fields_of,
    marks_of,
    page_of,
    struct_of,
    view_of,
)
from shared.values import Name

Role = Literal["viewer", "operator", "developer", "admin"]

SecretText = Annotated[str, msgspec.Meta(extra_json_schema={SECRET: True})]
"""A text that goes in and never comes out."""
Merged = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={MERGED: True})]
"""An object whose members a PATCH changes one by one (RFC 7396); of other objects it replaces all."""
Settings = Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={MERGED: True, MEMBERS: True})]
"""As `Merged`; the owner's rules name its secret members: those that are not given stay as they are."""


Link = Annotated[str, msgspec.Meta(extra_json_schema={"format": "uri"})]
"""An address within the gateway: its owner knows the path, the gateway puts its public address before it."""


def about(description: str) -> msgspec.Meta:
    """Describe a field, for the OpenAPI document and the command's help."""
    return msgspec.Meta(description=description)


def internal() -> msgspec.Meta:
    """Mark a field that no request holds and no answer shows: the gateway or the owner gives it; it is in the registry."""
    return msgspec.Meta(extra_json_schema={INTERNAL: True})


def refers_to(noun: str, *, by_id: bool = False) -> msgspec.Meta:
    """Mark a name as that of another resource of the organization.

    `by_id`: it goes on meaning the one that had the name when it was given; shown are its id and, in `<field>_name`, its name.
    """
    return msgspec.Meta(extra_json_schema={REFERS_TO: noun, BY_ID: by_id})


class Names(msgspec.Struct, frozen=True):
    """Allowed names of resources: a pattern of the whole name, and the same for people; an `example` where few are allowed."""

    pattern: str
    rule: str
    example: str | None = None


ENTITY = Names(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}",
    "a name has 1 to 100 letters, digits, dots, underscores and hyphens, and begins with a letter or digit",
)
SETTING = Names(
    r"[A-Za-z_][A-Za-z0-9_.-]{0,99}",
    "it must be 1 to 100 letters, digits, dots, dashes or underscores, and begin with a letter or an underscore",
)


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """The desired state of a resource: the fields of one noun."""


S = TypeVar("S", bound=Spec)


class VaultAdds(msgspec.Struct, frozen=True):
    """Whether the sealed value can be opened: it is quarantined while the key that sealed it is missing."""

    status: Literal["active", "quarantined"]


class Resource(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """A resource as its owner keeps it and a registry carries it, by id.

    `refs` holds the ids of its references by id, `sealed` its secrets, encrypted for (organization, id, member),
    `derived` the owner's values for the readers of the registry. `applied_as` names the set of files that made it.
    `version` is the sequence of the message that recorded it; times are RFC 3339.
    """

    id: str
    org: str
    key: str
    name: str
    spec: S
    created_at: str
    updated_at: str
    version: int
    refs: dict[str, str] = msgspec.field(default_factory=dict)
    sealed: dict[str, str] = msgspec.field(default_factory=dict)
    applied_as: str | None = None
    derived: dict[str, Any] = {}


def _named(old: dict[str, Any]) -> dict[str, Any]:
    """Return a message of an older version with id and name: a variable had its key alone, a mapping its integration's name."""
    return {"id": old["key"], "name": old.get("integration")} | old


class ResourceChanged(Message, frozen=True, kw_only=True):
    """A resource was created or replaced; `spec` is its desired state from now on, the rest as in `Resource`.

    `key` is the hash of (organization, name), which makes names unique on the bus itself.
    """

    key: str
    id: str
    name: str
    spec: dict[str, Any]
    actor: str
    created_at: str
    refs: dict[str, str] = msgspec.field(default_factory=dict)
    sealed: dict[str, str] = msgspec.field(default_factory=dict)
    applied_as: str | None = None

    @classmethod
    def upcast(cls, document: bytes) -> bytes | None:
        """Return the message of an older version, whose spec stood among the other fields; None for any other."""
        old: dict[str, Any] = msgspec.json.decode(document)
        if "spec" in old:
            return None
        declared = KINDS[declaration_of(cls).noun]
        spec = {field: old[field] for field in declared.spec.__struct_fields__ if field in old}
        refs = {field: old[field] for field in declared.by_id if field in old}
        spec |= {field: old[f"{field}_name"] for field in refs}
        return msgspec.json.encode(_named(old) | {"spec": spec, "refs": refs})


class ResourceRemoved(Message, frozen=True, kw_only=True):
    """A resource was removed."""

    key: str
    id: str
    name: str
    actor: str

    @classmethod
    def upcast(cls, document: bytes) -> bytes | None:
        """Return the message of an older version, in which not every noun had an id and a name; None for any other."""
        old: dict[str, Any] = msgspec.json.decode(document)
        return None if {"id", "name"} <= old.keys() else msgspec.json.encode(_named(old))


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of `@resource` for a spec, and the types that follow from them.

    `path` is the address of one resource below `/api/v1`, with `{name}` in it, and `{org}` where the organization stands in the
    path as well. `registered` names the services that read the registry `plural`, which holds all of them; none: no registry.
    `in_vault`: the owner's rows hold values that are in no message.
    `inherited`: lists show the platform's as well, where the organization has none of that name. `of_platform`: no other
    organization has any. An organization may have `most` of them. `columns` are those of a table of them, `example` the fields of
    one.

    `body` is the body of a request to put one, `creation` the same with a name, `change` a merge patch; `shown` is the answer,
    `page` a page of them; of its fields `links` are paths at the gateway. `references` gives the noun that a field refers to. Of
    the fields `by_id` do so by id, `merged` are changed by a PATCH member by member, `secret` are never shown, `confidential`
    (these, and those with secret members) are sealed before they get on the bus, and `internal` are in no request and no answer.
    """

    noun: str
    plural: str
    owner: str
    spec: type[Spec]
    read: Role
    write: Role
    path: str
    names: Names
    registered: tuple[str, ...]
    in_vault: bool
    inherited: bool
    of_platform: bool
    most: int | None
    columns: tuple[str, ...]
    changed: type[ResourceChanged] | None
    removed: type[ResourceRemoved] | None
    body: type[msgspec.Struct]
    creation: type[msgspec.Struct]
    change: type[msgspec.Struct]
    shown: type[msgspec.Struct]
    page: type[msgspec.Struct]
    example: dict[str, Any]
    links: frozenset[str]
    references: dict[str, str]
    by_id: frozenset[str]
    merged: frozenset[str]
    secret: frozenset[str]
    confidential: frozenset[str]
    internal: frozenset[str]

    @property
    def collection(self) -> str:
        """Return the path of the list of them, below `/api/v1`."""
        return self.path.rpartition("/")[0]

    @property
    def is_placed(self) -> bool:
        """Return whether the path names the organization; the list then is of those of one name, by organization."""
        return "{org}" in self.path

    def key(self, org: str, name: str) -> str:
        """Return the key of the organization's one of that name."""
        return hashed_key(org, name)

    def check_name(self, name: str, path: str = "name") -> None:
        """Raise `Invalid` naming `path` where nothing of this kind can have this name."""
        if not re.fullmatch(self.names.pattern, name):
            raise Invalid(f"{name[:120]!r} cannot be a name: {self.names.rule}", errors=(Problem(path, self.names.rule),))

    def spec_of(self, fields: dict[str, Any]) -> Any:
        """Return the spec that was stored as `fields`: secret ones are empty, those that this version does not know passed over."""
        return msgspec.convert(dict.fromkeys(self.secret, "") | fields, self.spec)

    def visible(self, spec: Spec) -> dict[str, Any]:
        """Return the fields of a spec as they are shown: without those that are secret or internal."""
        return {name: value for name, value in self.stored(spec).items() if name not in self.internal}

    def stored(self, spec: Spec) -> dict[str, Any]:
        """Return the fields of a spec as they are stored: without those that are secret."""
        return {name: value for name, value in msgspec.to_builtins(spec).items() if name not in self.secret}


KINDS: dict[str, Kind] = {}

C = TypeVar("C", bound=type[Spec])


def resource(
    noun: str,
    *,
    plural: str,
    owner: str,
    read: Role = "viewer",
    write: Role = "developer",
    path: str | None = None,
    names: Names = ENTITY,
    registered: tuple[str, ...] = (),
    in_vault: bool = False,
    inherited: bool = False,
    of_platform: bool = False,
    most: int | None = None,
    columns: tuple[str, ...] = (),
    adds: type[msgspec.Struct] | None = None,
    example: dict[str, Any],
) -> Callable[[C], C]:
    """Declare the class below as the spec of a resource; see `Kind`. `adds` is the struct of the owner's additional values."""

    def declare(spec: C) -> C:
        if noun in KINDS:
            raise ValueError(f"resource {noun!r} is declared twice")
        title, marks = noun.title().replace("_", ""), marks_of(spec)
        fields, shown = fields_of(spec), view_of(title, spec, marks, adds)
        KINDS[noun] = Kind(
            noun=noun,
            plural=plural,
            owner=owner,
            spec=spec,
            read=read,
            write=write,
            path=path or f"/{plural}/{{name}}",
            names=names,
            registered=registered,
            in_vault=in_vault,
            inherited=inherited,
            of_platform=of_platform,
            most=most,
            columns=columns,
            changed=None if in_vault else _message(ResourceChanged, f"{title}Changed", f"{noun}.changed", owner),
            removed=None if in_vault else _message(ResourceRemoved, f"{title}Removed", f"{noun}.removed", owner),
            body=struct_of(title, fields, spec.__doc__),
            creation=struct_of(f"New{title}", [("name", Name), *fields], spec.__doc__),
            change=struct_of(f"{title}Patch", [(name, type_ | None, None) for name, type_, *_ in fields], spec.__doc__),
            shown=shown,
            page=page_of(title, shown, plural),
            example=example,
            links=frozenset(name for name, found in marks_of(adds or Spec).items() if found.get("format") == "uri"),
            references={name: found[REFERS_TO] for name, found in marks.items() if REFERS_TO in found},
            by_id=frozenset(name for name, found in marks.items() if found.get(BY_ID)),
            merged=frozenset(name for name, found in marks.items() if MERGED in found),
            secret=frozenset(name for name, found in marks.items() if SECRET in found),
            confidential=frozenset(name for name, found in marks.items() if SECRET in found or MEMBERS in found),
            internal=frozenset(name for name, found in marks.items() if INTERNAL in found),
        )
        return spec

    return declare


def _message(base: type[Any], name: str, type_: str, owner: str) -> Any:
    made = msgspec.defstruct(
        name, [], bases=(base,), frozen=True, kw_only=True, module=__name__, namespace={"__doc__": base.__doc__}
    )
    STREAM_OF_NOUN[type_.partition(".")[0]] = "CATALOG"
    declare: Any = message(type_, key="key", by=owner)
    return declare(made)


IntegrationName = Annotated[Name, refers_to("integration")]
