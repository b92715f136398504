"""What the drill deploys: each execution leaves a line in a file, so that repetitions can be counted from outside."""

import os
import time

from millrace import step, workflow

# Seconds between the step and the end: without them hardly any kill would meet a run that has its step behind it.
LINGER = 0.7


def leave(file: str, kind: str, event: str) -> None:
    """Append one line: what was executed, for which event, and when (nanoseconds of the machine's clock)."""
    # Not made here: in a sticky folder the kernel refuses to create over a file of somebody else's.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{kind} {event} once {time.time_ns()}\n".encode())
    finally:
        os.close(descriptor)


@workflow(name="chaos-counted", timeout=300)
def counted(file: str, event: str) -> str:
    """Count this attempt, do the one durable step, and linger."""
    leave(file, "attempt", event)
    step.sync("once", leave, file, "step", event)
    time.sleep(LINGER)
    return event


@workflow(name="chaos-noop", timeout=300)
def noop() -> None:
    """Do nothing."""
