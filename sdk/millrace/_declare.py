"""The decorators, and the registry of what they saw in this process."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

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


REGISTRY: list[Definition] = []
"""Every definition of this process, in the order in which the decorators ran."""


@overload
def workflow(function: F, /) -> F: ...
@overload
def workflow(
    *, name: str | None = None, timeout: float | None = None, retries: int = 0, concurrency: str | None = None
) -> Callable[[F], F]: ...
def workflow(
    function: F | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    concurrency: str | None = None,
) -> F | Callable[[F], F]:
    """Declare a function as a workflow; the function itself is returned unchanged.

    `name` is the function's own unless given: letters, digits, `_` and `-`, at most 64. `timeout` is in seconds for one
    attempt. `retries` is how many attempts may follow the first one. Runs that share a `concurrency` key take turns.
    Raises TypeError or ValueError at once for what can never work.
    """

    def declare(target: F) -> F:
        _register(target, name=name, timeout=timeout, retries=retries, concurrency=concurrency, is_data_provider=False)
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
    if timeout is not None and (
        isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf")
    ):
        msg = f"timeout is a number of seconds above 0, not {timeout!r}"
        raise ValueError(msg)
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
        )
    )
