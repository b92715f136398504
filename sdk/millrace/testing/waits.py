"""Time, signals and child runs: all that a run may wait for. Nothing here takes any time."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from millrace._runtime.encode import to_json
from millrace.errors import Refused
from millrace.testing.fakes import Answer, Masking
from millrace.testing.outcome import Started


class Waits:
    """Ends each wait at once: a sleep is over, a signal is the next that is given, a child run has ended as it is given."""

    def __init__(self, signals: Mapping[str, Sequence[Any]], runs: Mapping[str, Any], masking: Masking) -> None:
        self._signals: dict[str, list[Any]] = {}
        for name, given in signals.items():
            if not isinstance(given, list | tuple):
                msg = f"signals[{name!r}] is a list of what is answered, one after the other, not {type(given).__name__}"
                raise TypeError(msg)
            self._signals[name] = json.loads(to_json(given, what=f"signals[{name!r}]", rich=True))
        self._runs = runs
        self._masking = masking
        self._ended: dict[str, Any] = {}
        self.slept: list[float] = []
        self.started: list[Started] = []

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {"wait": self._wait, "start_run": self._start}

    def _wait(self, asked: dict[str, Any]) -> Any:
        """Answer how the wait has ended; None for a signal that nobody gives, for which the attempt says that it waits."""
        name = asked["name"]
        if asked["of"] == "sleep":
            self.slept.append(asked["seconds"])
            return {"result": None}
        if asked["of"] == "run":
            if name not in self._ended:
                msg = f"this run has not started a run {name!r}"
                raise Refused("NotFound", msg)
            return {"result": self._ended[name]}
        if self._signals.get(name):
            given = {"data": self._signals[name].pop(0), "by": "test", "at": datetime.now(UTC).isoformat()}
            return {"result": given}
        return None if asked["seconds"] is None else {"result": None, "timed_out": True}

    def _start(self, asked: dict[str, Any]) -> Any:
        name = asked["workflow"]
        if name not in self._runs:
            msg = f"there is no workflow {name!r}"
            raise Refused("NotFound", msg)
        given = self._masking.document(asked["input"])
        options = {key: asked[key] for key in ("priority", "run_at", "concurrency_key") if asked.get(key) is not None}
        self.started.append(Started(name, given, options))
        run = f"run-{len(self.started)}"
        self._ended[run] = _end(self._runs[name], given)
        return run


def _end(child: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Answer how a child run has ended: `child` is its result, or answers it, or raises."""
    called: Callable[[dict[str, Any]], Any] = child if callable(child) else lambda _: child
    try:
        result = json.loads(to_json(called(given), what="the result of a child run", rich=True))
    except Exception as error:
        return {"status": "failed", "reason": "error", "error": {"type": type(error).__name__, "message": str(error)}}
    return {"status": "succeeded", "result": result}
