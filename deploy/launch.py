"""Become another program under another user that dies with its parent: `python -I -S launch.py [options] -- command…`.

Runs before any environment is trusted and reads the standard library only. It exists because code between fork and exec
(preexec_fn) is unsafe in a program with threads, and because the death signal must be asked for after the change of user,
which clears it. The command's pid is this process's; exit 127 when it could not be started.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
# The exit code of a program whose supervisor was gone before it began.
ORPHANED = 128 + signal.SIGKILL


def main() -> int:
    """Give way, drop privileges, ask for the death signal, exec; or, with --reach, print the first folder that is in the way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--give-way", type=int)
    parser.add_argument("--pdeathsig", type=int)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--reach", action="append", default=[])
    parser.add_argument("command", nargs="*")
    arguments = parser.parse_args()
    if arguments.give_way is not None:
        give_way(arguments.give_way)
    if arguments.uid is not None:
        os.setgroups([])
        os.setgid(arguments.gid)
        os.setuid(arguments.uid)
    if arguments.reach:
        for path in arguments.reach:
            print(first_blocking(path) or "", flush=True)
        return 0
    try:
        if arguments.pdeathsig is not None and sys.platform == "linux":
            control(PR_SET_PDEATHSIG, arguments.pdeathsig)
    except OSError as error:
        print(f"launch: prctl: {error.strerror}", file=sys.stderr)
        return 127
    # The parent may have died before the signal was asked for; then it would never come.
    if arguments.parent is not None and os.getppid() != arguments.parent:
        return ORPHANED
    try:
        os.execv(arguments.command[0], arguments.command)  # noqa: S606 (no shell is what is wanted)
    except OSError as error:
        print(f"launch: {arguments.command[0]}: {error.strerror}", file=sys.stderr)
    return 127


def control(option: int, value: int) -> None:
    """Set an attribute of this process (prctl); OSError where the kernel refuses it. Linux only."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def give_way(niceness: int) -> None:
    """Let others go first where there are too few cores: this process, and its session where the kernel weighs whole sessions."""
    os.nice(niceness)
    # Not there on every kernel, and not for everybody to write.
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as autogroup:  # noqa: PTH123 (as below)
        autogroup.write(str(niceness))


def first_blocking(path: str) -> str | None:
    """Return the first folder above `path` that the current user may not enter, or `path` itself when that is closed."""
    parts = [part for part in path.split("/") if part]
    folder = "/"
    for part in parts:
        if not os.access(folder, os.X_OK):
            return folder
        folder = os.path.join(folder, part)  # noqa: PTH118 (pathlib is not worth its import time here)
    return None if os.access(folder, os.X_OK) else folder


if __name__ == "__main__":
    sys.exit(main())
