"""The zygote's one task: fork children when the supervisor asks, reap them, and report how they ended.

One thread, one loop. Each packet on its socket is one JSON object; descriptors travel beside it. The supervisor asks
`fork` (with a child's control socket, standard output and error, and the doors of its control group); answered with `born`,
which carries a pidfd, or `stillborn`. Every child's end is reported by `ended`; if it left processes behind, `swept` follows once
they are gone. A `template` is forked as well (with its own control socket, output and error), and answers by itself.

Where the kernel does not end a child's descendants with it, the child adopts their orphans; so any other child of the
zygote was left by a child that is dead: it is killed.
"""

import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Any

from millrace._runtime import kernel
from millrace._runtime.stopping import DEFAULT, set_handler
from millrace._runtime.walls import Walls

_PACKET = 16384
"""Bytes of one packet: two paths of the longest kind, and room around them."""
_DESCRIPTORS = 3 + 3
"""With one packet: the descriptors of a child, and a door for each hierarchy of control groups."""
_SWEEP = 1.0
"""Seconds that those left behind have to be gone, after which the supervisor is no longer kept waiting for them."""
_CONTROL = 3


class Zygote:
    """Serves one supervisor with children behind `walls`."""

    def __init__(self, control: socket.socket, walls: Walls) -> None:
        self._control = control
        self._walls = walls
        self._pid = os.getpid()
        self._most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        self._ids: dict[int, int] = {}
        self._unswept: list[tuple[int, float]] = []

    def attend(self) -> dict[str, Any]:
        """Serve until the supervisor is gone; then end the process. Returns in a forked child, and only there: its order."""
        wakes, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(wakes, select.POLLIN)
        gc.collect()
        gc.disable()  # a child enables it for its run
        gc.freeze()  # shared memory stays shared: no collection in a child writes to it
        itself = os.pidfd_open(self._pid)
        self._send({"kind": "hello"}, itself)
        os.close(itself)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(100 if self._unswept else None)}
            if wakes in ready:
                os.read(wakes, 4096)
            if wakes in ready or self._unswept:
                self._reap()
            if self._control.fileno() in ready:
                order = self._order_of_child()
                if order is not None:
                    return order

    def _order_of_child(self) -> dict[str, Any] | None:
        """Fork as requested. Answers the order in the child, None in the zygote."""
        packet, descriptors, _, _ = socket.recv_fds(self._control, _PACKET, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not packet:
            os._exit(0)
        order: dict[str, Any] = json.loads(packet)
        if order["kind"] == "template":
            return self._fork_template(order, *descriptors)
        try:
            pid = os.fork() if order.get("bare") else self._walls.fork(order["place"] and order["place"]["bundle"])
        except OSError as error:
            self._send({"kind": "stillborn", "id": order["id"], "message": str(error)})
            pid = -1
        if pid == 0:
            self._become_child(order, *descriptors)
            return order
        for descriptor in descriptors:
            os.close(descriptor)
        if pid > 0:
            self._ids[pid] = order["id"]
            pidfd = os.pidfd_open(pid)  # ours to reap, so the number is still its own
            self._send({"kind": "born", "id": order["id"]}, pidfd)
            os.close(pidfd)
        return None

    def _fork_template(self, order: dict[str, Any], *descriptors: int) -> dict[str, Any] | None:
        """Fork what will be a template, or the parent of one; its reports are its own. Answers as `_order_of_child`."""
        with contextlib.suppress(OSError):  # its socket is closed then, which is answer enough
            if kernel.fork() == 0:
                self._become(*descriptors)
                return order
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _become(self, control: int, out: int, err: int, *doors: int) -> None:
        """Take the place of a child: its own session, descriptors and control group, and none of the zygote's."""
        signal.set_wakeup_fd(-1)
        set_handler(signal.SIGCHLD, DEFAULT)
        os.setsid()
        self._control.detach()
        os.dup2(control, _CONTROL, inheritable=False)
        os.dup2(out, 1)
        os.dup2(err, 2)
        try:
            for door in doors:
                os.write(door, b"0")
        except OSError as error:
            sys.exit(f"it may not enter its control group: {error}")
        os.closerange(_CONTROL + 1, self._most_files)

    def _become_child(self, order: dict[str, Any], *descriptors: int) -> None:
        self._become(*descriptors)
        if order.get("bare"):  # the cost of a fork alone, as the limit of everything else
            os.write(_CONTROL, b"%d" % time.monotonic_ns())
            os._exit(0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if order["memory_bytes"] is not None:
            resource.setrlimit(resource.RLIMIT_AS, (order["memory_bytes"],) * 2)

    def _reap(self) -> None:
        ended: list[dict[str, Any]] = []
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if found is None:
                break
            pid = found.si_pid
            if not self._walls.leaves_nothing:
                _kill(-pid)  # while the zombie holds the number, it can be no other group's
            _, status, usage = os.wait4(pid, 0)
            if pid in self._ids:
                self._walls.bury(pid)
                ended.append(
                    {
                        "kind": "ended",
                        "id": self._ids.pop(pid),
                        "code": os.waitstatus_to_exitcode(status),
                        "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1000,
                        "max_rss_kb": usage.ru_maxrss,
                    }
                )
        are_left = not self._walls.leaves_nothing and self._kill_left_behind()
        for frame in ended:
            self._send({**frame, "swept": not are_left})
            if are_left:
                self._unswept.append((frame["id"], time.monotonic() + _SWEEP))
        while self._unswept and (not are_left or time.monotonic() > self._unswept[0][1]):
            self._send({"kind": "swept", "id": self._unswept.pop(0)[0]})

    def _kill_left_behind(self) -> bool:
        """Kill the leftovers of dead children; return whether there was any. A later SIGCHLD brings the next generation."""
        with open(f"/proc/self/task/{self._pid}/children", "rb", buffering=0) as file:
            left = [pid for pid in map(int, file.read().split()) if pid not in self._ids]
        for pid in left:
            _kill(pid)
            _kill(-pid)
        return bool(left)

    def _send(self, frame: dict[str, Any], *descriptors: int) -> None:
        try:
            socket.send_fds(self._control, [json.dumps(frame).encode()], descriptors)
        except ConnectionError:
            os._exit(0)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _nothing(_signal: int, _frame: object) -> None:
    pass
