"""`step`: work that is done once per run, whatever happens to the attempt."""

import asyncio
import inspect
import itertools
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from millrace._runtime import channel
from millrace._runtime.encode import to_json

P = ParamSpec("P")
R = TypeVar("R")

_LONGEST_NAME = 200


class Steps:
    """Runs durable steps.

    A step is known by its name and by how often that name was used before in the attempt, so a workflow that takes the
    same way again meets the same steps. The result is kept as JSON and answered as JSON gives it back (a tuple comes
    back as a list), on the first attempt just as on a later one. What a step raises is not kept. A credential that the run
    was given is kept, and answered, as `***`: ask for it again where it is needed.
    """

    def __init__(self) -> None:
        self._used: dict[str, itertools.count[int]] = {}

    @overload
    def __call__(
        self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def __call__(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Await `step(name, fn, …)`: the recorded result, or what `fn(…)` gives now, recorded.

        A plain function runs in a thread, so that the event loop goes on. The step's place among its namesakes is
        settled by the call, not by the await: `gather` is safe. Raises `ResultError` for a result that is not JSON.
        """
        return self._run(_checked(name), self._ordinal(name), function, args, kwargs)

    def sync(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the same in a plain `def` workflow; `function` is a plain function, called in this thread."""
        ordinal = self._ordinal(_checked(name))
        current = channel.current
        if current is None:
            return function(*args, **kwargs)
        found = current.ask("step_get", name=name, ordinal=ordinal).result()
        if found is not None:
            return found["result"]  # type: ignore[no-any-return]
        text = to_json(function(*args, **kwargs), what=f"the result of step {name!r}")
        result = json.loads(text)
        kept = current.ask("step_put", name=name, ordinal=ordinal, result=result).result()
        return result if kept is None else kept["result"]  # type: ignore[no-any-return]

    def _ordinal(self, name: str) -> int:
        return next(self._used.setdefault(name, itertools.count()))

    async def _run(
        self, name: str, ordinal: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        current = channel.current
        if current is None:
            return await _called(function, args, kwargs)
        found = await asyncio.wrap_future(current.ask("step_get", name=name, ordinal=ordinal))
        if found is not None:
            return found["result"]
        value = await _called(function, args, kwargs)
        result = json.loads(to_json(value, what=f"the result of step {name!r}"))
        kept = await asyncio.wrap_future(current.ask("step_put", name=name, ordinal=ordinal, result=result))
        return result if kept is None else kept["result"]


async def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    value = await asyncio.to_thread(function, *args, **kwargs)
    return await value if inspect.isawaitable(value) else value


def _checked(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        msg = f"a step has a name of 1 to {_LONGEST_NAME} characters, not {name!r}"
        raise TypeError(msg)
    return name


step = Steps()
