"""The file tree of tier A: a new root with only the files that a run needs, read-only but for one bounded folder.

The zygote builds it once; each child takes a copy of the mounts and adds its own `/proc`, `/tmp` and code. Until then the
folder of all code is mounted at `STORE`, where only children that run no author's code yet can see it.
"""

import os
import sys

from millrace._runtime import kernel
from millrace._runtime.kernel import BIND, NO_DEVICES, NO_EXEC, NO_SUID, PRIVATE, READ_ONLY, RECURSIVE
from millrace._runtime.prepared import Calls

WORKSPACE = "/workspace"
"""The code of a run."""
PACKAGES = "/packages"
"""The environment of a run's workspace, if it has one."""
SCRATCH = "/scratch"
"""The only place that a run can write to: a tmpfs, which goes with it. `/tmp` is another name of it, unless something of what a run
needs lies below the machine's own `/tmp`.
"""
STORE = "/.code"

# The system's public programs, libraries and tables, which `subprocess`, extension modules, TLS and time zones need. Nothing of
# /etc that describes this machine or its users.
_SYSTEM = (
    *("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec"),
    *("/usr/share/zoneinfo", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/mime.types", "/etc/alternatives"),
    *("/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/ssl/cert.pem", "/etc/pki/tls/certs", "/etc/pki/ca-trust/extracted"),
)
_DEVICES = ("null", "zero", "full", "random", "urandom")
_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "fd/0",
    "/dev/stdout": "fd/1",
    "/dev/stderr": "fd/2",
    "/dev/shm": SCRATCH,
    "/tmp": SCRATCH,
    "/var/tmp": SCRATCH,
}
_REMOUNT = 32
# As many as a run may use for anything honest; what counts against its memory elsewhere, counts here.
_MOST_FILES = 65536


def visible(package: str, *others: str) -> list[str]:
    """Answer what a run may see of the machine: the system, this interpreter with what it has loaded, `package` and others.

    None of them is below another.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        loaded = {line.split(None, 5)[5].rstrip("\n") for line in file if "/" in line}
    wanted = [*_SYSTEM, sys.executable, os.path.dirname(os.path.abspath(os.__file__)), package, *loaded, *others]
    found: list[str] = []
    for path in sorted({os.path.abspath(path) for path in wanted}):
        covered = any(path == other or path.startswith(other + "/") for other in found if not os.path.islink(other))
        if os.path.lexists(path) and not covered:
            found.append(path)
    return found


def build(base: str, shown: list[str], code: str) -> None:
    """Build the tree on the folder `base` and make it the root. `shown` files and folders appear under their own paths, and
    `code` at `STORE`. Raises OSError naming the step, as where mounting is forbidden.
    """
    kernel.mount("none", "/", None, PRIVATE | RECURSIVE)
    kernel.mount("root", base, "tmpfs", NO_SUID | NO_DEVICES, "mode=755,size=1m")
    for path in shown:
        _show(path, base)
    for name in _DEVICES:
        _show(f"/dev/{name}", base, is_device=True)
    for link, target in _LINKS.items():
        if not os.path.lexists(base + link):
            os.makedirs(os.path.dirname(base + link), exist_ok=True)
            os.symlink(target, base + link)
    user, group = os.getuid(), os.getgid()
    _write(f"{base}/etc/passwd", f"run:x:{user}:{group}::/nonexistent:/bin/sh\n")
    _write(f"{base}/etc/group", f"run:x:{group}:\n")
    _write(f"{base}/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    _write(f"{base}/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")
    for folder in (WORKSPACE, PACKAGES, SCRATCH, "/proc"):
        os.makedirs(base + folder, exist_ok=True)
    _show(code, base, at=STORE)
    mount_proc(base + "/proc")
    kernel.protect(base, READ_ONLY | NO_SUID)
    kernel.change_root(base)


def mount_proc(target: str) -> None:
    """Mount a view of this PID namespace's processes, without the rest of /proc, which describes the machine."""
    kernel.mount("proc", target, "proc", NO_SUID | NO_DEVICES | NO_EXEC, "subset=pid")


def mount_own(size: int) -> None:
    """Mount a child's own `/proc` and `/tmp`, of so many bytes."""
    mount_proc("/proc")
    kernel.mount("scratch", SCRATCH, "tmpfs", NO_SUID | NO_DEVICES, _of_scratch(size))


def prepare_own(calls: Calls, size: int) -> None:
    """Add the calls that do the same."""
    calls.add("mount", b"proc", b"/proc", b"proc", NO_SUID | NO_DEVICES | NO_EXEC, b"subset=pid")
    calls.add("mount", b"scratch", SCRATCH.encode(), b"tmpfs", NO_SUID | NO_DEVICES, _of_scratch(size).encode())


def _of_scratch(size: int) -> str:
    return f"mode=700,size={size},nr_inodes={_MOST_FILES}"


def mount_code(bundle: str, packages: str | None, *, is_writable: bool = False) -> None:
    """Mount one bundle, and an environment, given by their paths below `STORE`; from here on no other can be seen."""
    kernel.mount(f"{STORE}/{bundle}", WORKSPACE, None, BIND | RECURSIVE)
    if is_writable:
        kernel.mount("none", WORKSPACE, None, _REMOUNT | BIND | NO_SUID | NO_DEVICES)
    if packages is not None:
        kernel.mount(f"{STORE}/{packages}", PACKAGES, None, BIND | RECURSIVE)
    kernel.detach(STORE)


def _show(path: str, base: str, *, at: str | None = None, is_device: bool = False) -> None:
    """Make a path of the old tree appear in the new one: itself if it is a link, else its content."""
    target = base + (at or path)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path) and not is_device:
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        _write(target, "")
    kernel.mount(path, target, None, BIND | RECURSIVE)
    if not is_device:
        kernel.protect(target, READ_ONLY | NO_SUID | NO_DEVICES)


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
