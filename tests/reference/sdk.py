"""The page of the SDK: each public name with its parameters, and what its docstring says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import EnumType
from typing import Any

import millrace
from millrace import testing
from tests.reference.markdown import code, table

HEAD = """\
# Names of the SDK

Made of the docstrings of `millrace` by `python -m tests.reference`. [Writing workflows](sdk.md) shows all of them at work.
A name that begins with `a` (`aget`) is the same to be awaited; `.sync` is the same for a plain `def`.

"""


def page() -> str:
    """Return the page in Markdown."""
    made = HEAD + "## millrace\n\n" + "".join(_section("", name, getattr(millrace, name)) for name in millrace.__all__)
    return (
        made + "## millrace.testing\n\n" + "".join(_section("testing.", name, getattr(testing, name)) for name in testing.__all__)
    )


def _section(module: str, name: str, thing: Any) -> str:
    kind = thing if isinstance(thing, type) else type(thing)
    is_object = not isinstance(thing, type) and not inspect.isfunction(thing)
    called = f"{module}{name}{_parameters(thing) if not is_object or callable(thing) else ''}"
    texts = [inspect.getdoc(thing)]
    if is_object and callable(thing):
        texts.append(inspect.getdoc(kind.__call__))
    made = f"### {module}{name}\n\n{code(called)}\n\n" + "".join(f"{_prose(text)}\n\n" for text in texts if text)
    rows = [] if inspect.isfunction(thing) else [*_methods(kind)]
    return made + (table(("with it", "does"), rows) if rows else "")


def _prose(text: str) -> str:
    """Return a docstring as Markdown: what is code already stays as it is."""
    said = re.sub(r"[;:] see `__call__`", "", text)
    parts = re.split(r"(`[^`]*`)", said)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("*", r"\*") for part in parts)


def _methods(kind: type) -> Iterator[tuple[str, str]]:
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield code(name), _first(member.fget)
        elif inspect.isfunction(member):
            yield code(name + _parameters(member)), _first(member)


def _first(thing: Any) -> str:
    return _prose((inspect.getdoc(thing) or "").partition("\n\n")[0])


def _parameters(thing: Any) -> str:
    """Return the parameters in brackets, without their types, which each version of Python writes otherwise."""
    if isinstance(thing, EnumType) or (
        isinstance(thing, type) and issubclass(thing, BaseException) and "__init__" not in vars(thing)
    ):
        return ""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    shown, bare = [], False
    for one in signature.parameters.values():
        if one.name == "self":
            continue
        if one.kind is one.KEYWORD_ONLY and not bare:
            shown.append("*")
        bare = bare or one.kind in {one.KEYWORD_ONLY, one.VAR_POSITIONAL}
        shown.append({one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "") + one.name + _default(one.default))
    return f"({', '.join(shown)})"


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    is_plain = value is None or (isinstance(value, bool | int | float | str) and type(value).__module__ == "builtins")
    return f"={value!r}" if is_plain else "=…"
