"""System calls whose arguments are made beforehand, for a fork: making them copies next to no memory of Python's."""

import ctypes
import os
from typing import Any

from millrace._runtime.syscalls import ALLOWED, ARCHITECTURES, BUILDING

# Unlike a CDLL it keeps Python's lock, which nobody else wants in a process with one thread.
_SYSCALL = ctypes.PyDLL(None, use_errno=True).syscall
_SYSCALL.restype = ctypes.c_long


class Calls:
    """System calls that are made one after the other."""

    def __init__(self) -> None:
        self._calls: list[tuple[tuple[Any, ...], int]] = []
        self._names: list[str] = []
        self._kept: list[Any] = []

    def add(self, name: str, *arguments: int | bytes, answer: int = 0) -> None:
        """Add a call by its name, which must answer just this; bytes are handed over by their address.

        Raises KeyError where this architecture has no such call.
        """
        column, _ = ARCHITECTURES[os.uname().machine]
        number = (BUILDING[name] if name in BUILDING else ALLOWED[name])[column]
        if number is None:
            raise KeyError(name)
        given = (number, *(one if isinstance(one, int) else self.address(one) for one in arguments))
        self._calls.append((tuple(ctypes.c_long(one) for one in given), answer))
        self._names.append(name)

    def address(self, data: bytes) -> int:
        """Keep bytes, with a NUL after them, and answer their address."""
        self._kept.append(ctypes.create_string_buffer(data))
        return ctypes.addressof(self._kept[-1])

    def make(self) -> None:
        """Make all calls. Raises OSError at the first that does not answer as it must."""
        for arguments, answer in self._calls:
            if _SYSCALL(*arguments) != answer:
                self._fail(arguments)

    def _fail(self, arguments: tuple[Any, ...]) -> None:
        number = ctypes.get_errno()
        name = self._names[[one for one, _ in self._calls].index(arguments)]
        raise OSError(number, f"{name}: {os.strerror(number)}")
