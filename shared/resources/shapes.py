"""The structs that follow from a spec: the body of a request about a resource, and the answer."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from shared.values import Name

# Marks of a field beside its type. Readers of the OpenAPI document see them as well.
REFERS_TO, BY_ID, MERGED, SECRET, MEMBERS = "x-refers-to", "x-by-id", "x-merged", "writeOnly", "x-secret-members"
INTERNAL = "x-internal"
Moment = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
# The bounds that a source's rate has.
PerSecond = Annotated[float, msgspec.Meta(ge=0.001, le=1_000_000)]
Burst = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


def fields_of(spec: type[msgspec.Struct]) -> list[Any]:
    """Return the fields of a struct but the internal ones, as `msgspec.defstruct` takes them."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(spec):
        if INTERNAL in _marks(msgspec.inspect.type_info(field.type)):
            continue
        defaults = {"default": field.default, "default_factory": field.default_factory}
        given = {name: value for name, value in defaults.items() if value is not msgspec.NODEFAULT}
        fields.append((field.name, field.type, msgspec.field(**given)) if given else (field.name, field.type))
    return fields


def view_of(title: str, spec: type[msgspec.Struct], marks: dict[str, dict[str, Any]], adds: type[msgspec.Struct] | None) -> Any:
    """Return the struct shown of a resource: its fields but the secret ones, and the owner's additional values."""
    fields: list[Any] = [("id", str), ("org", str), ("name", str)]
    for name, type_, *default in fields_of(spec):
        found = marks[name]
        fields += [] if SECRET in found else [(name, type_)]
        fields += [(f"{name}_name", type_)] if found.get(BY_ID) else []
        # Of secrets that may be missing it is shown which are there.
        fields += [("secrets", list[str])] if MEMBERS in found or (SECRET in found and default) else []
    fields += [(name, type_) for name, type_, *_ in (fields_of(adds) if adds is not None else ())]
    fields += [("created_at", Moment), ("updated_at", Moment), ("version", int), ("applied_as", str | None)]
    return struct_of(f"{title}View", fields, spec.__doc__, forbid=False)


def struct_of(name: str, fields: list[Any], doc: str | None, *, forbid: bool = True) -> Any:
    """Return a struct; unknown fields are refused."""
    documented = {"__doc__": doc}
    return msgspec.defstruct(name, fields, frozen=True, kw_only=True, forbid_unknown_fields=forbid, namespace=documented)


def page_of(title: str, view: Any, plural: str) -> Any:
    """Return the struct of a page of views."""
    return struct_of(f"{title}Page", [("items", list[view]), ("next_cursor", str | None)], f"A page of {plural}.", forbid=False)


def marks_of(spec: type[msgspec.Struct]) -> dict[str, dict[str, Any]]:
    """Return the marks of each field."""
    info = msgspec.inspect.type_info(spec)
    assert isinstance(info, msgspec.inspect.StructType)  # noqa: S101 - what else is a struct
    return {field.name: _marks(field.type) for field in info.fields}


def _marks(type_: msgspec.inspect.Type) -> dict[str, Any]:
    if isinstance(type_, msgspec.inspect.UnionType):
        return {name: value for one in type_.types for name, value in _marks(one).items()}
    if isinstance(type_, msgspec.inspect.Metadata):
        return _marks(type_.type) | (type_.extra_json_schema or {})
    return {}


# An address that a browser is led to has all of them, and so has each message of a connection.
Scopes = Annotated[list[Name], msgspec.Meta(max_length=200)]
