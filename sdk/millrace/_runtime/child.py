"""A child's one job: wait for it, run the author's code, answer once, end."""

import asyncio
import atexit
import gc
import io
import json
import logging
import marshal
import os
import random
import resource
import signal
import socket
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

from millrace import _declare, _order, _run, _suspension
from millrace._binding import bind
from millrace._runtime import channel, compiling, describe, large, modules, muting, network, probe, root
from millrace._runtime.calling import call
from millrace._runtime.clock import Loop
from millrace._runtime.encode import to_json
from millrace._runtime.failure import error_frame
from millrace._runtime.rehearsal import rehearse
from millrace._runtime.staying import Stay
from millrace._runtime.stopping import DEFAULT, Stopping, set_handler
from millrace._runtime.walls import EGRESS, Walls

_REHEARSALS = 32
"""Times that the zygote goes through the motions of a run: code that has been run a few times is not rewritten by the next."""

_loops: list[asyncio.AbstractEventLoop] = []
"""The event loop of the run, if it has one."""

_REHEARSED = "rehearsed_run"

_ready: list[tuple[_suspension.Suspension, _order.Order]] = []
"""What the first run of a template's child begins with, unless it has a past."""
_at_exit = 0, 0
"""Calls that were registered for the end before a run, and handlers of logs."""

_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]

_SAMPLE = (
    b'{"kind":"run","module":"flows/one.py","function":"main","workflow":"main","input":{},"recorded":[],"waiting":[],"age":0.0}'
)
_NOTHING = marshal.dumps(compile("from millrace import workflow\n@workflow\ndef main():\n    return None\n", "nothing", "exec"))

_LAST_RESORT = b'{"kind":"error","type":"MemoryError","message":"no memory to say more","traceback":""}'


def prepared(descriptor: int) -> channel.Channel:
    """Make in the zygote the objects that all its children need: a child then shares their memory instead of filling its own.

    Answers the child's end of the control socket, which will be at `descriptor` by the time the child uses it.
    """
    for stream in (sys.stdout, sys.stderr):
        cast("io.TextIOWrapper", stream).reconfigure(line_buffering=True, errors="backslashreplace")
    global _at_exit  # noqa: PLW0603 - once, before any child
    _at_exit = _to_be_ended()
    for _ in range(_REHEARSALS):
        rehearse()
    _rehearse_runs()
    return channel.Channel(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor))


def _rehearse_runs() -> None:
    """Carry runs out as those of authors are; leaves all as it was, but for the code that does it."""
    ours, theirs = socket.socketpair()
    control = channel.Channel(theirs)
    bundle = os.path.dirname(__file__)
    stopping = Stopping(control, bundle)
    modules.read(_REHEARSED, bundle)
    job = {"kind": "run", "module": _REHEARSED, "input": {}, "recorded": [], "waiting": [], "age": 0.0}
    for _ in range(_REHEARSALS):
        for function in ("plain", "coroutine"):
            document = json.dumps({**job, "function": function, "workflow": function}).encode()
            ours.sendall(len(document).to_bytes(4, "big") + document)
            payload = _answer(_job(control.receive(), control), control, stopping, bundle)
            if not payload.startswith(b'{"kind":"result"'):
                raise RuntimeError(payload.decode())
            control.close_with(payload)
            control.reopen()
            ours.recv(len(payload) + 4, socket.MSG_WAITALL)
            sys.modules.pop(_REHEARSED, None)
    while _loops:
        _loops.pop().close()
    asyncio.set_event_loop(None)
    for one in (signal.SIGTERM, signal.SIGALRM):
        set_handler(one, DEFAULT)
    modules.forget()
    _declare.REGISTRY.clear()
    gc.disable()
    ours.close()
    theirs.close()


def serve(control: channel.Channel, walls: Walls, order: dict[str, Any]) -> None:
    """Serve the one job that comes on the control socket, and end the process. Does not return.

    Sends "placed" behind all walls, and waits for the job. Where the order names no place, it sends "ready" before, behind the
    walls that are the same for every job, and waits for a place. With its first frame goes the listening socket of the run's way
    out, where there is one.
    """
    control.open()
    try:
        listener = walls.enter(order)
    except OSError as error:
        sys.exit(f"{error}")
    way_out = None if listener is None else listener.detach()
    try:
        where = order["place"]
        if where is None:
            control.announce("ready", way_out)
            way_out = None
            where = json.loads(control.receive())
        bundle, packages = walls.close(where["bundle"], where["packages"])
        if not walls.builds:  # what is being built, and with what, is nothing to import
            sys.path.insert(0, bundle)
            if packages is not None:
                sys.path.append(packages)
        stopping = Stopping(control, bundle)
        stopping.open()
        stopping.listen()
        rehearse()
        random.seed()  # as `os.fork` has it done: else all children would draw the zygote's numbers
        control.announce("placed", way_out)
        # Only now: with this limit the kernel may refuse to hand the way out over, because of what other runs hand to themselves.
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["open_files"],) * 2)
    except EOFError:
        os._exit(0)
    except OSError as error:
        sys.exit(f"{error}")
    _serve(control, stopping, bundle, packages)


def expecting(control: channel.Channel) -> Stopping:
    """Do in a template what all its children need alike, of what `serve` does."""
    control.open()
    stopping = Stopping(control, root.WORKSPACE)
    stopping.open()
    stopping.listen()
    rehearse()
    network.use_proxy(EGRESS)
    _suspension.current, _order.current = _suspension.Suspension(), _order.Order()
    _ready.append((_suspension.current, _order.current))
    return stopping


def serve_placed(control: channel.Channel, stopping: Stopping) -> None:
    """Serve the one job that comes on the control socket in a child of a template, and end the process. Does not return."""
    _limber_up()
    _serve(control, stopping, root.WORKSPACE)


def _limber_up() -> None:
    """Carry out a run that does nothing, so that the memory which this takes is copied before the job is there."""
    job = _parsed(_SAMPLE)
    sys.modules["nothing"] = nothing = ModuleType("nothing")
    exec(modules.code(_NOTHING, describe.dotted(job["module"])), nothing.__dict__)  # noqa: S102 - the text above
    function = _declare.REGISTRY.pop().function
    args, kwargs = bind(function, job["input"])
    to_json(function(*args, **kwargs), what="nothing", rich=True)
    del sys.modules["nothing"]


def _serve(control: channel.Channel, stopping: Stopping, bundle: str, packages: str | None = None) -> None:
    out, err = cast("io.TextIOWrapper", sys.stdout), cast("io.TextIOWrapper", sys.stderr)
    stay = None
    try:
        document = control.receive()
    except (EOFError, OSError):
        os._exit(0)
    is_fork = document.startswith(b'{"kind":"preload"')
    if is_fork:
        from millrace._runtime import preloading  # no other child has a use for it

        document = preloading.stand_by(control, _parsed(document), bundle, sys.path[-1])
        stopping.listen()
    born = os.getpid()
    while True:
        try:
            channel.current = control
            job = _job(document, control)
            if stay is None and job.get("stays"):
                stay = Stay()
            payload = _answer(job, control, stopping, bundle, packages)
        except BaseException:
            payload, stay = _LAST_RESORT, None
        if os.getpid() != born:
            os._exit(1)  # a process that the author forked came back through here: it may not answer
        for stream in (out, err):
            try:
                io.TextIOWrapper.flush(stream)
            except (OSError, ValueError):
                continue
        control.close_with(payload)
        if stay is None or stopping.asked or not stay.is_clean(control.threads, _loops):
            break
        try:
            stay.put_back()
            stopping.listen()
            document = control.next_job()
        except (OSError, EOFError):
            break
    if is_fork:
        preloading.leave(control)
    control.wait_for_end()
    os._exit(0)


def _job(document: bytes, control: channel.Channel) -> dict[str, Any]:
    job: dict[str, Any] = _parsed(document)
    if job["kind"] == "network":
        network.use_proxy(job["proxy"])
        job = _parsed(control.job())
    return job


def _parsed(document: bytes) -> Any:
    """Decode a frame of the supervisor's, which is JSON without a space around it, with less on the way than `json.loads` has."""
    return _scan(document.decode(), 0)[0]


def _answer(job: dict[str, Any], control: channel.Channel, stopping: Stopping, bundle: str, packages: str | None = None) -> bytes:
    gc.enable()
    try:
        if job["kind"] == "probe":
            return b'{"kind":"result","result":' + to_json(probe.holes(job["targets"]), what="the probe").encode() + b"}"
        if job["kind"] == "build":
            from millrace._runtime import building  # nothing of it is for runs, which are forked from the same process

            return b'{"kind":"result","result":' + to_json(building.done(bundle, job, packages), what="the step").encode() + b"}"
        if job["kind"] == "compile":
            done = compiling.compiled(bundle, job["paths"])
            return b'{"kind":"result","result":' + to_json(done, what="the bytecode", limit=None).encode() + b"}"
        if job["kind"] == "describe":
            found = describe.describe(
                bundle,
                job.get("served"),
                job["patience"],
                lambda path: control.send({"kind": "importing", "path": path}),
                only=job["only"],
                without=job["without"],
            )
            return to_json(found, what="the description").encode()
        result = _call(job, stopping, bundle)
        text = None if large.may_be_large() else to_json(result, what="the result", rich=True, limit=None)
        data = None if text is None else text.encode()
        size = large.size(result, what="the result") if data is None else len(data)
        if _to_be_ended() != _at_exit:  # the run has added one
            atexit._run_exitfuncs()  # os._exit would skip them; their exceptions go to standard error
        stopping.silence()
        if size > large.INLINE:
            return _in_parts(result, text, size, control)
        if data is None:
            data = "".join(large.pieces(result, what="the result")).encode()
        return b'{"kind":"result","result":' + data + b"}"
    except BaseException as error:
        stopping.silence()
        return to_json(error_frame(error, bundle), what="the error").encode()
    finally:
        if (exchange := sys.modules.get("millrace._runtime.exchange")) is not None:
            exchange.close()


def _to_be_ended() -> tuple[int, int]:
    """Answer how many calls are registered for the end, and how many handlers of logs there are to be flushed by one of them."""
    return atexit._ncallbacks(), len(logging._handlerList)  # type: ignore[attr-defined]


def _in_parts(result: object, text: str | None, size: int, control: channel.Channel) -> bytes:
    """Send a result that is too large for one frame; return the terminal frame, which gives its size."""
    if size <= large.LARGEST:
        size = 0
        for part in large.parts(large.pieces(result, what="the result") if text is None else iter((text,))):
            size += len(part.encode())  # counted anew: a thread that the author left may have changed it
            control.send({"kind": "result_part", "text": part})
    return b'{"kind":"result_end","bytes":%d}' % size


def _call(job: dict[str, Any], stopping: Stopping, bundle: str) -> object:
    if _ready and not job["recorded"] and not job["waiting"]:
        _suspension.current, order = _ready.pop()
    else:
        _suspension.current, order = _suspension.Suspension(), _order.Order(job["recorded"], job["waiting"])
    _order.current = order
    _run.job = job
    if not order.is_replay:
        return _returned(job, stopping, bundle, order)
    with muting.lines() as order.lives:
        return _returned(job, stopping, bundle, order)


def _returned(job: dict[str, Any], stopping: Stopping, bundle: str, order: _order.Order) -> object:
    """Call the job's function and return its value."""
    function = _found(job, bundle)
    args, kwargs = bind(function, job["input"])

    def began(task: "asyncio.Task[Any]") -> None:  # a text: else each run would make the type anew
        order.attend(task)
        stopping.attend(task)

    result = call(function, args, kwargs, lambda: _new_loop(job["age"]), began)
    order.check_end()
    return result


def _new_loop(age: float) -> asyncio.AbstractEventLoop:
    """Make a loop, once it is sure that there is use for one: a hundred pages of memory are copied by it."""
    loop = Loop(age)
    asyncio.set_event_loop(loop)
    _loops.append(loop)
    return loop


def _found(job: dict[str, Any], bundle: str) -> Callable[..., Any]:
    name = describe.dotted(job["module"])
    module = modules.imported(name)
    if not describe.is_file_of(module, bundle):
        msg = f"{job['module']} of the workspace is hidden by a module of Python's own with the same name"
        raise ImportError(msg)
    found = None
    for one in _declare.REGISTRY:
        if name in (one.module, one.function.__module__) and one.function.__qualname__ == job["function"]:
            found = one
            if one.name == job["workflow"]:
                break
    if found is None:
        msg = f"{job['module']} declares no workflow function {job['function']}"
        raise LookupError(msg)
    return found.function
