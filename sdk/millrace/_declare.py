"""The decorators, and the registry of the functions declared in this process."""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType, FunctionType
from typing import Any, Literal, TypeVar, overload

from millrace import _bounds

F = TypeVar("F", bound=Callable[..., Any])

_LONGEST = 64
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST - 1}}}")


@dataclass  # not frozen: each run makes one, and setting its attributes by `object.__setattr__` takes longer than all else of it
class Definition:
    """One decorated function, as its author declared it. Never changed."""

    function: Callable[..., Any]
    name: str
    timeout: float | None
    retries: int
    concurrency: str | None
    is_data_provider: bool
    policy: dict[str, Any] = field(default_factory=dict)
    """Its other declarations, by the names of the decorator's parameters; empty where it leaves all of them open."""
    adapter: dict[str, Any] | None = None
    """The declaration of an adapter, whose methods the function calls; of a workflow None."""
    module: str = ""
    """The module whose import declares it: not always the one that the function, or what wraps it, is from."""
    file: str = ""
    line: int = 1
    """The line of that module's file where the decorator was called, directly or through others."""


_OWN_TOOLS = "millrace_"
_RETRIES, _DELAY, _MAX_DELAY, _LIMIT = 0, 1.0, 3600.0, 1
_POLICY: Literal["queue"] = "queue"
_ISOLATION: Literal["run"] = "run"
_SCHEDULE: dict[str, Callable[[object, str], Any]] = {
    "cron": _bounds.text,
    "every": lambda given, what: _bounds.whole(given, what, 1, int(_bounds.YEAR)),
    "timezone": _bounds.text,
    "input": _bounds.mapping,
    "overlap": lambda given, what: _bounds.one_of(given, what, ("skip", "queue", "replace", "allow")),
    "catch_up": lambda given, what: _bounds.one_of(given, what, ("none", "one", "all")),
}
_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

REGISTRY: list[Definition] = []
"""Every definition of this process, in the order in which the decorators ran."""


@overload
def workflow(function: F, /) -> F: ...
@overload
def workflow(
    *,
    name: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    retry_delay: float = 1.0,
    retry_max_delay: float = 3600.0,
    queue_timeout: float | None = None,
    concurrency: str | None = None,
    concurrency_limit: int = 1,
    concurrency_policy: Literal["queue", "reject", "cancel_older"] = "queue",
    isolation: Literal["run", "workflow"] = "run",
    preload: bool = True,
    group: str | None = None,
    schedule: str | dict[str, Any] | None = None,
    tool: bool = False,
    read_only: bool | None = None,
    destructive: bool | None = None,
    idempotent: bool | None = None,
) -> Callable[[F], F]: ...
def workflow(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    retries: int = _RETRIES,
    retry_delay: float = _DELAY,
    retry_max_delay: float = _MAX_DELAY,
    queue_timeout: float | None = None,
    concurrency: str | None = None,
    concurrency_limit: int = _LIMIT,
    concurrency_policy: Literal["queue", "reject", "cancel_older"] = _POLICY,
    isolation: Literal["run", "workflow"] = _ISOLATION,
    preload: bool = True,
    group: str | None = None,
    schedule: str | dict[str, Any] | None = None,
    tool: bool = False,
    read_only: bool | None = None,
    destructive: bool | None = None,
    idempotent: bool | None = None,
) -> F | Callable[[F], F]:
    """Declare a function as a workflow; the function itself is returned unchanged. Durations are in seconds.

    `name` is the function's own unless given: letters, digits, `_` and `-`, at most 64. `timeout` is for one attempt.

    `retries` is how many attempts may follow the first one when it fails. Before each there is a pause of random length, at most
    `retry_delay` doubled with every failure, and never above `retry_max_delay`.

    A run that has not begun after `queue_timeout` ends as `expired`.

    Runs with one key share its concurrency slots. `concurrency` says which do: `"workflow"` all of them, `"org"` those of one
    organization, and any other text is a CEL expression over `input` and `org`, whose value is the key within the organization,
    such as `"input.repository"`. `concurrency_limit` of them go on at a time. One that comes while they do waits (`"queue"`), fails
    (`"reject"`), or waits while the ones before it are cancelled (`"cancel_older"`).

    `isolation="workflow"` lets one process serve several runs of the same organization one after the other: faster, and less apart.

    `preload=False` has each run import its packages itself, rather than find those imported that can be.

    `group` names the worker group whose executors carry its runs out, such as `"gpu"`: lower-case letters, digits, `-` and `_`.

    `schedule` is when the workflow runs by itself: a cron expression of five fields, of UTC, or a dict of `cron` or `every`
    (seconds), `timezone`, `input`, `overlap` (`"skip"`, `"queue"`, `"replace"`, `"allow"`) and `catch_up` (`"none"`, `"one"`,
    `"all"`).

    `tool=True` offers the workflow to agents, as a tool of the server for the Model Context Protocol; its docstring tells them what
    it is for. `read_only` tells them that it changes nothing, `destructive=False` that it only adds, `idempotent` that a second run
    with the same input adds nothing.

    Raises TypeError or ValueError at once for a declaration that can never work.
    """
    # Each run pays for what is done here, and for each object that is touched: only what was given is looked at.
    policy: dict[str, Any] = {}
    if (
        retry_delay is not _DELAY
        or retry_max_delay is not _MAX_DELAY
        or queue_timeout is not None
        or concurrency_limit is not _LIMIT
        or concurrency_policy is not _POLICY
        or isolation is not _ISOLATION
        or preload is not True
        or group is not None
    ):
        policy = _checked(
            retry_delay=retry_delay,
            retry_max_delay=retry_max_delay,
            queue_timeout=queue_timeout,
            concurrency_limit=concurrency_limit,
            concurrency_policy=concurrency_policy,
            isolation=isolation,
            preload=preload,
            group=group,
        )
    if schedule is not None:
        policy |= {"schedule": _scheduled(schedule)}
    if tool is not False or read_only is not None or destructive is not None or idempotent is not None:
        policy |= {"tool": _offered(tool, read_only=read_only, destructive=destructive, idempotent=idempotent)}
    if retries is not _RETRIES:
        _bounds.whole(retries, "retries", 0, _bounds.RETRIES)
    if concurrency is not None:
        _bounds.text(concurrency, "concurrency", _bounds.EXPRESSION)

    if function is not None:
        _register(function, name, timeout, retries, concurrency, is_data_provider=False, policy=policy)
        return function

    def declare(target: F) -> F:
        _register(target, name, timeout, retries, concurrency, is_data_provider=False, policy=policy)
        return target

    return declare


@overload
def data_provider(function: F, /) -> F: ...
@overload
def data_provider(
    *, name: str | None = None, timeout: float | None = None, ttl: float = 60.0, stale: float = 300.0
) -> Callable[[F], F]: ...
def data_provider(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    ttl: float = 60.0,
    stale: float = 300.0,
) -> F | Callable[[F], F]:
    """Declare a function that answers options for forms; the function itself is returned unchanged. Durations are in seconds.

    It returns a list of texts, numbers, or dicts with a `value` and what else a form wants of it, such as a `label`. The options
    for one input are kept: for `ttl` they are fresh, and for `stale` after that they are still answered while a run makes them
    anew, or fails to. Both are at most a day.
    """
    kept = {"ttl": _within_a_day(ttl, "ttl", above_zero=True), "stale": _within_a_day(stale, "stale")}

    def declare(target: F) -> F:
        _register(target, name, timeout, 0, None, is_data_provider=True, policy={"options": kept})
        return target

    return declare if function is None else declare(function)


def register_adapter(function: Callable[..., Any], name: str, declared: dict[str, Any]) -> None:
    """Register the function by which a child serves an adapter. Raises TypeError or ValueError for a name that is none."""
    _register(function, name, None, 0, None, is_data_provider=False, policy={}, adapter=declared)


def _within_a_day(given: object, what: str, *, above_zero: bool = False) -> float:
    found = _bounds.seconds(given, what, above_zero=above_zero)
    if found > _bounds.DAY:
        msg = f"{what} is at most a day ({_bounds.DAY:.0f} s), not {found:g}"
        raise ValueError(msg)
    return found


def _checked(
    *,
    retry_delay: object,
    retry_max_delay: object,
    queue_timeout: object,
    concurrency_limit: object,
    concurrency_policy: object,
    isolation: object,
    preload: object,
    group: object,
) -> dict[str, Any]:
    return {
        "retry_delay": _bounds.seconds(retry_delay, "retry_delay"),
        "retry_max_delay": _bounds.seconds(retry_max_delay, "retry_max_delay"),
        "queue_timeout": None if queue_timeout is None else _bounds.seconds(queue_timeout, "queue_timeout", above_zero=True),
        "concurrency_limit": _bounds.whole(concurrency_limit, "concurrency_limit", 1, _bounds.TURNS),
        "concurrency_policy": _bounds.one_of(concurrency_policy, "concurrency_policy", ("queue", "reject", "cancel_older")),
        "isolation": _bounds.one_of(isolation, "isolation", ("run", "workflow")),
        "preload": _bounds.flag(preload, "preload"),
        "group": None if group is None else _bounds.group(group),
    }


def _offered(tool: object, **hints: object) -> dict[str, Any]:
    """Return what agents are told of a tool. Raises ValueError where there is none to tell of."""
    if not _bounds.flag(tool, "tool"):
        given = next(name for name, value in hints.items() if value is not None)
        msg = f"{given} is told to agents of a tool: declare tool=True"
        raise ValueError(msg)
    return {name: _bounds.flag(value, name) for name, value in hints.items() if value is not None}


def _scheduled(given: object) -> dict[str, Any]:
    """Return a schedule as a dict; whether its expression and its time zone are right is known where it is registered."""
    if isinstance(given, str):
        return {"cron": _bounds.text(given, "schedule")}
    found = dict(_bounds.mapping(given, "schedule"))
    if wrong := sorted(found.keys() - _SCHEDULE.keys()):
        msg = f"schedule has no {wrong[0]!r}: {', '.join(_SCHEDULE)}"
        raise ValueError(msg)
    if ("cron" in found) == ("every" in found):
        msg = "schedule has either cron or every"
        raise ValueError(msg)
    return {name: _SCHEDULE[name](value, f"schedule[{name!r}]") for name, value in found.items()}


def _register(
    function: Callable[..., Any],
    name: str | None,
    timeout: float | None,
    retries: int,
    concurrency: str | None,
    *,
    is_data_provider: bool,
    policy: dict[str, Any],
    adapter: dict[str, Any] | None = None,
) -> None:
    if not isinstance(function, FunctionType):
        msg = f"only a function can be a workflow, not {type(function).__name__}"
        raise TypeError(msg)
    if function.__code__.co_flags & _GENERATOR:
        msg = f"{function.__name__} is a generator: a workflow returns its result"
        raise TypeError(msg)
    chosen = function.__name__ if name is None else name
    if not isinstance(chosen, str):
        msg = f"name is text, not {type(chosen).__name__}"
        raise TypeError(msg)
    # Most are alphanumeric: a regular expression takes a child longer.
    if not (chosen.isalnum() and chosen.isascii() and len(chosen) <= _LONGEST) and not _NAME.fullmatch(chosen):
        msg = f"{chosen[:80]!r} is not a name: letters, digits, '_' and '-', starting with a letter or digit, at most 64"
        raise ValueError(msg)
    if "tool" in policy and chosen.startswith(_OWN_TOOLS):
        msg = f"a tool is not named {_OWN_TOOLS}…, as Millrace's own tools are: give {chosen} another name"
        raise ValueError(msg)
    limit = None if timeout is None else _bounds.seconds(timeout, "timeout", above_zero=True)
    module, file, line = _declaring(function)
    REGISTRY.append(
        Definition(
            function=function,
            name=chosen,
            timeout=limit,
            retries=retries,
            concurrency=concurrency,
            is_data_provider=is_data_provider,
            policy=policy,
            adapter=adapter,
            module=module,
            file=file,
            line=line,
        )
    )


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the author's own function, below the wrappers that `functools.wraps` names."""
    try:
        found: Callable[..., Any] = inspect.unwrap(function)
    except ValueError:  # it wraps itself
        return function
    return found


def _declaring(function: Callable[..., Any]) -> tuple[str, str, int]:
    """Return the module that is being imported, its file, and its current line; else those of the function itself."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 - inspect has it under another name
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    if frame is None:
        code = innermost(function).__code__
        return function.__module__, code.co_filename, code.co_firstlineno
    return str(frame.f_globals.get("__name__")), frame.f_code.co_filename, frame.f_lineno
