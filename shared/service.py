"""One service process: settings, health, signals, and an order of starting and draining that is the same for all."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
import structlog
import uvloop

from shared import log, tasks, trace_settings
from shared.addresses import without_password
from shared.config import ConfigError, Environment
from shared.health import Health
from shared.health_server import HealthSettings, health_served
from shared.messages.shards import MOST, VARIABLE

_log = structlog.get_logger()
# Exit codes: 2 means that the configuration is wrong and that starting again will not help.
EXIT_FAILED = 1
# The objects of a message are freed by counting references; cycles are rare here, and Python's 700 objects are three webhooks.
COLLECTED_AFTER = (10_000, 20, 20)
EXIT_MISCONFIGURED = 2


class Background:
    """Tasks that live as long as the service; one that fails ends the service, so that it is started afresh."""

    def __init__(self, stop: Callable[[str], None]) -> None:
        self._stop = stop
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work` until the service ends."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.error("service.task_failed", task=task.get_name(), exc_info=error)
            self._stop(f"{task.get_name()} failed: {type(error).__name__}")

    async def cancel(self) -> None:
        """Cancel all and wait for them."""
        await tasks.end(self._tasks)


class Runtime(msgspec.Struct, frozen=True):
    """The parts that an app is given: health to report to, a place for background tasks, the log's way to the bus."""

    health: Health
    background: Background
    sink: log.BusSink
    leaving: list[Callable[[], Coroutine[Any, Any, None]]] = msgspec.field(default_factory=list)
    """Called in turn when the service is to stop, while all else goes on."""


App = Callable[[Any, Runtime], AbstractAsyncContextManager[None]]


def main(service: str, read: Callable[[Environment], Any], app: App) -> int:
    """Run a service until SIGTERM or SIGINT; returns the exit code."""
    environment = Environment()
    settings = read(environment)
    address, data = environment.optional("MILLRACE_HEALTH_ADDR"), environment.optional("MILLRACE_DATA")
    traces = trace_settings.read(environment)
    environment.integer(VARIABLE, 1, minimum=1, maximum=MOST)  # read before (`shared.messages.shards`)
    try:
        environment.check()
    except ConfigError as error:
        return _misconfigured(service, error)
    folder = None if data is None else Path(data)
    return uvloop.run(_serve(service, settings, app, HealthSettings(address), traces, folder))


def _misconfigured(service: str, error: ConfigError) -> int:
    for problem in error.problems:
        sys.stderr.write(f"millrace {service}: {problem.path} {problem.message}\n")
    return EXIT_MISCONFIGURED


def descriptors(wanted: int) -> int:
    """Have so many descriptors, if the system lets us; returns how many of them there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)


def room(folder: Path) -> dict[str, int]:
    """Return the room on the disk of a folder, in bytes; nothing where the folder is gone."""
    try:
        found = shutil.disk_usage(folder)
    except OSError:
        return {}
    return {"size_bytes": found.total, "free_bytes": found.free}


async def _serve(
    service: str,
    settings: Any,
    app: App,
    health_settings: HealthSettings,
    traces: trace_settings.TraceSettings | None,
    data: Path | None,
) -> int:
    sink = log.configure(service)
    health = Health(service)
    exporter = None if traces is None else _exporting(service, traces, health)
    health.state("log", lambda: {"dropped": sink.dropped, "level": log.level()}, counters=("dropped",))
    if data is not None:
        health.state("disk", lambda: room(data))
    stopping, begun = asyncio.Event(), asyncio.Event()
    failures: list[str] = []
    serving = asyncio.current_task()
    assert serving is not None  # noqa: S101 - this is one

    ending: list[asyncio.Task[None]] = []

    async def give_up_starting() -> None:
        # Background tasks end before the things that they use.
        await background.cancel()
        serving.cancel()

    def stop() -> None:
        stopping.set()
        if not begun.is_set():
            # A dependency of its start, such as a registry that was not prepared, may never come.
            begun.set()
            ending.append(asyncio.create_task(give_up_starting()))

    def fail(reason: str) -> None:
        failures.append(reason)
        stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    background = Background(fail)
    try:
        runtime = Runtime(health, background, sink)
        async with health_served(health, health_settings), app(settings, runtime):
            begun.set()
            health.started = True
            # Objects made at start-up live for ever: keep the collector from walking them again and again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*COLLECTED_AFTER)
            _log.info("service.started", pid=os.getpid())
            await stopping.wait()
            _log.info("service.stopping", reason=failures[0] if failures else "signal")
            health.started = False
            # Who asks whether this is ready learns of it before nothing more is taken.
            await asyncio.sleep(getattr(settings, "stop_delay", 0))
            for leave in () if failures else runtime.leaving:
                await leave()
            await background.cancel()
    except ConfigError as error:
        # What the broker has is another configuration.
        return _misconfigured(service, error)
    except (OSError, nats.errors.Error) as error:
        nats_url = getattr(settings, "nats_url", "")
        _log.error("service.cannot_start", reason=f"{type(error).__name__}: {error}", nats=without_password(nats_url))
        return EXIT_FAILED
    except asyncio.CancelledError:
        if not stopping.is_set():
            raise
        serving.uncancel()
        _log.info("service.stopped_while_starting", reason=failures[0] if failures else "signal")
    finally:
        await background.cancel()
        if exporter is not None:
            await asyncio.to_thread(exporter.close)
    return EXIT_FAILED if failures else 0


def _exporting(service: str, settings: trace_settings.TraceSettings, health: Health) -> Any:
    # A third of a second and 25 MB, which a process that does not trace need not have.
    from shared.exporting import Exporter

    exporter = Exporter(service, settings)
    exporter.start(health)
    return exporter
