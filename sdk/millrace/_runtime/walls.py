"""The walls between a run and everything else, for each tier; each is raised in two steps around the wait for a job.

`fork` is the zygote's. `enter` is the child's first step and needs no knowledge of the job; `close` is its last, once the
bundle is known, and is over before a line of the author's code is read. Neither can be taken back. An OSError out of
any of them ends the child, and with it the attempt to use the tier: nothing runs behind half a wall.
"""

import os
import resource
import signal
import socket
from typing import Any, Protocol

from millrace._runtime import kernel, root
from millrace._runtime.landlock import READ, READ_FILE, READ_FOLDER, WITH_PORTS, WRITE, Ruleset, version
from millrace._runtime.networks import Network, Networks
from millrace._runtime.seccomp import allowlist, without_building

EGRESS_PORT = 3128
"""The only port that a run of tier A can connect to, on its own loopback; the supervisor holds the listening socket."""
EGRESS = f"http://127.0.0.1:{EGRESS_PORT}"
"""Its address, as programs want it."""

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


class Walls(Protocol):
    """One tier, as the zygote and its children use it."""

    leaves_nothing: bool
    """Whether the death of a child is the death of everything that it started, by the kernel's doing."""
    builds: bool
    """Whether the children build environments: then they may write into their bundle, which is no code, and start programs."""

    def fork(self, bundle: str | None) -> int:
        """Fork, for this bundle where it is known; answer as `os.fork` does."""

    def bury(self, pid: int) -> None:
        """Take back the zygote's resources of a dead child."""

    def enter(self, order: dict[str, Any]) -> socket.socket | None:
        """Take the steps that are the same for every job; answer the listening socket for the run's way out, if it has one."""

    def close(self, bundle: str, packages: str | None) -> tuple[str, str | None]:
        """Take the last steps; answer where bundle and packages are now."""


class Bare:
    """Tier "none": another process, under another user where the supervisor could change it."""

    leaves_nothing = False

    def __init__(self, *, builds: bool = False) -> None:
        self.builds = builds
        self._zygote = os.getpid()
        self._scratch = "/"

    def fork(self, bundle: str | None) -> int:  # noqa: ARG002 - nothing of this tier is a bundle's
        """See `Walls`."""
        return kernel.fork()

    def bury(self, pid: int) -> None:
        """Do nothing: a child has nothing of the zygote's."""

    def enter(self, order: dict[str, Any]) -> socket.socket | None:
        """Make the child's life depend on the zygote's."""
        belong(self._zygote)
        self._scratch = order["scratch"]
        os.environ["TMPDIR"] = self._scratch
        os.chdir(self._scratch)
        return None

    def close(self, bundle: str, packages: str | None) -> tuple[str, str | None]:
        """Do nothing."""
        return bundle, packages


class Restricted(Bare):
    """Tier B: Landlock and seccomp, for where namespaces are forbidden."""

    def __init__(self, visible: list[str], egress_port: int | None, *, builds: bool = False) -> None:
        """`visible` may be read by every run; all connect to `egress_port`, if there is one.

        Raises OSError where Landlock is too old, KeyError without a table of calls.
        """
        super().__init__(builds=builds)
        self._known = version()
        if self._known < WITH_PORTS:
            raise OSError(f"Landlock has version {self._known} here, and {WITH_PORTS} is needed")
        self._program = allowlist(is_apart=False, may_start=builds)
        self._visible = visible
        self._egress_port = egress_port

    def enter(self, order: dict[str, Any]) -> socket.socket | None:
        """Make the way out a port of the machine's that is this child's own, unless all have one."""
        super().enter(order)
        if self._egress_port is not None:
            return None
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        self._egress_port = listener.getsockname()[1]
        return listener

    def close(self, bundle: str, packages: str | None) -> tuple[str, str | None]:
        """Restrict files to those of the run, all for reading, and calls to those without effect on others."""
        del os.environ["TMPDIR"]  # there is no place to write to: a disk has no size limit for one run
        rules = Ruleset(self._known)
        for path in self._visible:
            rules.allow(path, READ)
        rules.allow(bundle, WRITE if self.builds else READ)
        if packages is not None:
            rules.allow(packages, READ)
        rules.allow(f"/proc/{os.getpid()}", READ_FILE | READ_FOLDER)
        rules.allow(self._scratch, READ_FOLDER)
        rules.allow_devices(*_DEVICES)
        if self._egress_port is not None:
            rules.allow_connect(self._egress_port)
        kernel.clear_capabilities()
        rules.enforce()
        self._program.load()
        return bundle, packages


class Isolated:
    """Tier A: namespaces of every kind, a root of its own, Landlock and seccomp."""

    leaves_nothing = True

    def __init__(self, base: str, visible: list[str], code: str, *, builds: bool = False, output: str | None = None) -> None:
        """Isolate this process, and go on in a child of it that has the new namespaces; see `root.build`. Raises OSError.

        Where there is an `output`, children that build may write to no other file of their folder.
        """
        self.builds = builds
        self._writable = root.WORKSPACE if output is None else os.path.join(root.WORKSPACE, output)
        self._known = version()
        if self._known < 1:
            raise OSError("the kernel has no Landlock, or was started without it")
        self._program = without_building()
        self._code = code
        kernel.prctl(kernel.DUMPABLE, 1)  # else the maps below belong to root
        become_user_of(kernel.NEW_USER | kernel.NEW_MOUNTS | kernel.NEW_PIDS | kernel.NEW_IPC | kernel.NEW_UTS | kernel.NEW_NET)
        _go_on_as_first_process()
        socket.sethostname("run")
        root.build(base, visible, code)
        self._networks = Networks()
        self._lent: dict[int, Network] = {}
        self._has_network = False
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        kernel.prctl(kernel.DUMPABLE, 0)
        allowlist(is_apart=True).load()

    def fork(self, bundle: str | None) -> int:
        """Fork a child that is the first process of a PID namespace, so that all that it starts dies with it.

        For a bundle it is in a network already; else `enter` makes it one.
        """
        network = None if bundle is None else self._networks.take(bundle)
        pid = -1
        try:
            kernel.unshare(kernel.NEW_PIDS)
            pid = kernel.fork()
        finally:
            if pid != 0:
                kernel.setns(self._own_pids, kernel.NEW_PIDS)
                if network is not None:
                    self._lent[pid] = network
                if pid < 0:
                    self.bury(pid)
        if pid == 0 and network is not None:
            try:
                network.enter()
            except OSError:  # out of here it would be taken for the zygote's
                os._exit(1)
            self._has_network = True
        return pid

    def bury(self, pid: int) -> None:
        """Take the dead child's network back."""
        network = self._lent.pop(pid, None)
        if network is not None:
            self._networks.give(network)

    def enter(self, order: dict[str, Any]) -> socket.socket | None:
        """Take namespaces of the child's own and mount its own files in them."""
        kernel.prctl(kernel.DUMPABLE, 1)
        kernel.unshare(kernel.NEW_MOUNTS | kernel.NEW_IPC | kernel.NEW_UTS | (0 if self._has_network else kernel.NEW_NET))
        if not self._has_network:
            kernel.raise_loopback()
        root.mount_own(order["scratch_bytes"])
        self._processes = order["processes"]
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", EGRESS_PORT))
        listener.listen(128)
        os.environ["TMPDIR"] = root.SCRATCH
        os.chdir(root.SCRATCH)
        return listener

    def close(self, bundle: str, packages: str | None) -> tuple[str, str | None]:
        """Show the bundle and nothing else of the store; give up the rights that mounting took; restrict the rest."""
        self.show(bundle, packages)
        # A user namespace for each: the kernel counts processes, and more, by user and namespace.
        become_user_of(kernel.NEW_USER)
        resource.setrlimit(resource.RLIMIT_NPROC, (self._processes,) * 2)
        kernel.drop_capabilities()
        rules = Ruleset(self._known)
        rules.allow("/", READ)
        rules.allow_writing(root.SCRATCH)
        if self.builds:
            rules.allow_writing(self._writable)
        rules.allow_devices("/dev")
        rules.allow_connect(EGRESS_PORT)
        rules.enforce()
        self._program.load()
        return root.WORKSPACE, None if packages is None else root.PACKAGES

    def show(self, bundle: str, packages: str | None) -> None:
        """Mount this code and take the store with all other out of sight. Raises OSError."""
        root.mount_code(self._in_store(bundle), None if packages is None else self._in_store(packages), is_writable=self.builds)

    def _in_store(self, path: str) -> str:
        return os.path.relpath(path, self._code)


def raised(setting: dict[str, Any]) -> Walls:
    """Raise the zygote's part of a tier; returns in the process that is to be the zygote. Raises OSError, KeyError."""
    shown: list[str] | None = setting["builds"]
    builds = shown is not None
    visible = root.visible(setting["package"], *(shown or ()))
    if setting["tier"] == "A":
        return Isolated(setting["scratch"], visible, setting["code"], builds=builds, output=setting["output"])
    if setting["output"] is not None:
        raise OSError(f"tier {setting['tier']} has no walls for the builds of strangers")
    if setting["tier"] == "B":
        return Restricted(visible, setting["egress_port"], builds=builds)
    return Bare(builds=builds)


def belong(parent: int) -> None:
    """Die with `parent`, and adopt orphaned descendants of this process. A fork inherits neither.

    After any change of user, which clears the parent-death signal.
    """
    kernel.prctl(kernel.DEATH_SIGNAL, signal.SIGKILL)
    kernel.prctl(kernel.SUBREAPER, 1)
    if os.getppid() != parent:  # it died before the signal was set
        os._exit(1)


def become_user_of(namespaces: int) -> None:
    """Enter new namespaces, a user namespace among them, as the user and group that this process is now."""
    user, group = os.getuid(), os.getgid()
    kernel.unshare(namespaces)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        file = os.open(f"/proc/self/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def _go_on_as_first_process() -> None:
    """Return in a fork, which is the first process of the new PID namespace; this one waits for it and ends as it does."""
    lives, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(held)
        kernel.prctl(kernel.DEATH_SIGNAL, signal.SIGKILL)
        os.set_blocking(lives, False)
        try:
            os.read(lives, 1)
        except BlockingIOError:
            os.close(lives)
            return
        os._exit(1)  # the parent died before the signal was set
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2, 3):
        os.dup2(null, descriptor)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
