"""Starts services as forks of one process that has imported all of them: `python -P -m deploy.forkserver <descriptor>`.

Asked for one over the socket with that descriptor (`deploy.forking`), it forks twice, and the process in between ends at once: so
the service is a child of the supervisor, which adopts orphans meanwhile, and outlives this process. Here are no thread, no event
loop and no secret: the service itself is told its settings, over a socket that is its own, once it is its supervisor's child.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import json
import os
import socket
import sys
from pathlib import Path

from deploy import launch
from shared.messages.log import SERVICES

# Of a command line and of a service's settings, far beyond any; a message is taken whole or not at all.
LARGEST = 1 << 20
MOST_DESCRIPTORS = 16


def main(arguments: list[str]) -> int:
    """Fork services until the supervisor is gone; in a service, return its exit code."""
    asked = socket.socket(fileno=int(arguments[0]))
    gc.disable()
    for service in SERVICES:
        importlib.import_module(f"services.{service}.app")
    # A collection in a service would touch, and so copy, each page of what is the same in all.
    gc.freeze()
    while True:
        command, descriptors, _, _ = socket.recv_fds(asked, LARGEST, 1)
        if not command:
            return 0
        given = socket.socket(fileno=descriptors[0])
        adopted, adopting = os.pipe()
        if os.fork() == 0:
            if os.fork():
                os._exit(0)
            asked.close()
            os.close(adopting)
            os.read(adopted, 1)  # ends once the process in between is gone
            os.close(adopted)
            return _serve(command, given)
        given.close()
        os.close(adopted)
        os.wait()
        os.close(adopting)


def _serve(command: bytes, given: socket.socket) -> int:
    """Become the service of that command line, as its settings say that arrive; returns its exit code."""
    os.setsid()
    _call(command)
    given.sendall(str(os.getpid()).encode())
    said, received, _, _ = socket.recv_fds(given, LARGEST, MOST_DESCRIPTORS)
    given.close()
    if not said:
        return launch.ORPHANED
    told = json.loads(said)
    numbers = [1, *told["descriptors"]]
    kept = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, max(numbers) + 1) for one in received]
    for one in received:
        os.close(one)
    for one, number in zip(kept, numbers, strict=True):
        os.dup2(one, number)
        os.close(one)
    os.dup2(1, 2)
    if told["niceness"]:
        launch.give_way(told["niceness"])
    os.chdir(told["directory"])
    os.environ.clear()
    os.environ.update(told["environment"])
    launch.control(launch.PR_SET_PDEATHSIG, told["death_signal"])
    if os.getppid() != told["parent"]:
        return launch.ORPHANED
    code: int = importlib.import_module("services.__main__").main([os.fsdecode(command.rpartition(b"\0")[2])])
    return code


def _call(command: bytes) -> None:
    """Have the system show another command line for this process, so far as there is room where its own stands."""
    start, end = map(int, Path("/proc/self/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[45:47])
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, command, min(len(command), end - start - 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
