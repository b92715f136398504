"""Advises an author about an exception, in one sentence; only where the cause is all but certain.

Looks at names, keys and types of the author's values, never at the values: the advice goes into the run's record.
"""

import ast
import errno
import linecache
import re
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from millrace._runtime import imports
from millrace.errors import InputError, NotInRun, Refused, ResultError

_MOST_KEYS = 20
_LONGEST_KEY = 60
_LONGEST = 500
_DEPTH = 8
"""Exceptions that caused each other, of which the innermost often explains most."""

Inside = Callable[[str], bool]


def advice(error: BaseException, inside: Inside) -> str | None:
    """Return a hint, or None. `inside` returns whether a file is the author's. Never raises, for any exception."""
    try:
        for one in _chain(error):
            for kind, about in _KINDS:
                hint = about(one, inside) if isinstance(one, kind) else None
                if hint:
                    return hint[:_LONGEST].replace("\n", " ")
    except BaseException:
        return None
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(_DEPTH):
        if one is None:
            return
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _module(error: BaseException, _inside: Inside) -> str | None:
    name = getattr(error, "name", None)
    if type(name) is not str or not name:
        return None
    top = name.split(".")[0]
    return (
        f"neither Python nor the workspace nor its packages have a module {top}: {imports.advice(top)}; a file of yours is "
        "imported by its path from the workspace's folder"
    )


def _key(error: BaseException, inside: Inside) -> str | None:
    found = _subscripted(error, inside)
    if type(found) is not dict:
        return None
    keys = [repr(key)[:_LONGEST_KEY] for key in list(found)[:_MOST_KEYS] if type(key) in (str, int)]
    more = f" and {len(found) - len(keys)} more" if len(found) > len(keys) else ""
    return f"the keys there are {', '.join(keys)}{more}" if found else "there are no keys: the object is empty"


def _type(error: BaseException, inside: Inside) -> str | None:
    text = str(error)
    if "'coroutine' object" in text or re.search(r"coroutine.*was never awaited|NoneType.*can't be used in 'await'", text):
        return "a coroutine was used as if it were its result: put await before the call (in a plain def, use step.sync)"
    unexpected = re.search(r"object (\w+) can't be used in 'await' expression", text)
    if unexpected:
        return f"what is awaited is a plain {unexpected[1]}: leave the await out"
    del inside
    return None


def _result(error: BaseException, _inside: Inside) -> str | None:
    text = str(error)
    for ending, hint in _RESULTS:
        if text.endswith(ending):
            return hint
    return None


_RESULTS = (
    ("coroutine is not JSON", "put await before the call that gave this value (in a plain def, use step.sync instead of step)"),
    ("set is not JSON", "give a list: sorted(…) has the same order every time"),
    ("frozenset is not JSON", "give a list: sorted(…) has the same order every time"),
    ("bytes is not JSON", "give text: .decode() if it is text, base64.b64encode(…).decode() if it is not"),
    ("Reply is not JSON", "give what you need of it: reply.raise_for_status().json()"),
    ("Connection is not JSON", "ask for it again where you need it: a credential is kept nowhere"),
    ("generator is not JSON", "give a list: list(…)"),
    ("nan has no JSON form", "give None where there is no number"),
    ("which others cannot hold exactly", "give text: str(…)"),
    ("NUL character, which cannot be stored", "give text without it: .replace('\\0', '')"),
)


def _input(error: BaseException, _inside: Inside) -> str | None:
    unknown = isinstance(error, InputError) and any(message == "is not a known name" for _, message in error.faults)
    return "a workflow takes what its parameters name; **more takes all the rest" if unknown else None


def _refused(error: BaseException, _inside: Inside) -> str | None:
    for form, hint in _REFUSALS:
        found = form.match(str(error))
        if found:
            return hint.format(*found.groups())
    return None


_NAME = r"'([\w.-]{1,100})'"
_REFUSALS = (
    (re.compile(f"there is no connection {_NAME}"), "make it with: millrace connections put {0} --token-file FILE"),
    (re.compile(f"there is no variable {_NAME}"), "make it with: millrace variables put {0} VALUE, or give the call a default"),
    (re.compile(f"there is no secret {_NAME}"), "make it with: millrace secrets put {0} --value-file FILE"),
    (
        re.compile(f"there is no source {_NAME}"),
        "make it with: millrace sources put {0} --adapter NAME, which is topic for what runs emit",
    ),
    (
        re.compile(f"there is no mapping of integration {_NAME} for organization {_NAME}"),
        "make it with: PUT /api/v1/integrations/{0}/mappings/{1}",
    ),
)


def _not_in_run(_error: BaseException, _inside: Inside) -> str | None:
    return "only a run has this: in a test, call the workflow through millrace.testing.run"


def _runtime(error: BaseException, _inside: Inside) -> str | None:
    text = str(error)
    if "asyncio.run() cannot be called from a running event loop" in text or text == "This event loop is already running":
        return "a workflow that is async def has its event loop already: await the coroutine"
    return None


def _os(error: BaseException, _inside: Inside) -> str | None:
    text = str(error)
    denied = re.search(r"403 Forbidden by Millrace: (\S+)", text)
    if denied:
        return f"runs may not reach {denied[1]}: the operator allows it with MILLRACE_EGRESS_ALLOW (docs/egress.md)"
    if type(error).__name__ == "gaierror":
        return "a run resolves no names itself: use a client that takes the proxy from the environment (docs/egress.md)"
    number = getattr(error, "errno", None)
    if number == errno.EROFS:
        return "a run writes only to its temporary folder: tempfile.gettempdir()"
    if number == errno.ENETUNREACH:
        return "a run has no network but its proxy: use a client that takes the proxy from the environment (docs/egress.md)"
    return None


_KINDS: tuple[tuple[type[BaseException], Callable[[Any, Inside], str | None]], ...] = (
    (ModuleNotFoundError, _module),
    (KeyError, _key),
    (ResultError, _result),
    (InputError, _input),
    (Refused, _refused),
    (NotInRun, _not_in_run),
    (OSError, _os),
    (TypeError, _type),
    (AttributeError, _type),
    (RuntimeError, _runtime),
    (Exception, lambda error, inside: _os(error, inside) if "403 Forbidden by Millrace" in str(error) else None),
)


def _subscripted(error: BaseException, inside: Inside) -> object:
    """Return the object that lacked the key in the expression at the author's innermost line; None if unclear.

    Only names, constants and keys of plain dicts and lists are followed, so that nothing of the author's is called again.
    """
    place = _innermost(error.__traceback__)
    if place is None or not inside(place.tb_frame.f_code.co_filename) or len(error.args) != 1:
        return None
    for node in ast.walk(ast.parse(_expression(place))):
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            key = _value(node.slice, place.tb_frame)
            if type(key) is type(error.args[0]) and key == error.args[0]:
                return _value(node.value, place.tb_frame)
    return None


def _innermost(step: TracebackType | None) -> TracebackType | None:
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    return step


def _expression(place: TracebackType) -> str:
    """Answer the source of the instruction that raised, in one line."""
    code = place.tb_frame.f_code
    positions = list(code.co_positions())[place.tb_lasti // 2]
    line, last, start, end = positions
    if line is None or last is None or start is None or end is None:
        return ""
    lines = [linecache.getline(code.co_filename, number).encode() for number in range(line, last + 1)]
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][start:]
    return "(" + b"".join(lines).decode() + ")"


def _value(node: ast.expr, frame: FrameType) -> object:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if isinstance(node, ast.Subscript):
        holder: Any = _value(node.value, frame)
        key: Any = _value(node.slice, frame)
        if (type(holder) is dict and type(key) in (str, int)) or (type(holder) is list and type(key) is int):
            return holder[key]
    return None
