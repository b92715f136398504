"""The process in which expressions are evaluated: loads the engine, gives up every right, and answers until its socket ends.

Run as `python -I -S -B worker.py '{"paths": …}'` with a stream socket as standard input. Each way a frame is four bytes of length,
big end first, and MessagePack: first `{walls}`, then for each list of tasks `[kind, source, variables as JSON]` a list of answers
`[is_value, JSON of the value or the error, CPU seconds]`, fewer where the tasks take long. Begun tasks are counted in the
memory that `progress` names, from before the first byte of a task is looked at. A task over its time ends the process by SIGPROF.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.machinery
import importlib.util
import json
import mmap
import os
import resource
import signal
import struct
import sys
import time
import types
from collections import OrderedDict
from typing import Any

CHECK, EVALUATE = 0, 1

# Memory is allocated by and by, so that a call that is not on the list would be missed in the middle of an evaluation.
_CALLS = (
    "read", "write", "pread64", "close", "poll", "mmap", "munmap", "mremap", "mprotect", "madvise", "brk", "futex", "getrandom",
    "setitimer", "clock_gettime", "gettimeofday", "rt_sigreturn", "rt_sigprocmask", "sigaltstack", "gettid", "sched_yield",
    "restart_syscall", "exit", "exit_group",
)  # fmt: skip
# Compiled expressions that are kept: a program takes about two kilobytes a token.
_KEPT, _KEPT_CHARACTERS, _KEPT_LONGEST = 1024, 1 << 16, 512
_LONGEST_TROUBLE = 1000
# CPU seconds, after which a batch is answered as far as it has come: the next batch waits for it.
_BATCH = 0.02
# A process that has grown by so much more than it began with makes room for a new one.
_TIRED = 64 << 20


class Engine:
    """Compiles and evaluates, and keeps compiled programs."""

    def __init__(self, path: str, *, longest_value: int) -> None:
        """`path` is the library's own file: its package would load a command line with it, ten times its size."""
        import msgspec

        loader = importlib.machinery.ExtensionFileLoader("cel", path)
        spec = importlib.util.spec_from_loader("cel", loader)
        assert spec is not None  # noqa: S101 - it is made from a loader
        self._cel: Any = importlib.util.module_from_spec(spec)
        loader.exec_module(self._cel)
        self._decode = msgspec.json.Decoder().decode
        self._encode = msgspec.json.Encoder().encode
        self._longest_value = longest_value
        self._programs: OrderedDict[str, Any] = OrderedDict()
        self._characters = 0

    def answer(self, kind: int, source: str, variables: bytes) -> tuple[bool, bytes]:
        """Return whether it is a value, and the value as JSON or the error."""
        try:
            program = self.compiled(source)
            if kind == CHECK:
                return True, b"null"
            value = self._encode(program.execute(self._decode(variables)))
        # Every error that the library raises is the expression's; a panic of it is no Exception.
        except BaseException as error:
            return False, _description(error, with_name=kind == EVALUATE)
        if len(value) > self._longest_value:
            return False, f"its value is longer than {self._longest_value} bytes of JSON".encode()
        return True, value

    def compiled(self, source: str) -> Any:
        """Return the program of an expression. Raises ValueError, and the library's panics."""
        program = self._programs.get(source)
        if program is not None:
            self._programs.move_to_end(source)
            return program
        program = self._cel.compile(source)
        if len(source) <= _KEPT_LONGEST:
            self._programs[source] = program
            self._characters += len(source)
            while len(self._programs) > _KEPT or self._characters > _KEPT_CHARACTERS:
                self._characters -= len(self._programs.popitem(last=False)[0])
        return program


def _description(error: BaseException, *, with_name: bool) -> bytes:
    try:
        text = str(error) or "out of memory"
    except BaseException:
        text = ""
    return (f"{type(error).__name__}: {text}" if with_name else text)[:_LONGEST_TROUBLE].encode(errors="replace")


def confine(setting: dict[str, Any], null: int, sizes: int) -> list[str]:
    """Give up every right for good; returns which walls stand. No file, socket or process can be had after it."""
    kernel, landlock, seccomp = _pieces()
    walls = []
    kernel.prctl(kernel.NO_NEW_PRIVILEGES, 1)
    os.nice(setting["nice"])
    if os.geteuid() == 0:
        try:
            os.setgroups([])
            os.setresgid(*(setting["uid"],) * 3)
            os.setresuid(*(setting["uid"],) * 3)
            walls.append("user")
        except OSError:  # root of a user namespace that has no other user
            kernel.clear_capabilities()
    kernel.prctl(kernel.DUMPABLE, 0)
    # After the change of user, which clears it.
    kernel.prctl(kernel.DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != setting["parent"]:
        sys.exit("the service is gone")
    known = landlock.version()
    if known >= 1:
        landlock.Ruleset(known).enforce()
        walls.append("landlock")
    try:
        program = seccomp.only(_CALLS)
    except KeyError:  # an architecture without a table of calls: no descriptor can be had there all the same
        program = None
    for descriptor in (1, 2):  # a library's panic message helps no author
        os.dup2(null, descriptor)
    os.close(null)
    for limit, value in (
        (resource.RLIMIT_AS, _pages(sizes)[0] + setting["memory"]),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(limit, (value, value))
    walls.append("limits")
    if program is not None:
        program.load()
        walls.append("seccomp")
    return walls


def _pages(sizes: int) -> tuple[int, int]:
    """Return the bytes that this process spans, and those that it takes of the memory."""
    spanned, taken = os.pread(sizes, 64, 0).split()[:2]
    return int(spanned) * mmap.PAGESIZE, int(taken) * mmap.PAGESIZE


def _pieces() -> tuple[Any, Any, Any]:
    """Load the modules that raise walls, without the rest of the SDK, which is as large as all else here."""
    package = types.ModuleType("millrace")
    place = importlib.util.find_spec("millrace")
    assert place is not None and place.submodule_search_locations  # noqa: S101, PT018 - the service has found it there
    package.__path__ = list(place.submodule_search_locations)
    sys.modules["millrace"] = package
    from millrace._runtime import kernel, landlock, seccomp

    return kernel, landlock, seccomp


def serve(engine: Engine, progress: ctypes.c_uint64, seconds: float, sizes: int) -> None:
    """Answer frames from standard input until it ends, or until this process has grown too large."""
    import msgspec

    decode = msgspec.msgpack.Decoder(list[tuple[int, str, bytes]]).decode
    encode = msgspec.msgpack.Encoder().encode
    arm, clock = signal.setitimer, time.thread_time
    tired = _pages(sizes)[1] + _TIRED
    while True:
        head = _read(4)
        if len(head) < 4:
            return
        tasks = decode(_read(struct.unpack(">I", head)[0]))
        answers = []
        began = before = clock()
        for kind, source, variables in tasks:
            progress.value += 1
            arm(signal.ITIMER_PROF, seconds)
            is_value, answer = engine.answer(kind, source, variables)
            after = clock()
            answers.append((is_value, answer, after - before))
            before = after
            if after - began > _BATCH:
                break
        arm(signal.ITIMER_PROF, 0)
        _write(encode(answers))
        if _pages(sizes)[1] > tired:
            return


def _read(size: int) -> bytes:
    parts = []
    while size > 0:
        part = os.read(0, min(size, 1 << 20))
        if not part:
            break
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _write(body: bytes) -> None:
    frame = memoryview(struct.pack(">I", len(body)) + body)
    while frame:
        frame = frame[os.write(0, frame) :]


def main() -> None:
    """Become a worker. Returns when the service has closed its end."""
    setting = json.loads(sys.argv[1])
    sys.path += setting["paths"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the service, which ends its workers
    engine = Engine(setting["engine"], longest_value=setting["longest_value"])
    import msgspec

    # Load and allocate before the walls stand all that a first use would.
    engine.answer(EVALUATE, "a.b == 1 && 'c'.matches('c')", b'{"a":{"b":1}}')
    engine.answer(EVALUATE, "timestamp('2026-01-01T00:00:00Z') > a", b'{"a":{"b":')
    memory = mmap.mmap(setting["progress"], mmap.PAGESIZE)
    os.close(setting["progress"])
    progress = ctypes.c_uint64.from_buffer(memory)
    null = os.open(os.devnull, os.O_RDWR)
    sizes = os.open("/proc/self/statm", os.O_RDONLY)
    walls = confine(setting, null, sizes)
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles
    _write(msgspec.msgpack.encode({"walls": walls}))
    serve(engine, progress, setting["seconds"], sizes)


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)
    os._exit(0)
