"""Start a sandbox in throwaway namespaces, let runs attack it, and print what became of each.

    unshare --mount --pid --net --ipc --uts --fork --mount-proc \\
        sh -c '"$@"; exit $?' sh python -m tests.support.attacked KIND < attacks.json

The input maps a name to the text of a module whose `main(aims)` attacks and returns what it got; the output maps it to
`{status, reason, result, error}`. Never run outside of such namespaces: see `refuse_outside`.
"""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

from millrace._runtime.kernel import raise_loopback
from services.executor.sandbox.interface import Outcome
from services.executor.sandbox.process import ChildLimits
from tests.support.sandbox import Bench, Recorded, started_bench

PRELUDE = """
import ctypes, errno, os, socket, sys, time
LIBC = ctypes.CDLL(None, use_errno=True)
def syscall(*args):
    if LIBC.syscall(*[ctypes.c_long(one) if isinstance(one, int) else one for one in args]) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def through(attempts):
    found = []
    for name, attempt in attempts.items():
        try: attempt()
        except (OSError, MemoryError): continue
        found.append(name)
    return found
"""
SIBLING = """
import os, time
SECRET = "sibling" + "-secret"
@workflow
def main():
    os.environ["SIBLING"] = SECRET
    try: open("kept", "w").write(SECRET)
    except OSError: pass
    log.info("up")
    time.sleep(300)
"""


def refuse_outside() -> None:
    """End unless this is the child of a shell that is the first process of a PID namespace."""
    if os.getppid() != 1 or Path("/proc/1/comm").read_text().strip() != "sh":
        sys.exit("this is not a throwaway namespace")


def told(outcome: Outcome) -> dict[str, object]:
    result = None if outcome.result is None else json.loads(bytes(outcome.result))
    error = None if outcome.error is None else f"{outcome.error.type}: {outcome.error.message}"
    return {"status": outcome.status, "reason": outcome.reason, "result": result, "error": error}


async def main(kind: str, attacks: dict[str, str]) -> dict[str, object]:
    os.environ["MILLRACE_KEYS"] = "launcher-secret"
    os.environ["LD_PRELOAD"] = ""
    raise_loopback()
    inherited = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    found: dict[str, object] = {}
    async with started_bench(kind=kind, size=2, limits=ChildLimits(memory_mb=768, processes=64)) as bench:
        canary = bench.folder / "password"
        canary.write_text("database-secret")
        canary.chmod(0o644)
        with (
            socket.create_server(("127.0.0.1", 0)) as port,
            socket.socket(socket.AF_UNIX) as abstract,
            socket.socket(socket.AF_UNIX) as path,
        ):
            abstract.bind("\0attacked")
            path.bind(str(bench.folder / "socket"))
            (bench.folder / "socket").chmod(0o777)
            abstract.listen()
            path.listen()
            into = Recorded()
            sibling = asyncio.create_task(bench.children.run(bench.job(SIBLING, timeout=300), into))
            await into.logged.wait()
            aims = {
                "pid": os.getpid(),
                "sibling": next(iter(bench.children._serving)).pid,
                "zygote": bench.children._zygote.pid,  # type: ignore[union-attr]
                "file": str(canary),
                "other_bundle": str(bench.bundle(secret="SECRET = 1") / "secret.py"),
                "folder": str(bench.folder),
                "port": port.getsockname()[1],
                "sockets": [str(bench.folder / "socket"), "\0attacked"],
            }
            for name, text in attacks.items():
                found[name] = told(await _attacked(bench, text, aims))
            found["sibling lives"] = not sibling.done()
            found["file is whole"] = canary.read_text() == "database-secret"
            found["accepted"] = any(_has_connection(one) for one in (port, abstract, path))
            sibling.cancel()
            await asyncio.gather(sibling, return_exceptions=True)
    os.close(inherited)
    return found


async def _attacked(bench: Bench, text: str, aims: dict[str, object]) -> Outcome:
    job = bench.job(PRELUDE + text, timeout=20, aims=aims)
    return await bench.children.run(job, Recorded())


def _has_connection(listening: socket.socket) -> bool:
    listening.setblocking(False)
    try:
        listening.accept()[0].close()
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    refuse_outside()
    print(json.dumps(asyncio.run(main(sys.argv[1], json.load(sys.stdin)))))  # noqa: T201
