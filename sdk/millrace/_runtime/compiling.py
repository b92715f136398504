"""Compiling a bundle's modules without executing them, for the runs to come. Only ever in a child: a compiler can be fooled."""

import base64
import importlib.util
import marshal
import os

_ENOUGH = 4 << 20
"""Characters of one answer after which the rest is left for another."""
_UNCHECKED = (0b01).to_bytes(4, "little")
"""Marks a file as never to be compared with its source (PEP 552): a bundle does not change."""


def compiled(bundle: str, paths: list[str]) -> dict[str, str | None]:
    """Answer the content of each module's file in `__pycache__`, in base64; None for a module that cannot be compiled.

    Where the answer gets long, it has fewer modules than were asked for, and at least one.
    """
    found: dict[str, str | None] = {}
    size = 0
    for path in paths:
        full = os.path.join(bundle, path)
        try:
            with open(full, "rb") as file:
                source = file.read()
            code = compile(source, full, "exec", dont_inherit=True)
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            found[path] = None
            continue
        data = importlib.util.MAGIC_NUMBER + _UNCHECKED + importlib.util.source_hash(source) + marshal.dumps(code)
        found[path] = text = base64.b64encode(data).decode("ascii")
        size += len(text)
        if size > _ENOUGH:
            break
    return found
