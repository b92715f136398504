"""The kernel calls that Python 3.11 has no name for, through the C library. Each raises OSError."""

import ctypes
import os
import struct
from fcntl import ioctl
from socket import AF_INET, SOCK_STREAM, socket

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_FORK = ctypes.PyDLL(None, use_errno=True).fork

NEW_MOUNTS, NEW_UTS, NEW_IPC, NEW_USER, NEW_PIDS, NEW_NET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000

READ_ONLY, NO_SUID, NO_DEVICES, NO_EXEC, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
_DETACH = 2

DEATH_SIGNAL, DUMPABLE, SECURE_BITS, SUBREAPER, NO_NEW_PRIVILEGES = 1, 4, 28, 36, 38
_SECURE_BITS_LOCKED = 0xEF  # no root by user number, no keeping of capabilities, nothing ambient; and none of it to be undone
_CAP_VERSION_3 = 0x20080522

_MACHINE = os.uname().machine
# Calls that the C library of an old system has no function for: numbers on x86-64 and on all newer architectures.
_PIVOT_ROOT, _CAPSET = {"x86_64": (155, 126), "aarch64": (41, 91)}.get(_MACHINE, (-1, -1))
_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 1, 0x40


def call(number: int, *arguments: int | bytes | object) -> int:
    """Make a system call by its number and return its result."""
    result: int = _LIBC.syscall(ctypes.c_long(number), *[ctypes.c_long(one) if isinstance(one, int) else one for one in arguments])
    if result < 0:
        raise _error(f"system call {number}")
    return result


def prctl(option: int, *values: int) -> None:
    """Set one attribute of this process."""
    numbers = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if _LIBC.prctl(option, *numbers) != 0:
        raise _error(f"prctl({option})")


def fork() -> int:
    """Fork as the C library does; answer as `os.fork` does. Only for a process that has never had a second thread.

    `os.fork` makes locks and threads of the interpreter anew in the child, as another thread may have held them. Without another
    thread that is half a millisecond for nothing, with two hundred pages copied by it. It also seeds `random` anew: that is left to
    the child.
    """
    pid: int = _FORK()
    if pid < 0:
        raise _error("fork")
    return pid


def unshare(what: int) -> None:
    """Leave the namespaces of these kinds for new ones."""
    if _LIBC.unshare(what) != 0:
        raise _error(f"unshare({what:#x})")


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace that a descriptor stands for."""
    if _LIBC.setns(descriptor, kind) != 0:
        raise _error("setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """Mount a file system, or, with `BIND`, make a part of the tree appear elsewhere."""
    given = [None if text is None else text.encode() for text in (source, target, kind)]
    if _LIBC.mount(*given, ctypes.c_ulong(flags), None if options is None else options.encode()) != 0:
        raise _error(f"mounting {source} on {target}")


def detach(target: str) -> None:
    """Take a mount out of the tree."""
    if _LIBC.umount2(target.encode(), _DETACH) != 0:
        raise _error(f"taking {target} out")


def protect(target: str, attributes: int) -> None:
    """Set attributes on a mount and on every one below it, which remounting would leave as they are."""
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    call(_MOUNT_SETATTR, _AT_FDCWD, target.encode(), _AT_RECURSIVE, wanted, len(wanted))


def change_root(folder: str) -> None:
    """Make a mounted folder the root of this namespace, and forget the one that was."""
    os.chdir(folder)
    call(_PIVOT_ROOT, b".", b".")
    detach(".")
    os.chdir("/")


def drop_capabilities() -> None:
    """Give up every capability, and every way for this process or programs it executes to have one again. Takes CAP_SETPCAP.

    The bounding set stays: it bounds the capabilities that a file could give, and without new privileges none can.
    """
    keep_no_way_back()
    clear_capabilities()


NO_CAPABILITY = struct.pack("=Ii", _CAP_VERSION_3, 0), bytes(24)
"""Arguments of `capset`."""


def keep_no_way_back() -> None:
    """Give up, for all descendants too, every way to have a capability again once it is cleared. Takes CAP_SETPCAP."""
    prctl(SECURE_BITS, _SECURE_BITS_LOCKED)


def clear_capabilities() -> None:
    """Give up every capability that this process has."""
    call(_CAPSET, *NO_CAPABILITY)


def raise_loopback() -> None:
    """Bring the loopback interface of a new network namespace up."""
    with socket(AF_INET, SOCK_STREAM) as any_socket:
        ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("=16sH14x", b"lo", _IFF_UP | _IFF_RUNNING))


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
