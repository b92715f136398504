"""The parameters of a function, read once for the schema and for the binding."""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, NewType, NotRequired, Required, TypeVar, Union, get_args, get_origin

MISSING: Any = inspect.Parameter.empty
"""The default of a parameter without one."""


class Unsupported(TypeError):
    """A signature that no JSON input can fit. The message names the parameter and the type."""


@dataclass(frozen=True)
class Field:
    """One named value of an input object: a parameter, or a field of a dataclass or TypedDict."""

    name: str
    hint: Any
    required: bool
    default: Any = MISSING
    positional: bool = False


@dataclass(frozen=True)
class Parameters:
    """The fields that a function takes, and the type of the values of its `**kwargs`, if it has them."""

    fields: tuple[Field, ...]
    extra: Any = MISSING


def parameters_of(function: Callable[..., Any]) -> Parameters:
    """Read the signature. Raises `Unsupported` for `*args` and for hints that name nothing."""
    hints = _hints_of(function, function.__name__)
    fields: list[Field] = []
    extra = MISSING
    for parameter in inspect.signature(function).parameters.values():
        hint = hints.get(parameter.name, Any)
        if parameter.kind is parameter.VAR_POSITIONAL:
            msg = f"*{parameter.name} has no name that an input could give: use a list"
            raise Unsupported(msg)
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = hint
            continue
        if parameter.default is None:
            hint = _with_none(hint)
        fields.append(
            Field(
                name=parameter.name,
                hint=hint,
                required=parameter.default is MISSING,
                default=parameter.default,
                positional=parameter.kind is parameter.POSITIONAL_ONLY,
            )
        )
    return Parameters(tuple(fields), extra)


def fields_of(kind: type) -> tuple[Field, ...]:
    """Read the fields of a dataclass (those of `__init__`) or TypedDict."""
    hints = _hints_of(kind, kind.__name__)
    if is_typed_dict(kind):
        keys: frozenset[str] = getattr(kind, "__required_keys__", frozenset())
        return tuple(Field(name, hint, _is_required(hint, otherwise=name in keys)) for name, hint in hints.items())
    return tuple(
        Field(
            name=field.name,
            hint=_with_none(hints[field.name]) if field.default is None else hints[field.name],
            required=field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING,
            default=MISSING if field.default is dataclasses.MISSING else field.default,
        )
        for field in dataclasses.fields(kind)
        if field.init
    )


def is_typed_dict(kind: Any) -> bool:
    """Answer whether a type is a TypedDict, also one of typing_extensions."""
    return typing.is_typeddict(kind) or (
        isinstance(kind, type) and hasattr(kind, "__required_keys__") and hasattr(kind, "__total__")
    )


def _is_required(hint: Any, *, otherwise: bool) -> bool:
    """Look for the qualifier itself: where annotations are text, the TypedDict was made without knowing it."""
    while get_args(hint):
        if get_origin(hint) in (Required, NotRequired):
            return get_origin(hint) is Required
        if get_origin(hint) is not Annotated and not _is_read_only(hint):
            break
        hint = get_args(hint)[0]
    return otherwise


def _is_read_only(hint: Any) -> bool:
    return getattr(get_origin(hint), "_name", None) == "ReadOnly"  # in typing from Python 3.13 on


def _with_none(hint: Any) -> Any:
    """Let None fit as well: it is the default."""
    if allows_none(hint):
        return hint
    return hint | None if isinstance(hint, type) else Union[hint, None]  # noqa: UP007 - any hint


def bare(hint: Any) -> Any:
    """Take off hints that do not change the values: Annotated, Required, NewType, type aliases, type variables."""
    while True:
        origin = get_origin(hint)
        if origin is Annotated or origin in (Required, NotRequired) or _is_read_only(hint):
            hint = get_args(hint)[0]
        elif isinstance(hint, NewType):
            hint = hint.__supertype__
        elif isinstance(hint, TypeVar):
            hint = hint.__bound__ if hint.__bound__ is not None else Any
        elif type(hint).__name__ == "TypeAliasType":  # `type X = …`, from Python 3.12 on
            hint = hint.__value__
        else:
            return hint


def described_as(hint: Any) -> str | None:
    """Answer the text of `Annotated[T, "text"]`."""
    while get_origin(hint) in (Required, NotRequired) or _is_read_only(hint):
        hint = get_args(hint)[0]
    if get_origin(hint) is Annotated:
        return next((extra for extra in get_args(hint)[1:] if isinstance(extra, str)), None)
    return None


def members(hint: Any) -> tuple[Any, ...] | None:
    """Answer the members of a union, or None when it is not one."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else None


def allows_none(hint: Any) -> bool:
    """Answer whether None fits."""
    hint = bare(hint)
    if hint in (Any, object, None, type(None)):
        return True
    if get_origin(hint) is Literal:
        return None in get_args(hint)
    return any(allows_none(member) for member in members(hint) or ())


def shown(hint: Any) -> str:
    """Name a hint as its author would."""
    if hint is type(None):
        return "None"
    return hint.__qualname__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _hints_of(owner: Any, name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except Exception as error:
        msg = f"the type hints of {name} cannot be read: {error}"
        raise Unsupported(msg) from error
