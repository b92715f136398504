"""Judges the end of an attempt. Pure: no process, no clock."""

import signal

import msgspec

from services.executor.sandbox import described, frames
from services.executor.sandbox.ends import AttemptEnd, Broken, ChildGone, Excess, Starved
from services.executor.sandbox.interface import BundleProblem, Description, Failure, KeptResult, Outcome, Reason, Status, Usage

_FULL = "it had as many processes and threads at a time as a run may"
_CANNOT_START = frozenset({"BlockingIOError", "RuntimeError"})
"""Errors of Python where the kernel refuses a process, and where it refuses a thread."""


def outcome(ended: AttemptEnd, timeout: float) -> Outcome:
    """Judge a run. A broken frame outranks a stop, a stop outranks a later answer of the child."""
    status, reason, error = _judge(ended, timeout)
    if ended.is_full and error is not None:
        error = Failure(error.type, f"{error.message} ({_FULL})", error.traceback)
        if status == "failed" and error.type in _CANNOT_START:
            reason = "limit"
    return Outcome(
        status=status,
        reason=reason,
        result=ended.last.result if status == "succeeded" and isinstance(ended.last, frames.Result) else None,
        kept=ended.last if status == "succeeded" and isinstance(ended.last, KeptResult) else None,
        error=error,
        usage=Usage(cpu_ms=round(ended.exit.cpu_ms), max_rss_mb=ended.exit.max_rss_mb),
        duration_ms=round(ended.duration * 1000),
        seconds=ended.last.seconds if status == "waiting" and isinstance(ended.last, frames.Suspended) else None,
    )


def refused(message: str) -> Outcome:
    """Judge a run whose job does not even fit into a frame."""
    error = Failure("InputLimit", f"the input {message}")
    return Outcome(status="failed", reason="limit", error=error, usage=Usage(0, 0), duration_ms=0)


def description(ended: AttemptEnd, timeout: float) -> Description:
    """Return the content of a bundle, or the problem that kept the child from describing it."""
    if isinstance(ended.last, frames.Described):
        return described.description(ended.last.workflows, ended.last.problems, ended.last.adapters)
    _, _, error = _judge(ended, timeout)
    message = f"{error.type}: {error.message}" if error is not None else "it was stopped"
    slow = ended.stopped is not None
    return Description([], [BundleProblem(ended.importing or ".", 1, f"importing the workflows failed: {message}"[:2000], slow)])


def compiled(ended: AttemptEnd, paths: list[str]) -> dict[str, bytes | None]:
    """Answer the bytecode of those modules that a child was asked for and has compiled."""
    if not isinstance(ended.last, frames.Result) or ended.stopped is not None:
        return {}
    try:
        found = msgspec.json.decode(ended.last.result, type=dict[str, bytes | None])
    except msgspec.MsgspecError:
        return {}
    return {path: found[path] for path in paths if path in found}


def _judge(ended: AttemptEnd, timeout: float) -> tuple[Status, Reason | None, Failure | None]:
    last = ended.last
    if isinstance(last, Broken):
        return "crashed", "sandbox", Failure("FrameError", last.message)
    if isinstance(last, Excess):
        return "failed", "limit", Failure(last.type, last.message)
    if isinstance(last, Starved):
        return "crashed", "oom", Failure("MemoryLimit", "it and the processes that it started took more memory than a run may")
    if ended.stopped == "cancelled":
        return "cancelled", None, None
    if ended.stopped == "timed_out":
        where = last.traceback if isinstance(last, frames.Error) else ""
        return "timed_out", "timeout", Failure("TimedOut", f"it ran longer than {timeout:g} s", where)
    if isinstance(last, frames.Result | KeptResult):
        return "succeeded", None, None
    if isinstance(last, frames.Suspended):
        return "waiting", None, None
    if isinstance(last, frames.Error):
        reason: Reason = "oom" if last.type == "MemoryError" else "error"
        return "failed", reason, Failure(last.type, last.message, last.traceback)
    if isinstance(last, ChildGone):
        return "crashed", "error", Failure("Crashed", _how(ended.exit.code, alive=last.alive))
    return "crashed", "sandbox", Failure("FrameError", "a description where a result was asked for")


def _how(code: int | None, *, alive: bool) -> str:
    if alive or code is None:
        return "the process closed its control socket and gave no result"
    if code >= 0:
        return f"the process exited with code {code} before it gave a result"
    name = signal.Signals(-code).name if -code in {int(one) for one in signal.Signals} else f"signal {-code}"
    hint = " (not sent by Millrace: often the kernel's, for want of memory)" if -code == signal.SIGKILL else ""
    return f"the process was ended by {name}{hint} before it gave a result"
