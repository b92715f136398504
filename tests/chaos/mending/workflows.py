"""The workflows of the drill of mending: one that fails behind its second step until it is mended, and another."""

import time

from millrace import step, workflow

IS_MENDED = False


def done(order: str, what: str) -> str:
    """Be a step."""
    return f"{what} {order}"


@workflow(name="chaos-order", timeout=300)
def order(number: str) -> dict[str, str]:
    """Charge and pack an order, and send it: at first that fails."""
    charged = step.sync("charge", done, number, "charged")
    packed = step.sync("pack", done, number, "packed")
    if not IS_MENDED:
        raise RuntimeError("the carrier's address is wrong")
    # Most kills meet a run between two steps.
    time.sleep(0.3)
    sent = step.sync("send", done, number, "sent")
    return {"charged": charged, "packed": packed, "sent": sent}


@workflow(name="chaos-other", timeout=300)
def other(number: str) -> str:
    """Go on beside it."""
    return step.sync("look", done, number, "looked at")
