"""First lines of the zygote: give up every right, load what a run needs, then fork children on request.

Run as `python -I -S -B boot.py '{"uid": …}'` with the supervisor's socket as standard input. From `drop` on nothing of
the supervisor's rights is left, and no child can have more. The zygote itself never runs author's code.
"""

import ctypes
import json
import os
import socket
import sys
from typing import Any

CONTROL = 3
"""The descriptor of the control socket: the zygote's to the supervisor, and in its place each child's own."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 4, 36, 38, 9

_PRCTL = ctypes.CDLL(None, use_errno=True).prctl


def prctl(option: int, value: int) -> None:
    """Set one attribute of this process. Raises OSError."""
    if _PRCTL(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def settle_descriptors() -> None:
    """Move the control socket to its place, closed on exec, and leave an empty standard input."""
    os.dup2(0, CONTROL, inheritable=False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def drop(setting: dict[str, Any]) -> None:
    """Give up groups, group and user for good; forbid new privileges and being looked into. Forks inherit all of it."""
    if setting["uid"] is not None:
        os.setgroups([])
        os.setresgid(setting["gid"], setting["gid"], setting["gid"])
        os.setresuid(setting["uid"], setting["uid"], setting["uid"])
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_DUMPABLE, 0)
    os.umask(0o077)


def belong(parent: int) -> None:
    """Die with `parent`, and adopt what descends from this process and is orphaned. A fork inherits neither.

    After `drop`: a change of user clears the parent-death signal.
    """
    prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:  # it died before the signal was set
        os._exit(1)


def boot() -> None:
    """Become the zygote and, in each fork of it, a child. Does not return."""
    setting = json.loads(sys.argv[1])
    settle_descriptors()
    drop(setting)
    belong(setting["parent"])
    sys.argv[1:] = []
    sys.path.append(setting["package"])
    from millrace._runtime import child, zygote

    # The zygote's frames end in the fork: a child finds nothing of it, or of its siblings, on its stack.
    zygote.Zygote(socket.socket(fileno=CONTROL), belong).attend()
    child.serve(CONTROL)


if __name__ == "__main__":
    boot()
