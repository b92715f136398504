"""Landlock: which files and ports a process may use from now on, itself and all that descends from it."""

import os
import struct

from millrace._runtime.kernel import call
from millrace._runtime.prepared import Calls

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same on every architecture
_ASK_VERSION = 1
_BENEATH, _PORT = 1, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_FOLDER = 1, 2, 4, 8
_MAKE_CHARACTER_DEVICE, _MAKE_BLOCK_DEVICE = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_BIND, _CONNECT = 1, 2
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2

READ = EXECUTE | READ_FILE | READ_FOLDER
USE_DEVICES = READ_FILE | WRITE_FILE | READ_FOLDER | _IOCTL_DEVICE
WRITE = (1 << 16) - 1 & ~(_MAKE_CHARACTER_DEVICE | _MAKE_BLOCK_DEVICE)
"""Everything, but no device files."""
_OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEVICE
# Rights by the version of the interface that was the first to know them.
_FILES_SINCE = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
WITH_PORTS, WITH_SCOPES = 4, 6


def version() -> int:
    """Answer the version of Landlock that this kernel has; 0 where it has none, or was started without it."""
    try:
        return call(_CREATE, 0, 0, _ASK_VERSION)
    except OSError:
        return 0


class Ruleset:
    """Rights to be allowed. All others that the kernel can watch are denied: files, TCP ports, and, from version 6 on, signals and
    abstract sockets of processes that are not under the same restriction.
    """

    def __init__(self, known: int) -> None:
        """`known` is the `version`, at least 1."""
        self._files = _files(known)
        self._ports = _ports(known)
        self._descriptor = call(_CREATE, *_attributes(known), 0)

    def allow(self, path: str, rights: int) -> None:
        """Allow these rights on a file, or on a folder and everything below it. A path that is not there is left out."""
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            return
        try:
            if not os.path.isdir(path):
                rights &= _OF_A_FILE
            call(_ADD, self._descriptor, _BENEATH, struct.pack("=Qi", rights & self._files, place), 0)
        finally:
            os.close(place)

    def allow_writing(self, folder: str) -> None:
        """Allow everything in a folder, but no device files."""
        self.allow(folder, WRITE)

    def allow_devices(self, *paths: str) -> None:
        """Allow devices to be read, written and asked; of a folder, those in it."""
        for path in paths:
            self.allow(path, USE_DEVICES)

    def allow_connect(self, port: int) -> None:
        """Allow TCP connections to this port of any address."""
        if self._ports:
            call(_ADD, self._descriptor, _PORT, struct.pack("=QQ", _CONNECT, port), 0)

    def enforce(self) -> None:
        """Restrict this process, for good. It must not be able to gain privileges any more."""
        call(_RESTRICT, self._descriptor, 0)
        os.close(self._descriptor)


def prepare(calls: Calls, known: int, *, descriptor: int, folders: dict[int, int], port: int) -> None:
    """Add the calls that make a ruleset, which gets this descriptor: rights by the descriptors of folders, and one TCP port."""
    calls.add("landlock_create_ruleset", *_attributes(known), 0, answer=descriptor)
    for folder, rights in folders.items():
        calls.add("landlock_add_rule", descriptor, _BENEATH, struct.pack("=Qi", rights & _files(known), folder), 0)
    if _ports(known):
        calls.add("landlock_add_rule", descriptor, _PORT, struct.pack("=QQ", _CONNECT, port), 0)


def _files(known: int) -> int:
    return next(rights for since, rights in reversed(_FILES_SINCE.items()) if known >= since)


def _ports(known: int) -> int:
    return _BIND | _CONNECT if known >= WITH_PORTS else 0


def _attributes(known: int) -> tuple[bytes, int]:
    """Answer what a ruleset is to decide on, and the size of that."""
    scopes = _ABSTRACT_SOCKETS | _SIGNALS if known >= WITH_SCOPES else 0
    size = 24 if known >= WITH_SCOPES else 16 if known >= WITH_PORTS else 8
    return struct.pack("=QQQ", _files(known), _ports(known), scopes), size
