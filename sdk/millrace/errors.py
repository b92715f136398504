"""The errors that a workflow author can meet, by name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from millrace._reply import Reply


class Cancelled(BaseException):
    """The attempt is being stopped: it was cancelled, or its time is up.

    Raised inside a plain `def` workflow (a coroutine gets `asyncio.CancelledError`). Not an `Exception`, so that
    `except Exception` does not swallow it; `finally` blocks run and have a few seconds.
    """


class InputError(ValueError):
    """The input does not fit the parameters. `faults` is a non-empty list of (path, message)."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        self.faults = list(faults)
        super().__init__("; ".join(f"{path}: {message}" for path, message in self.faults))


class ResultError(TypeError):
    """A result cannot be kept as JSON. The message names the path inside the result and the reason."""


class OrderChanged(RuntimeError):
    """A later attempt did not take the way of an earlier one: other steps, or the same ones in another order.

    The records of the earlier attempt cannot be matched then. The code before and between steps has to do the same each time:
    put anything that depends on the time, on chance or on the outside into a step.
    """


class SignalTimeout(TimeoutError):
    """The signal did not come in time."""


class EventTimeout(TimeoutError):
    """The event did not come in time."""


class AskTimeout(TimeoutError):
    """Nobody answered a question in time."""


class ChildFailed(RuntimeError):
    """A child run did not succeed. `run` is its id; `status`, `reason` and `error` (`{type, message}` or None) are how it ended."""

    def __init__(self, run: str, status: str, reason: str | None, error: dict[str, str] | None) -> None:
        self.run, self.status, self.reason, self.error = run, status, reason, error
        told = f": {error['type']}: {error['message']}" if error else ""
        super().__init__(f"the child run {run} ended as {status}{told}")


class Refused(RuntimeError):
    """The platform answered a request of this run with no. `kind` is the kind of refusal, e.g. `NotFound`."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class VersionConflict(Refused):
    """Another version of a value is there than the one that was expected."""


class LockTimeout(TimeoutError):
    """A lock was not free in time."""


class RequestFailed(ConnectionError):
    """A request of a client has no answer. The message says where it went, without credentials, and why."""


class StatusError(RuntimeError):
    """An API has answered otherwise than with success. `status` is the answer's, which is `reply`."""

    def __init__(self, message: str, reply: "Reply") -> None:
        self.reply = reply
        self.status = reply.status
        super().__init__(message)


class NotInRun(RuntimeError):
    """Something was asked for that only a run has."""


class ToolFailed(RuntimeError):
    """A tool of another server has failed, or is none. `tool` is its name; the message is what the server says."""

    def __init__(self, tool: str, message: str) -> None:
        self.tool = tool
        super().__init__(f"the tool {tool} failed: {message}")
