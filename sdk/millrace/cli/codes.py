"""Exit codes, on which scripts may rely."""

from __future__ import annotations

from typing import Any

DONE = 0
# The API refused, a workspace has problems, or the reader of the output went away.
REFUSED = 1
# The command line, the configuration or an input is not understood; nothing was sent.
USAGE = 2
# No server answers at the address.
UNREACHABLE = 3
# Ends of a run that did not succeed. Far from 1 to 3, so that a failed run is never taken for a failed request.
ENDS = {"succeeded": DONE, "failed": 10, "timed_out": 11, "crashed": 12, "cancelled": 13, "expired": 14}
# The wait was over before the run: it goes on.
STILL_RUNNING = 15
INTERRUPTED = 130


def of_run(run: dict[str, Any]) -> int:
    """Return the exit code for a run as the API shows it."""
    return ENDS.get(run["status"], STILL_RUNNING)


def has_ended(run: dict[str, Any]) -> bool:
    """Return whether a run's status is one of those that do not change any more."""
    return run["status"] in ENDS
