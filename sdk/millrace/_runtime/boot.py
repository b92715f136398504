"""First lines of a child: give up every right, then wait for a job.

Run as `python -I -S -B boot.py '{"uid": …}'` with the control socket as standard input. The interpreter is already
loaded; from `drop` on nothing of the supervisor's rights is left, and no author's code has been seen.
"""

import json
import os
import resource
import sys
from typing import Any

CONTROL = 3
"""The descriptor of the control socket, for the whole life of the child."""

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _SIGKILL = 1, 4, 38, 9


def settle_descriptors() -> None:
    """Move the control socket to its place, closed on exec, and give the author an empty standard input."""
    os.dup2(0, CONTROL, inheritable=False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def limit(setting: dict[str, Any]) -> None:
    """Set the resource limits, hard and soft, while it is still allowed."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = setting["open_files"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if setting["memory_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (setting["memory_bytes"], setting["memory_bytes"]))


def drop(setting: dict[str, Any]) -> None:
    """Give up groups, group and user for good, then forbid new privileges and being outlived or looked into.

    In this order: a change of user clears the parent-death signal.
    """
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if setting["uid"] is not None:
        os.setgroups([])
        os.setresgid(setting["gid"], setting["gid"], setting["gid"])
        os.setresuid(setting["uid"], setting["uid"], setting["uid"])
    for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_PDEATHSIG, _SIGKILL), (_PR_SET_DUMPABLE, 0)):
        if prctl(option, value, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({option})")
    if os.getppid() != setting["parent"]:  # it died before the death signal was set
        os._exit(1)
    os.umask(0o077)


def boot() -> None:
    """Become the child. Does not return."""
    setting = json.loads(sys.argv[1])
    settle_descriptors()
    limit(setting)
    drop(setting)
    sys.argv[1:] = []
    sys.path.append(setting["package"])
    from millrace._runtime.child import serve

    serve(CONTROL)


if __name__ == "__main__":
    boot()
