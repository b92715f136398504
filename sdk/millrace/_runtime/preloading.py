"""A process that has imported the packages of a workflow, and is forked for each of its runs.

Importing a package is executing somebody's code, so it happens behind all walls of a run, in a process that serves one
organization, one version of its code and one module. The process executes nothing of the bundle. From the import on it is trusted
no more than any run: it holds nothing but the control socket, and the supervisor looks for itself whether the last run is gone.

One run goes on at a time. It is a fork, which shares the namespaces, the scratch folder, which is emptied after it, and what the
packages made when they were imported; nothing that it does to its memory reaches the next. What may not be there for forking is
looked for after the import: a second thread, of Python or not, an open file or socket, shared memory, another process.
"""

import gc
import importlib
import json
import os
import random
import re
import resource
import select
import signal
import sys
from typing import Any

from millrace._runtime import describe, kernel, network, standard
from millrace._runtime.channel import Channel
from millrace._runtime.rehearsal import rehearse
from millrace._runtime.staying import Stay
from millrace._runtime.stopping import DEFAULT, set_handler
from millrace._runtime.walls import EGRESS

ORDERLY = 113
"""The exit code of a run that has answered."""
_TERM, _ALARM = int(signal.SIGTERM), int(signal.SIGALRM)
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1"}
"""A run has one core, and these libraries start threads for more as soon as they are loaded."""
_SHARED = re.compile(r"^VmFlags:.* sh\b", re.MULTILINE)
"""A mapping that can be written to for others to see, now or once it is asked for; not one of a file that is only read."""

_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def stand_by(control: Channel, job: dict[str, Any], bundle: str, packages: str) -> bytes:
    """Import the packages that a module of the bundle names, and wait for its runs; returns in each, a fork, with its job."""
    network.use_proxy(EGRESS)
    files = _files()
    environment = {**os.environ}
    os.environ.update(_ONE_THREAD)
    loaded = _load(job["module"], bundle, packages)
    for name in _ONE_THREAD:
        os.environ.pop(name, None)
    os.environ.update(environment)
    problem = _problem(files)
    told = json.dumps({"loaded": loaded[:100], "problem": problem, "proxy": EGRESS}).encode()
    control.close_with(b'{"kind":"result","result":%b}' % told)
    if problem is not None:
        control.wait_for_end()
        os._exit(0)
    kernel.prctl(kernel.DUMPABLE, 0)
    gc.collect()
    gc.disable()
    gc.freeze()
    stay = Stay()
    stay.put_back()
    bounds = _bounds()
    while True:
        _until_released(control)
        control.reopen()
        control.is_forking = True
        run = os.fork()  # ahead of the job, which would wait for it
        if run == 0:
            control.is_forking = False
            return _job(control)
        control.is_forking = False
        _tend(run)
        stay.put_back()
        if _bounds() != bounds:
            os._exit(0)


def _job(control: Channel) -> bytes:
    """Wait in a fork for its job."""
    set_handler(_TERM, DEFAULT)
    _draw_anew()
    rehearse()
    try:
        control.announce("again")
        return control.receive()
    except (EOFError, OSError):
        os._exit(0)


def leave(control: Channel) -> None:
    """End a run that has answered, once the supervisor has measured it."""
    waits = select.poll()
    waits.register(control.fileno(), select.POLLIN)
    waits.poll()
    os._exit(ORDERLY)


def _load(module: str, bundle: str, packages: str) -> list[str]:
    path = list(sys.path)
    sys.path[:] = [one for one in path if one != bundle]
    loaded = []
    try:
        for name in sorted(standard.StandardModules(bundle).named(describe.dotted(module))):
            if name.partition(".")[0] in standard.names_in(bundle) or name.partition(".")[0] not in standard.names_in(packages):
                continue
            try:
                importlib.import_module(name)
            except Exception:  # noqa: S112 - a name in a module, or a package that does not work: the run will see
                continue
            loaded.append(name)
    finally:
        sys.path[:] = path
    return loaded


def _problem(files: dict[str, str]) -> str | None:
    """Answer what is there that must not be in a process that is forked; `files` were open before."""
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        return f"importing the packages has started {threads - 1} threads"
    now = _files()
    more = now.items() - files.items()
    if more:
        return f"importing the packages has left {len(more)} files or sockets open"
    if len(now) < len(files):
        return f"importing the packages has closed {len(files) - len(now)} files of its process"
    if any(signal.getitimer(one)[0] for one in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)):
        return "importing the packages has set a timer"
    with open("/proc/self/smaps", encoding="utf-8", errors="replace") as maps:
        if _SHARED.search(maps.read()) is not None:
            return "importing the packages has made memory that forks would share"
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return "importing the packages has started a process"


def _until_released(control: Channel) -> None:
    """Read what was still sent to the last run, up to the supervisor's word that it is over."""
    try:
        while json.loads(control.receive()).get("kind") != "release":
            pass
    except (EOFError, OSError, ValueError, AttributeError):
        os._exit(0)


def _tend(run: int) -> None:
    """Wait for the end of a run, and end all that it has left; ends as the run did where that has not answered."""
    set_handler(_TERM, lambda _signal, _frame: os.kill(run, signal.SIGTERM))
    set_handler(_ALARM, DEFAULT)
    _, status = os.waitpid(run, 0)
    set_handler(_TERM, DEFAULT)
    code = os.waitstatus_to_exitcode(status)
    if code != ORDERLY:
        os._exit(code if code >= 0 else 128 - code)
    try:
        os.kill(-1, signal.SIGKILL)  # the first process of a namespace reaches all others of it, and not itself
    except ProcessLookupError:
        return
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def _files() -> dict[str, str]:
    """Answer what each descriptor stands for."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the one by which they were listed
            continue
    return found


def _bounds() -> tuple[object, ...]:
    """Answer what forks inherit, and other processes, or packages that are called at a fork, can change."""
    limits = [resource.getrlimit(one) for one in _LIMITS]
    threads = len(os.listdir("/proc/self/task"))
    return limits, threads, _files(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), os.sched_getscheduler(0)


def _draw_anew() -> None:
    """Have the fork draw random numbers of its own."""
    random.seed()
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
