"""The attack list: everything closed to a run, tried by a child behind its walls before any run uses the tier.

Every attempt is harmless where it succeeds: it looks, asks or opens, and takes nothing further. Nothing here may be called
outside a sandbox all the same.
"""

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

from millrace._runtime.kernel import call

_COLUMN = {"x86_64": 0, "aarch64": 1}.get(os.uname().machine, 0)
_NUMBERS = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "unshare": (272, 97),
    "setns": (308, 268),
    "chroot": (161, 51),
    "pivot_root": (155, 41),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "open_by_handle_at": (304, 265),
    "sethostname": (170, 161),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "settimeofday": (164, 170),
    "swapon": (167, 224),
    "reboot": (169, 142),
}
_REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})
_PTRACE_SEIZE, _MPTCP = 0x4206, 262


class _Through(Exception):
    """An attempt that went further than it may; its message describes it."""


def holes(targets: dict[str, Any]) -> list[str]:
    """Try every attack and return those that were not stopped: the empty list where the walls stand.

    `targets` are the supervisor's: `pid`, its number; `file`, a world-readable one; `port` on 127.0.0.1 and `sockets` (a
    path and an abstract name), where it listens.
    """
    found = []
    for name, attempt in _attempts(targets).items():
        try:
            attempt()
        except OSError:
            continue
        except _Through as error:
            found.append(f"{name}: {error}")
            continue
        found.append(name)
    return found


def _attempts(targets: dict[str, Any]) -> dict[str, Callable[[], object]]:
    pid = targets["pid"] if targets["pid"] != os.getpid() else 1 << 21  # that number is ours here, so the supervisor has none
    path, abstract = targets["sockets"]
    attempts: dict[str, Callable[[], object]] = {
        "read a file of the machine": lambda: os.open(targets["file"], os.O_RDONLY),
        "write outside of its folder": lambda: os.open("/usr/.millrace-probe", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600),
        "read /etc/shadow": lambda: os.open("/etc/shadow", os.O_RDONLY),
        "read the environment of the supervisor": lambda: os.open(f"/proc/{pid}/environ", os.O_RDONLY),
        "change a setting of the kernel": lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY),
        "signal the supervisor": lambda: os.kill(pid, 0),
        "become root": lambda: os.setuid(0),
        "connect to a port of the machine": lambda: _connect(socket.AF_INET, ("127.0.0.1", targets["port"])),
        "connect to a Unix socket": lambda: _connect(socket.AF_UNIX, path),
        "connect to an abstract socket": lambda: _connect(socket.AF_UNIX, abstract),
        "send UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "open a raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "use multipath TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, _MPTCP),
        "speak netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "trace the supervisor": lambda: _refused("ptrace", _PTRACE_SEIZE, pid, 0, 0),
    }
    attempts |= {f"call {name}": _asking(name) for name in _NUMBERS if name != "ptrace"}
    return attempts | {"do without a seccomp filter": _look_for_filter}


def _asking(name: str) -> Callable[[], object]:
    return lambda: _refused(name, *(ctypes.c_void_p(0),) * 6)


def _refused(name: str, *arguments: Any) -> None:
    """Make a call, and take it for stopped only where the call itself was refused, not its arguments."""
    try:
        call(_NUMBERS[name][_COLUMN], *arguments)
    except OSError as error:
        if error.errno in _REFUSED:
            raise
        raise _Through(f"it came as far as {errno.errorcode.get(error.errno or 0, error.errno)}") from None


def _connect(family: int, address: Any) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(1)
        one.connect(address)


def _look_for_filter() -> None:
    """A call in another convention ends the process, so it is not made: that there is a filter is looked up."""
    with open("/proc/self/status", encoding="ascii") as file:
        if "\nSeccomp:\t2\n" in file.read():
            raise PermissionError
