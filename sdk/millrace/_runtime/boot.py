"""First lines of the zygote: give up every right, raise the tier's walls, load what a run needs, fork children on request.

Run as `python -I -S -B boot.py '{"uid": …}'` with the supervisor's socket as standard input. From `drop` on nothing of
the supervisor's rights is left, and no child can have more. The zygote itself never runs author's code.
"""

import json
import os
import resource
import socket
import sys
from typing import Any

CONTROL = 3
"""The descriptor of the control socket: the zygote's to the supervisor, and in its place each child's own."""


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
    from millrace._runtime import kernel

    # The kernel refuses to hand a descriptor over while more than this are on their way, those of all the user's runs included.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    kernel.prctl(kernel.NO_NEW_PRIVILEGES, 1)
    kernel.prctl(kernel.DUMPABLE, 0)
    os.umask(0o077)


def boot() -> None:
    """Become the zygote and, in each fork of it, a child, or a template and, in each fork of that, a child. Does not return."""
    setting = json.loads(sys.argv[1])
    settle_descriptors()
    sys.path.append(setting["package"])
    from millrace._runtime import walls

    drop(setting)
    walls.belong(setting["parent"])
    sys.argv[1:] = []
    try:
        behind = walls.raised(setting)
    except (OSError, KeyError) as error:  # this machine does not allow it: reported in one line, without our frames
        sys.exit(f"{error}" if isinstance(error, OSError) else f"there is no table of system calls for {error}")
    from millrace._runtime import child, template, zygote

    # The zygote's frames end in the fork: a child finds nothing of it, or of its siblings, on its stack.
    control = child.prepared(CONTROL)
    order = zygote.Zygote(socket.socket(fileno=CONTROL), behind).attend()
    if order["kind"] != "template":
        child.serve(control, behind, order)
    # Nor does it find any of a template.
    template.begin(order, behind)
    stopping = child.expecting(control)
    template.serve(order)
    child.serve_placed(control, stopping)


if __name__ == "__main__":
    boot()
