"""Run a command on a machine that forbids something: `python forbid.py namespaces,landlock -- command…`.

A seccomp filter around the command stands for the machine: containers forbid namespaces in just this way.
"""

import ctypes
import os
import struct
import sys

UNSHARE, LANDLOCK = 272, (444, 445, 446)
PERMISSION, MISSING = 0x50000 | 1, 0x50000 | 38


def main() -> None:
    what, dashes, *command = sys.argv[1:]
    assert dashes == "--"
    denied = {}
    if "namespaces" in what:
        denied[UNSHARE] = PERMISSION
    if "landlock" in what:
        denied |= dict.fromkeys(LANDLOCK, MISSING)
    code = [(0x20, 0, 0, 0)]
    for number, verdict in denied.items():
        code += [(0x15, 0, 1, number), (0x06, 0, 0, verdict)]
    code.append((0x06, 0, 0, 0x7FFF0000))
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(packed)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    assert prctl(38, 1, 0, 0, 0) == 0
    assert prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0) == 0, os.strerror(ctypes.get_errno())
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
