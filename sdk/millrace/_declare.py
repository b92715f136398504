"""The decorators, and the registry of what they saw in this process."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Definition:
    """One decorated function, as its author declared it."""

    function: Callable[..., Any]
    name: str
    timeout: float | None
    retries: int
    concurrency: str | None
    is_data_provider: bool
    policy: dict[str, Any] = field(default_factory=dict)
    """What else it declares, by the names of the decorator's parameters; what it leaves open is not in it."""


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
) -> Callable[[F], F]: ...
def workflow(
    function: F | None = None,
    /,
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
) -> F | Callable[[F], F]:
    """Declare a function as a workflow; the function itself is returned unchanged. Durations are in seconds.

    `name` is the function's own unless given: letters, digits, `_` and `-`, at most 64. `timeout` is for one attempt.

    `retries` is how many attempts may follow the first one when it fails. Before each there is a pause of random length, at most
    `retry_delay` doubled with every failure, and never above `retry_max_delay`.

    A run that has not begun after `queue_timeout` ends as `expired`.

    Runs that share a key take turns. `concurrency` says which do: `"workflow"` all of them, `"org"` those of one organization,
    and any other text is a CEL expression over `input` and `org`, whose value is the key within the organization, such as
    `"input.repository"`. `concurrency_limit` of them go on at a time. One that comes while they do waits (`"queue"`), fails
    (`"reject"`), or waits while the ones before it are cancelled (`"cancel_older"`).

    `isolation="workflow"` lets one process serve several runs of the same organization one after the other: faster, and less apart.

    Raises TypeError or ValueError at once for what can never work.
    """
    policy = {
        "retry_delay": _seconds("retry_delay", retry_delay, at_least_zero=True),
        "retry_max_delay": _seconds("retry_max_delay", retry_max_delay, at_least_zero=True),
        "queue_timeout": None if queue_timeout is None else _seconds("queue_timeout", queue_timeout),
        "concurrency_limit": _limit(concurrency_limit),
        "concurrency_policy": _one_of("concurrency_policy", concurrency_policy, ("queue", "reject", "cancel_older")),
        "isolation": _one_of("isolation", isolation, ("run", "workflow")),
    }

    def declare(target: F) -> F:
        _register(
            target, name=name, timeout=timeout, retries=retries, concurrency=concurrency, is_data_provider=False, policy=policy
        )
        return target

    return declare if function is None else declare(function)


@overload
def data_provider(function: F, /) -> F: ...
@overload
def data_provider(*, name: str | None = None, timeout: float | None = None) -> Callable[[F], F]: ...
def data_provider(function: F | None = None, /, *, name: str | None = None, timeout: float | None = None) -> F | Callable[[F], F]:
    """Declare a function that answers options for forms; the function itself is returned unchanged."""

    def declare(target: F) -> F:
        _register(target, name=name, timeout=timeout, retries=0, concurrency=None, is_data_provider=True)
        return target

    return declare if function is None else declare(function)


def _register(
    function: Callable[..., Any],
    *,
    name: str | None,
    timeout: float | None,
    retries: int,
    concurrency: str | None,
    is_data_provider: bool,
    policy: dict[str, Any] | None = None,
) -> None:
    if not inspect.isfunction(function):
        msg = f"only a function can be a workflow, not {type(function).__name__}"
        raise TypeError(msg)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        msg = f"{function.__name__} is a generator: a workflow returns its result"
        raise TypeError(msg)
    chosen = function.__name__ if name is None else name
    if not isinstance(chosen, str) or not _NAME.fullmatch(chosen):
        msg = f"{chosen!r} is not a name: letters, digits, '_' and '-', starting with a letter or digit, at most 64"
        raise ValueError(msg)
    if timeout is not None:
        _seconds("timeout", timeout)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        msg = f"retries is a whole number from 0, not {retries!r}"
        raise ValueError(msg)
    if concurrency is not None and (not isinstance(concurrency, str) or not concurrency):
        msg = f"concurrency is a key, not {concurrency!r}"
        raise ValueError(msg)
    REGISTRY.append(
        Definition(
            function=function,
            name=chosen,
            timeout=timeout,
            retries=retries,
            concurrency=concurrency,
            is_data_provider=is_data_provider,
            policy=policy or {},
        )
    )


def _seconds(name: str, value: object, *, at_least_zero: bool = False) -> float:
    above = isinstance(value, int | float) and not isinstance(value, bool) and (value > 0 or (at_least_zero and value == 0))
    if not above or not value < float("inf"):  # type: ignore[operator]
        msg = f"{name} is a number of seconds {'from' if at_least_zero else 'above'} 0, not {value!r}"
        raise ValueError(msg)
    return float(value)  # type: ignore[arg-type]


def _limit(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1000:
        msg = f"concurrency_limit is a whole number from 1 to 1000, not {value!r}"
        raise ValueError(msg)
    return value


def _one_of(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        msg = f"{name} is one of {', '.join(choices)}, not {value!r}"
        raise ValueError(msg)
    return str(value)
