"""The workflows of the drill of mending: one that fails behind its second step until it is mended, and another."""

import os
import time

from millrace import step, workflow

IS_MENDED = False


def done(file: str, number: str, what: str) -> str:
    """Be a step: leave a line that says so."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, f"step {number} {what} {time.time_ns()}\n".encode())
    finally:
        os.close(descriptor)
    return f"{what} {number}"


@workflow(name="chaos-order", timeout=300)
def order(number: str, file: str) -> dict[str, str]:
    """Charge and pack an order, and send it: at first that fails."""
    charged = step.sync("charge", done, file, number, "charge")
    packed = step.sync("pack", done, file, number, "pack")
    if not IS_MENDED:
        raise RuntimeError("the carrier's address is wrong")
    # Most kills meet a run between two steps.
    time.sleep(0.3)
    sent = step.sync("send", done, file, number, "send")
    return {"charged": charged, "packed": packed, "sent": sent}


@workflow(name="chaos-other", timeout=300)
def other(number: str, file: str) -> str:
    """Go on beside it."""
    return step.sync("look", done, file, f"other-{number}", "look")
