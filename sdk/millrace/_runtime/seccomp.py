"""The seccomp programs: the system calls that a run may make. An allowlist, looked up by a search tree, made once in the zygote.

Loading it takes the kernel a third of a millisecond, which tries every call against it. So the zygote loads it for all its
children, with the few calls more that walls are built with; a child only loads a short program that takes these away.

A call that is not on the list fails with EPERM; one that is newer than the list with ENOSYS. A call in another architecture's
convention (32 bit, x32), whose numbers mean something else, ends the process.
"""

import ctypes
import os
import struct

from millrace._runtime.kernel import prctl
from millrace._runtime.prepared import Calls
from millrace._runtime.syscalls import ALLOWED, ARCHITECTURES, BUILDING, CLONE3, NEWEST

_SET_SECCOMP, _FILTER = 22, 2
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_NOT_PERMITTED, _MISSING = 0x50000 | 1, 0x50000 | 38

_LOAD, _AND, _JUMP, _RETURN = 0x20, 0x54, 0x05, 0x06
_EQUAL, _GREATER, _AT_LEAST, _ANY_BIT = 0x15, 0x25, 0x35, 0x45
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000

_NEW_NAMESPACES = 0x7E020000
_THREAD = 0x10000
_FAST_OPEN = 0x20000000
_UNIX, _INET, _INET6 = 1, 2, 10
_STREAM, _TYPE_BITS = 1, 0xF
_TCP = 6
_PUSH_INPUT, _CONSOLE = 0x5412, 0x541C  # type on somebody's terminal
_SET_MM, _SET_TRACER = 35, 0x59616D61

_SELF = 0x0BADBEEF
"""In the place of the process's own number, which is known only after the fork."""

_Code = list[tuple[int, int, int, int]]
_MAY_BE_SELF_OR_0 = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "prlimit64", "sched_setaffinity")
_ONLY_APART = ("fork", "vfork", "execve", "execveat", "tkill", "pidfd_send_signal", "setpriority", "setpgid")

_OF_FILES = ("chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat")
"""Change what Landlock has no rules for, of any file of the same user."""


class Program:
    """A filter for this machine, as `allowlist` and `without_building` make them."""

    def __init__(self, code: _Code) -> None:
        self._template = b"".join(struct.pack("=HBBI", *one) for one in code)
        self._length = len(code)

    def prepare(self, calls: Calls) -> None:
        """Add the call that does as `load`; for a program that does not name its process."""
        code = calls.address(self._template)
        calls.add("prctl", _SET_SECCOMP, _FILTER, struct.pack("@HP", self._length, code), 0, 0)

    def load(self) -> None:
        """Put this process, all its future threads and children under the filter. It must not be able to gain privileges."""
        code = ctypes.create_string_buffer(self._template.replace(struct.pack("=I", _SELF), struct.pack("=I", os.getpid())))
        program = ctypes.create_string_buffer(struct.pack("@HP", self._length, ctypes.addressof(code)))
        prctl(_SET_SECCOMP, _FILTER, ctypes.addressof(program))


_TO_START = ("fork", "vfork", "execve", "execveat")


def allowlist(*, is_apart: bool, may_start: bool = False) -> Program:
    """Answer the list. Raises KeyError, by the architecture, where there is no table.

    `is_apart`: the process has namespaces of its own; then the calls for building are still on the list. Where it
    has none it may not start or signal other processes, change modes and times of files, nor make Unix sockets other than pairs:
    these would be the machine's.
    `may_start`: it may start processes all the same, as one that executes a program of the platform and no author's code.
    """
    column, architecture = ARCHITECTURES[os.uname().machine]
    return Program(
        [
            _load(_ARCHITECTURE),
            (_EQUAL, 1, 0, architecture),
            _return(_KILL),
            _load(_NUMBER),
            (_AT_LEAST, 0, 1, _X32),
            _return(_KILL),
            (_GREATER, 0, 1, NEWEST),
            _return(_MISSING),
            *_search(_rules(column, is_apart=is_apart, may_start=may_start)),
        ]
    )


def only(names: tuple[str, ...]) -> Program:
    """Answer a list of nothing but these calls, for a process that computes. Raises KeyError where there is no table or name."""
    column, architecture = ARCHITECTURES[os.uname().machine]
    code = [_load(_ARCHITECTURE), (_EQUAL, 1, 0, architecture), _return(_KILL), _load(_NUMBER)]
    for name in names:
        number = ALLOWED[name][column]
        if number is not None:
            code += [(_EQUAL, 0, 1, number), *_allow()]
    return Program([*code, *_deny()])


def without_building() -> Program:
    """Return the program that takes away the calls for building walls."""
    column, _ = ARCHITECTURES[os.uname().machine]
    code = [_load(_NUMBER)]
    for numbers in BUILDING.values():
        code += [(_EQUAL, 0, 1, numbers[column]), *_deny()]
    return Program([*code, *_allow()])


def _rules(column: int, *, is_apart: bool, may_start: bool) -> list[tuple[int, int, _Code]]:
    """Return the verdict on each range of numbers, in their order; numbers in none are not permitted."""
    special = {
        "clone": _when_bits(
            0, _NEW_NAMESPACES, _NOT_PERMITTED, _allow() if is_apart or may_start else _when_bits(0, _THREAD, _ALLOW)
        ),
        "socket": _socket(is_apart=is_apart),
        "socketpair": _when_equal(0, [_UNIX], _ALLOW, _deny()),
        "ioctl": _when_equal(1, [_PUSH_INPUT, _CONSOLE], _NOT_PERMITTED, _allow()),
        "prctl": _when_equal(0, [_SET_MM, _SET_TRACER], _NOT_PERMITTED, _allow()),
        "sendto": _when_bits(3, _FAST_OPEN, _NOT_PERMITTED, _allow()),
        "sendmsg": _when_bits(2, _FAST_OPEN, _NOT_PERMITTED, _allow()),
        "sendmmsg": _when_bits(3, _FAST_OPEN, _NOT_PERMITTED, _allow()),
    }
    if not is_apart:
        special |= {name: _when_equal(0, [0, _SELF], _ALLOW, _deny()) for name in _MAY_BE_SELF_OR_0}
        special |= {name: _deny() for name in _ONLY_APART if not (may_start and name in _TO_START)}
        if not may_start:
            special |= {name: _deny() for name in _OF_FILES}
    rules = [(CLONE3[column], CLONE3[column], [_return(_MISSING)])]
    allowed = [numbers[column] for numbers in BUILDING.values()] if is_apart else []
    for name, numbers in ALLOWED.items():
        number = numbers[column]
        if number is None:
            continue
        if name in special:
            rules.append((number, number, special[name]))
        else:
            allowed.append(number)
    for number in sorted(allowed):
        if rules[-1][1] == number - 1 and rules[-1][2] == _allow():
            rules[-1] = (rules[-1][0], number, _allow())
        else:
            rules.append((number, number, _allow()))
    return sorted(rules, key=lambda rule: rule[0])


def _search(rules: list[tuple[int, int, _Code]]) -> _Code:
    """Answer the tree that finds a number's rule; the number is loaded."""
    if len(rules) == 1:
        low, high, code = rules[0]
        return [(_AT_LEAST, 1, 0, low), *_deny(), (_GREATER, 0, 1, high), *_deny(), *code]
    middle = len(rules) // 2
    below, above = _search(rules[:middle]), _search(rules[middle:])
    return [(_AT_LEAST, 0, 1, rules[middle][0]), (_JUMP, 0, 0, len(below)), *below, *above]


def _socket(*, is_apart: bool) -> _Code:
    """Allow TCP over IP, and nothing that only looks like it, such as MPTCP; Unix sockets where the child has its own."""
    tcp = _when_equal(2, [0, _TCP], _ALLOW, _deny())
    stream = [_argument(1), (_AND, 0, 0, _TYPE_BITS), (_EQUAL, 1, 0, _STREAM), *_deny(), *tcp]
    families: _Code = [_argument(0)]
    if is_apart:
        families += [(_EQUAL, 0, 1, _UNIX), *_allow()]
    return [*families, (_EQUAL, 2, 0, _INET), (_EQUAL, 1, 0, _INET6), *_deny(), *stream]


def _when_bits(argument: int, bits: int, verdict: int, otherwise: _Code | None = None) -> _Code:
    return [_argument(argument), (_ANY_BIT, 0, 1, bits), _return(verdict), *(otherwise or _deny())]


def _when_equal(argument: int, values: list[int], verdict: int, otherwise: _Code) -> _Code:
    tests: _Code = []
    for value in values:
        tests += [(_EQUAL, 0, 1, value), _return(verdict)]
    return [_argument(argument), *tests, *otherwise]


def _load(offset: int) -> tuple[int, int, int, int]:
    return (_LOAD, 0, 0, offset)


def _argument(number: int) -> tuple[int, int, int, int]:
    """Load the lower half of an argument: all of it, for a number that the kernel takes as an int."""
    return _load(_ARGUMENTS + 8 * number)


def _return(verdict: int) -> tuple[int, int, int, int]:
    return (_RETURN, 0, 0, verdict)


def _allow() -> _Code:
    return [_return(_ALLOW)]


def _deny() -> _Code:
    return [_return(_NOT_PERMITTED)]
