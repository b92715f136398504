"""`step`: work that is done once per run, in however many attempts."""

import asyncio
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from types import CoroutineType
from typing import Any, ParamSpec, TypeVar, cast, overload

from millrace import _bounds, _order, _suspension
from millrace._runtime import channel
from millrace._runtime.clock import Loop, returned
from millrace._runtime.encode import to_json
from millrace._trace import trace
from millrace.errors import NotInRun

P = ParamSpec("P")
R = TypeVar("R")


class StepTimeout(TimeoutError):
    """A step took longer than it may."""


class Steps:
    """Runs durable steps.

    A step is known by its name and by how often that name was used before in the attempt, so a workflow that takes the
    same way again meets the same steps; one that takes another way gets `OrderChanged`. The result is kept as JSON and
    answered as JSON gives it back (a tuple comes back as a list), on the first attempt just as on a later one. An exception of a
    step is not kept. A credential that the run was given is kept, and answered, as `***`: ask for it again where it is needed.

    A step within a step is a plain call: it is done once when the outer one is. A step holds its process, so wait for
    anything that may take long, such as an approval or the end of another run, outside of steps.

    Steps may go on beside each other, with `asyncio.gather`; those in tasks of their own should have names of their own.
    """

    def __init__(self, retries: int = 0, delay: float = 0.0, timeout: float | None = None) -> None:
        self._retries = retries
        self._delay = delay
        self._timeout = timeout

    def options(self, *, retries: int = 0, delay: float = 0.0, timeout: float | None = None) -> "Steps":
        """Answer a `step` that calls its function up to `retries` more times when it raises, `delay` seconds after each failure.

        A call that takes longer than `timeout` seconds raises `StepTimeout`, which is retried too; a plain function goes on in its
        thread meanwhile, which nothing can stop. All of this happens within one attempt of the run.
        """
        return Steps(
            _bounds.whole(retries, "retries", 0, _bounds.RETRIES),
            _bounds.seconds(delay, "delay"),
            None if timeout is None else _bounds.seconds(timeout, "timeout", above_zero=True),
        )

    @overload
    def __call__(
        self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def __call__(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...
    def __call__(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Await `step(name, fn, …)`: the recorded result, or what `fn(…)` gives now, recorded.

        A plain function runs in a thread, so that the event loop goes on. The step's place among its namesakes is
        settled by the call, not by the await: `gather` is safe. Raises `ResultError` for a result that is not JSON, `Refused`
        for one of more than 256 KiB as JSON.
        """
        name, function = _bounds.text(name, "a step's name"), _bounds.function(function, f"what step {name!r} calls")
        within = _order.inside.get()
        run = self._run(_order.current.next("step", name) if within is None else within, function, args, kwargs, within is not None)
        made = cast("CoroutineType[Any, Any, Any]", run)
        made.__qualname__ = f"step({name!r})"  # by which Python complains of one that was not awaited
        return made

    def sync(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Do the same in a plain `def` workflow; `function` is a plain function, called in this thread, with no time-out."""
        name, function = _bounds.text(name, "a step's name"), _bounds.function(function, f"what step {name!r} calls")
        if _order.inside.get() is not None:
            return self._tried_here(function, args, kwargs)  # type: ignore[no-any-return]
        call = _order.current.next("step", name)
        current = channel.current
        if current is not None and call.is_recorded:
            found = _found(current.ask("step_get", name=name, ordinal=call.ordinal).result())
            _order.current.done(call)
            return found  # type: ignore[no-any-return]
        within = _order.inside.set(call)
        try:
            with trace.span(f"step {call.name}"[: _bounds.NAME]):
                value = self._tried_here(function, args, kwargs)
        finally:
            _order.inside.reset(within)
        if current is None:
            return value  # type: ignore[no-any-return]
        text, result = _as_kept(value, name)
        kept = _put(current, call, result).result()
        return json.loads(text) if kept is None else kept["result"]  # type: ignore[no-any-return]

    async def _run(
        self, call: _order.Call, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], is_within: bool
    ) -> Any:
        if is_within:
            return await self._tried(call.name, function, args, kwargs)
        current, loop, suspension = channel.current, asyncio.get_running_loop(), _suspension.current
        if current is not None and call.is_recorded:
            found = _found(await asyncio.wrap_future(current.ask("step_get", name=call.name, ordinal=call.ordinal)))
            await _suspension.current.turn(call)
            _order.current.done(call)
            if isinstance(loop, Loop):
                loop.reach(call.ago)
            return found
        if isinstance(loop, Loop):
            loop.reach(0.0)
        suspension.begin()
        within = _order.inside.set(call)
        try:
            with trace.span(f"step {call.name}"[: _bounds.NAME]):
                value = await self._tried(call.name, function, args, kwargs)
            if current is None:
                return value
            text, result = _as_kept(value, call.name)
            kept = await asyncio.wrap_future(_put(current, call, result))
            return json.loads(text) if kept is None else kept["result"]
        finally:
            _order.inside.reset(within)
            suspension.end()

    def _tried_here(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for left in range(self._retries, -1, -1):
            try:
                return returned(function, *args, **kwargs)
            except Exception:
                if not left:
                    raise
                time.sleep(self._delay)
        return None

    async def _tried(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for left in range(self._retries, -1, -1):
            try:
                return await self._in_time(name, function, args, kwargs)
            except Exception:
                if not left:
                    raise
                await asyncio.sleep(self._delay)
        return None

    async def _in_time(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._timeout is None:
            return await _called(function, args, kwargs)
        try:
            return await asyncio.wait_for(_called(function, args, kwargs), self._timeout)
        except TimeoutError as error:
            if isinstance(error, StepTimeout):
                raise
            msg = f"step {name!r} took longer than {self._timeout:g} s"
            raise StepTimeout(msg) from None


def _put(current: channel.Channel, call: _order.Call, result: Any) -> "Future[Any]":
    _suspension.current.tell()
    return current.ask("step_put", name=call.name, ordinal=call.ordinal, position=call.position, result=result)


def _as_kept(value: object, name: str) -> tuple[str, Any]:
    text = to_json(value, what=f"the result of step {name!r}")
    return text, json.loads(text)


def _found(record: Any) -> Any:
    if record is None:
        msg = "the record of a step is gone"
        raise NotInRun(msg)
    return record["result"]


async def _called(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(*args, **kwargs)
    value = await asyncio.to_thread(returned, function, *args, **kwargs)
    return await value if inspect.isawaitable(value) else value


step = Steps()
