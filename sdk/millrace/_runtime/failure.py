"""Reports any exception of the author's code: bounded, without our frames and with a hint."""

import contextlib
import os
import re
import traceback
from typing import Any

from millrace._runtime.advice import advice
from millrace._runtime.encode import clean

_OURS = os.path.dirname(os.path.dirname(__file__)) + "/"
_MAX_MESSAGE = 8192
_MAX_TRACEBACK = 65536
_PLACE = re.compile(r" \([^()\s]+\.py, line \d+\)$")


def error_frame(error: BaseException, bundle: str) -> dict[str, Any]:
    """Describe `error` as an "error" frame. Never raises: a hostile `__str__` costs only the message."""
    return {
        "kind": "error",
        "type": _kind(error),
        "message": _message(error),
        "traceback": _traceback(error, bundle),
    }


def place(error: BaseException, bundle: str) -> tuple[str, int] | None:
    """Answer where in the author's files `error` was raised: path relative to the bundle, and line."""
    if isinstance(error, SyntaxError) and isinstance(error.filename, str) and _inside(error.filename, bundle):
        return os.path.relpath(error.filename, bundle), error.lineno or 1
    found = None
    step = error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if _inside(name, bundle):
            found = os.path.relpath(name, bundle), step.tb_lineno or 1
        step = step.tb_next
    return found


def one_line(error: BaseException) -> str:
    """Answer type and message in one line, with the hint where there is one."""
    first = _message(error).split("\n", 1)[0]
    if isinstance(error, SyntaxError):
        first = _PLACE.sub("", first)  # which `place` answers
    hint = advice(error, lambda _: True)
    return (f"{_kind(error)}: {first}" if first else _kind(error)) + (f" (hint: {hint})" if hint else "")


def _kind(error: BaseException) -> str:
    kind = type(error)
    name = type.__getattribute__(kind, "__qualname__")
    module = type.__getattribute__(kind, "__module__")
    if type(name) is not str or type(module) is not str:
        return "Exception"
    return clean(name if module == "builtins" or module.startswith("millrace") else f"{module}.{name}", 200)


def _message(error: BaseException) -> str:
    if type(error) is SystemExit:
        code = error.code
        return f"sys.exit({code!r}) was called" if type(code) in (int, str, type(None)) else "sys.exit was called"
    try:
        text = str(error)
    except BaseException:
        return "<the exception's __str__ failed>"
    return clean(text, _MAX_MESSAGE)


def _traceback(error: BaseException, bundle: str) -> str:
    try:
        shown = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        _keep_authors(shown, bundle, set())
        lines, size = [], 0
        for line in shown.format():
            lines.append(line)
            size += len(line)
            if size > _MAX_TRACEBACK:
                break
        hint = advice(error, lambda name: _inside(name, bundle))
        return clean("".join(lines), _MAX_TRACEBACK) + (f"hint: {hint}\n" if hint else "")
    except BaseException:
        return f"{_kind(error)}\n"


def _keep_authors(shown: traceback.TracebackException, bundle: str, seen: set[int]) -> None:
    left = [shown]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        kept = [frame for frame in one.stack if _inside(frame.filename, bundle)]
        for frame in kept:
            with contextlib.suppress(Exception):
                _ = frame.line  # read now: the source is looked up by the name that is replaced below
            frame.filename = os.path.relpath(frame.filename, bundle)
        one.stack[:] = kept
        name = getattr(one, "filename", None)
        if isinstance(name, str) and _inside(name, bundle):
            one.filename = os.path.relpath(name, bundle)
        left.extend(other for other in (one.__cause__, one.__context__) if other is not None)
        left.extend(one.exceptions or () if hasattr(one, "exceptions") else ())


def _inside(filename: str, bundle: str) -> bool:
    # In an author's tests the bundle may be a folder that also holds an environment, with us in it.
    return (
        bool(bundle)
        and filename.startswith(bundle.rstrip("/") + "/")
        and not filename.startswith(_OURS)
        and "/site-packages/" not in filename
    )
