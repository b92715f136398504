"""A template: a process for the runs of one organization and bundle, each of which is a fork of it.

It stands behind all walls that such runs may share: user, IPC and UTS namespaces, a root with the one bundle, limits, signal
handlers, the allowlist. It holds what every run of the bundle needs and nothing that the author's code made: it reads names and
bytes of the bundle, executes none of it, and decodes no bytecode. What is a run's own comes in the fork: namespaces for processes,
mounts and network, `/proc`, scratch folder, control group, and the last walls, after which nothing can be taken back.

One thread, one loop, as in the zygote. The supervisor asks for a child by a packet that is its number, with the child's control
socket, standard output and error, and the doors of its control group; answered with `born`, which carries a pidfd and the listening
socket of the run's way out, or `stillborn`; its end is reported by `ended`, when all that it started is gone with it. A packet that
carries nothing is the name of a module that jobs ask for.
"""

import gc
import os
import random
import resource
import select
import socket
import struct
import sys
from typing import Any

from millrace._runtime import kernel, landlock, modules, root, standard
from millrace._runtime.networks import Network, Networks
from millrace._runtime.prepared import Calls
from millrace._runtime.seccomp import without_building
from millrace._runtime.walls import EGRESS, EGRESS_PORT, Isolated, Walls, become_user_of

CONTROL = 3
"""The control socket: a template's own, and in its place each child's."""
_ROOT, _DEVICES, _SCRATCH, _RULES = 4, 5, 6, 7
"""Descriptors that a child finds at these numbers, and those that it makes, while it raises its walls."""
_PACKET = 4096
_AT_ONCE = 8
"""Children that are forked one right after the other: as many as a template may have waiting."""
_ROOM = socket.CMSG_SPACE(4 * (3 + 3))
_kept: "list[_Template]" = []
"""What a child would spend its first half millisecond on: letting go of this."""
_PLACED = b'\0\0\0\x11{"kind":"placed"}'
_MOST_DESCRIPTORS = (1 << 32) - 1
_HERE = -100  # the working folder, where a call wants a folder's descriptor


def begin(order: dict[str, Any], walls: Walls) -> None:
    """Go behind the walls that the children will share; returns in a child, the first process of a PID namespace, or exits."""
    try:
        _go_behind(order, walls)
    except (OSError, TypeError) as error:
        sys.exit(f"{error}")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if order["memory_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_AS, (order["memory_bytes"],) * 2)
    os.environ["TMPDIR"] = root.SCRATCH
    sys.path.insert(0, root.WORKSPACE)
    if order["place"]["packages"] is not None:
        sys.path.append(root.PACKAGES)


def _go_behind(order: dict[str, Any], walls: Walls) -> None:
    """The store of all code is taken out of sight before the user namespace is made: from then on its mounts are held together."""
    if not isinstance(walls, Isolated):
        msg = "only where each run has namespaces of its own is there a template"
        raise TypeError(msg)
    kernel.prctl(kernel.DUMPABLE, 1)  # else the maps belong to root
    kernel.unshare(kernel.NEW_MOUNTS)
    root.mount_proc("/proc")  # the one that is there cannot be written to
    walls.show(order["place"]["bundle"], order["place"]["packages"])
    become_user_of(kernel.NEW_USER | kernel.NEW_MOUNTS | kernel.NEW_IPC | kernel.NEW_UTS | kernel.NEW_NET | kernel.NEW_PIDS)
    if kernel.fork():
        os._exit(0)
    os.setsid()
    root.mount_proc("/proc")
    os.chdir("/")
    kernel.keep_no_way_back()
    kernel.prctl(kernel.DUMPABLE, 0)


def serve(order: dict[str, Any]) -> None:
    """Serve with children, once `begin` has returned, until the supervisor is gone. Returns in a child, behind all its walls."""
    _kept.append(_Template(order))
    _kept[0].attend()


class _Request:
    """A child, from the request on."""

    __slots__ = ("descriptors", "listener", "network", "number", "pid")
    network: Network
    listener: int

    def __init__(self, number: bytes, descriptors: list[int]) -> None:
        self.number = number
        self.descriptors = descriptors
        self.pid = -1


class _Template:
    """The template that this process is."""

    def __init__(self, order: dict[str, Any]) -> None:
        for place, path in ((_ROOT, "/"), (_DEVICES, "/dev")):
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if folder != place:
                os.dup2(folder, place, inheritable=False)
                os.close(folder)
        self._control = socket.socket(fileno=CONTROL)
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._networks = Networks()
        self._standard = standard.StandardModules(root.WORKSPACE)
        self._processes: int | None = None if order["is_counted"] else order["processes"]
        self._first, self._last = _walls(order["scratch_bytes"], order["open_files"])
        self._leave, self._return = Calls(), Calls()
        self._leave.add("unshare", kernel.NEW_PIDS)
        self._return.add("setns", self._own_pids, kernel.NEW_PIDS)
        self._asked: list[_Request] = []
        """The children that were asked for last. Kept, so that a child spends no time on letting go of its siblings' requests."""
        self._children: dict[int, _Request] = {}
        """By pidfd."""
        self._poll = select.poll()

    def attend(self) -> None:
        """See `serve`."""
        self._poll.register(CONTROL, select.POLLIN)
        gc.disable()
        gc.freeze()
        itself = os.pidfd_open(os.getpid())
        self._send(b'{"kind":"hello","proxy":"%b"}' % EGRESS.encode(), itself)
        os.close(itself)
        while True:
            self._asked = self._requests()
            if self._asked and self._is_child():
                return

    def _requests(self) -> "list[_Request]":
        """Wait for the supervisor, and answer the children that it asks for; reap those that have ended meanwhile."""
        found: list[_Request] = []
        patience = None
        while len(found) < _AT_ONCE:
            more = False
            for descriptor, _ in self._poll.poll(patience):
                if descriptor == CONTROL:
                    more = self._receive(found)
                else:
                    self._reap(descriptor)
            if not more:
                break
            patience = 0
        return found

    def _receive(self, into: "list[_Request]") -> bool:
        """Read what the supervisor has sent; answers whether that was a request, which goes into the list."""
        number, ancillary, _, _ = self._control.recvmsg(_PACKET, _ROOM, socket.MSG_CMSG_CLOEXEC)
        if not number:
            os._exit(0)
        if not ancillary:
            self._expect(number.decode())
            return False
        into.append(_Request(number, memoryview(ancillary[0][2]).cast("i").tolist()))
        return True

    def _is_child(self) -> bool:
        """Fork the children that are asked for. Answers whether this is one of them.

        One right after the other: what this process touches after a fork is copied, so nothing is in between that can be before or
        after all of them.
        """
        try:
            for one in self._asked:
                one.network = self._networks.take("")
                one.network.enter()
                one.listener = _listener()
            for one in self._asked:
                random.seed()  # as `os.fork` has it done: else all children would draw the same numbers
                one.network.enter()
                self._leave.make()
                one.pid = kernel.fork()
                if one.pid == 0:
                    self._become_child(one.descriptors)
                    return True
                self._return.make()
        except OSError as error:
            for one in self._asked:
                if one.pid < 0:
                    message = os.strerror(error.errno or 0).encode()
                    self._send(b'{"kind":"stillborn","id":%b,"message":"%b"}' % (one.number, message))
            os._exit(1)  # a template in doubt
        for one in self._asked:
            self._report_birth(one)
        return False

    def _report_birth(self, child: "_Request") -> None:
        for descriptor in child.descriptors:
            os.close(descriptor)
        pidfd = os.pidfd_open(child.pid)  # ours to reap, so the number is still its own
        self._children[pidfd] = child
        self._poll.register(pidfd, select.POLLIN)
        self._send(b'{"kind":"born","id":%b}' % child.number, pidfd, child.listener)
        os.close(child.listener)

    def _expect(self, module: str) -> None:
        """Have what a module takes ready for children to come."""
        try:
            self._standard.load(module)
        except RuntimeError as error:
            sys.exit(f"{error}")
        modules.read(module, root.WORKSPACE)
        gc.freeze()

    def _become_child(self, descriptors: list[int]) -> None:
        os.dup2(descriptors[0], CONTROL, False)
        os.dup2(descriptors[1], 1)
        os.dup2(descriptors[2], 2)
        try:
            for door in descriptors[3:]:
                os.write(door, b"0")
            self._first.make()
            if self._processes is not None:  # the kernel counts processes by user and user namespace
                become_user_of(kernel.NEW_USER)
                resource.setrlimit(resource.RLIMIT_NPROC, (self._processes,) * 2)
                kernel.keep_no_way_back()
            self._last.make()
        except OSError as error:
            sys.exit(f"{error}")

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(child.pid, 0)
        self._networks.give(child.network)
        frame = b'{"kind":"ended","id":%b,"code":%d,"cpu_ms":%.3f,"max_rss_kb":%d,"swept":true}'
        used = (usage.ru_utime + usage.ru_stime) * 1000
        self._send(frame % (child.number, os.waitstatus_to_exitcode(status), used, usage.ru_maxrss))

    def _send(self, frame: bytes, *descriptors: int) -> None:
        try:
            self._control.sendmsg(
                [frame], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i" * len(descriptors), *descriptors))]
            )
        except ConnectionError:
            os._exit(0)


def _listener() -> int:
    """Make the socket of a run's way out in the network that this process is in; answer its descriptor."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", EGRESS_PORT))
    listener.listen(128)
    return listener.detach()


def _walls(scratch_bytes: int, open_files: int) -> tuple[Calls, Calls]:
    """Prepare what a child does up to the place where it may take a user namespace of its own, and after it."""
    first, last = Calls(), Calls()
    first.add("setsid", answer=1)
    first.add("close_range", _SCRATCH, _MOST_DESCRIPTORS, 0)
    # A child's own: a template holds eight descriptors for each of its children.
    first.add("prlimit64", 0, resource.RLIMIT_NOFILE, struct.pack("=QQ", open_files, open_files), 0)
    first.add("prctl", kernel.DUMPABLE, 1)
    first.add("unshare", kernel.NEW_MOUNTS)
    root.prepare_own(first, scratch_bytes)
    scratch = root.SCRATCH.encode()
    first.add("openat", _HERE, scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, answer=_SCRATCH)
    folders = {_ROOT: landlock.READ, _DEVICES: landlock.USE_DEVICES, _SCRATCH: landlock.WRITE}
    landlock.prepare(last, landlock.version(), descriptor=_RULES, folders=folders, port=EGRESS_PORT)
    last.add("capset", *kernel.NO_CAPABILITY)
    last.add("landlock_restrict_self", _RULES, 0)
    without_building().prepare(last)
    last.add("close_range", _ROOT, _MOST_DESCRIPTORS, 0)
    last.add("chdir", scratch)
    last.add("write", CONTROL, _PLACED, len(_PLACED), answer=len(_PLACED))
    return first, last
