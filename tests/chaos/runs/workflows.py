"""What the drill of runs deploys: every kind of end, with a line in a file for each execution of a step."""

import os
import signal
import time

from millrace import SignalTimeout, runs, sleep, step, wait_for, workflow


def leave(file: str, what: str, token: str, name: str) -> None:
    """Append one line: what was executed, for which run, and when (nanoseconds of the machine's clock)."""
    # Not made here: in a sticky folder the kernel refuses to create over a file of somebody else's.
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"{what} {token} {name} {time.time_ns()}\n".encode())
    finally:
        os.close(descriptor)


def number(file: str, token: str, ordinal: int) -> int:
    """Be a step: count this execution and return a number."""
    leave(file, "step", token, f"s{ordinal}")
    return ordinal


def tries(file: str, token: str) -> int:
    """Return how many attempts of this run there have been, this one included."""
    path = os.path.join(os.path.dirname(file), f"tries-{token}")  # noqa: PTH118, PTH120 - what a child imports counts
    with open(path, "ab") as counter:  # noqa: PTH123
        counter.write(b"x")
        return counter.tell()


@workflow(name="drill-steps", timeout=300)
def steps(file: str, token: str, linger: float) -> dict:  # type: ignore[type-arg]
    """Do three steps with a pause after each: most kills meet a run that has some of its steps behind it."""
    leave(file, "attempt", token, "-")
    total = 0
    for ordinal in range(3):
        total += step.sync(f"s{ordinal}", number, file, token, ordinal)
        time.sleep(linger)
    return {"token": token, "total": total}


@workflow(name="drill-failing", timeout=300, retries=2, retry_delay=0.3)
def failing(file: str, token: str) -> None:
    """Fail each time, with a step behind it."""
    leave(file, "attempt", token, "-")
    step.sync("s0", number, file, token, 0)
    raise OSError(token)


@workflow(name="drill-third", timeout=300, retries=3, retry_delay=0.3)
def third(file: str, token: str) -> dict:  # type: ignore[type-arg]
    """Succeed when it is tried for the third time."""
    leave(file, "attempt", token, "-")
    step.sync("s0", number, file, token, 0)
    if tries(file, token) < 3:
        raise OSError(token)
    return {"token": token}


@workflow(name="drill-slow", timeout=0.8)
def slow(file: str, token: str) -> None:
    """Take longer than it may."""
    leave(file, "attempt", token, "-")
    time.sleep(120)


@workflow(name="drill-greedy", timeout=300)
def greedy(file: str, token: str) -> int:
    """Ask for more memory than there is for one run; the kernel refuses it before any is touched."""
    leave(file, "attempt", token, "-")
    return len(bytearray(4 << 30))


@workflow(name="drill-crashing", timeout=300)
def crashing(file: str, token: str) -> None:
    """Die by a signal."""
    leave(file, "attempt", token, "-")
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(120)


@workflow(name="drill-holding", timeout=300)
def holding(file: str, token: str) -> dict:  # type: ignore[type-arg]
    """Go on for some time."""
    leave(file, "attempt", token, "-")
    time.sleep(12)
    return {"token": token}


@workflow(name="drill-sleeping", timeout=300)
async def sleeping(file: str, token: str, seconds: float) -> dict:  # type: ignore[type-arg]
    """Sleep between two steps, holding no process."""
    leave(file, "attempt", token, "-")
    total = await step("s0", number, file, token, 0)
    await sleep(seconds)
    total += await step("s1", number, file, token, 1)
    return {"token": token, "total": total}


@workflow(name="drill-asking", timeout=300)
async def asking(file: str, token: str, timeout: float | None = None) -> dict:  # type: ignore[type-arg]
    """Wait for an answer between two steps."""
    leave(file, "attempt", token, "-")
    total = await step("s0", number, file, token, 0)
    try:
        given = (await wait_for("answer", timeout=timeout)).data
    except SignalTimeout:
        given = "nobody"
    total += await step("s1", number, file, token, 1)
    return {"token": token, "total": total, "given": given}


@workflow(name="drill-parent", timeout=300)
async def parent(file: str, token: str) -> dict:  # type: ignore[type-arg]
    """Start two runs and wait for both."""
    leave(file, "attempt", token, "-")
    total = await step("s0", number, file, token, 0)
    ids = [await runs.astart("drill-child", {"file": file, "token": f"{token}.{one}", "number": one}) for one in range(2)]
    for id_ in ids:
        total += await runs.wait(id_)
    return {"token": token, "total": total}


@workflow(name="drill-child", timeout=300)
async def child(file: str, token: str, number: int) -> int:
    """Be started by another run; every second one sleeps."""
    leave(file, "attempt", token, "-")
    if number:
        await sleep(1.2)
    return number + 1


@workflow(name="drill-keyed", timeout=300)
def keyed(file: str, token: str, key: str) -> dict:  # type: ignore[type-arg]
    """Say when it begins and ends: no other run with the same key may come between."""
    leave(file, "attempt", token, "-")
    leave(file, "enter", token, key)
    step.sync("s0", number, file, token, 0)
    time.sleep(0.1)
    leave(file, "leave", token, key)
    return {"token": token}


@workflow(name="drill-large", timeout=300)
def large(file: str, token: str) -> dict:  # type: ignore[type-arg]
    """Return nearly as much as fits into a message."""
    leave(file, "attempt", token, "-")
    return {"token": token, "filling": "x" * 200_000}
