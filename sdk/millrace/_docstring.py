"""Reads a docstring's text about each parameter."""

import inspect
import re

_SECTIONS = frozenset({"args:", "arguments:", "parameters:", "attributes:", "keyword args:"})
_ENTRY = re.compile(r"\*{0,2}(\w+)(?: ?\([^)]*\))?:(?: +(.*))?")
_FIELD = re.compile(r":param(?: [^:]*?)? ?\*{0,2}(\w+):(?: +(.*))?")
_LONGEST = 1000


def described(doc: str | None) -> dict[str, str]:
    """Answer the texts by name, each in one line: of an `Args:` section (or `Attributes:`), or of `:param name:` lines."""
    found: dict[str, list[str]] = {}
    inside = False
    level = open_level = 0
    name: str | None = None
    for line in inspect.cleandoc(doc or "").splitlines():
        text, indent = line.strip(), len(line) - len(line.lstrip())
        if text.lower() in _SECTIONS:
            inside, level, name = True, -1, None
            continue
        if not text:
            name = name if inside else None
            continue
        if inside and indent == 0:
            inside, name = False, None
        if inside and level < 0:
            level = indent
        entry = (_ENTRY.fullmatch(text) if indent == level else None) if inside else _FIELD.fullmatch(text)
        if entry is not None:
            name, open_level = entry[1], indent
            found.setdefault(name, []).append(entry[2] or "")
        elif name is not None and indent > open_level:
            found[name].append(text)
        else:
            name = None
    return {name: text[:_LONGEST] for name, parts in found.items() if (text := " ".join(filter(None, parts)))}
