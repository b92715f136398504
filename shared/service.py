"""One service process: settings, health, signals, and an order of starting and draining that is the same for all."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
import nats.errors
import structlog
import uvloop
from aiohttp import web

from shared import log, tasks
from shared.bus import without_password
from shared.config import ConfigError, Environment
from shared.envelope import rfc3339, utc_now

_log = structlog.get_logger()
# Exit codes: 2 says that the configuration is wrong and that starting again will not help.
EXIT_FAILED = 1
# What a message makes is freed by counting references; cycles are rare here, and Python's 700 objects are three webhooks.
COLLECTED_AFTER = (10_000, 20, 20)
EXIT_MISCONFIGURED = 2


class Health:
    """What is well and what is not, by part; a part that was never reported counts as not ready only if it was expected."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._parts: dict[str, str | None] = {}
        self._since: dict[str, str] = {}
        self._facts: dict[str, Any] = {}
        self.started = False

    @property
    def started(self) -> bool:
        """Whether the service has started, and is not stopping yet."""
        return self._started

    @started.setter
    def started(self, value: bool) -> None:
        self._started = value
        self._turned = rfc3339(utc_now())

    def report(self, part: str, problem: str | None) -> None:
        """Say what is wrong with `part`, or None when it is well."""
        self._parts[part] = problem
        if problem is None:
            self._since.pop(part, None)
        else:
            self._since.setdefault(part, rfc3339(utc_now()))

    def problem(self, part: str) -> str | None:
        """Return what is wrong with `part`; None where nothing is, or nothing is known."""
        return self._parts.get(part)

    def state(self, name: str, value: Any) -> None:
        """Publish a fact in `/readyz`, such as the sandbox's tier; a function is called for each answer.

        The numbers in a fact with fields are gauges in `/metrics`, and those in a field with fields as well, by the label `of`.
        """
        self._facts[name] = value

    @property
    def ready(self) -> bool:
        """Return whether the service has started and every part is well."""
        return self.started and all(problem is None for problem in self._parts.values())

    def document(self) -> dict[str, Any]:
        """Return the answer of `/readyz`; `since` of a part is when it ceased to be well (RFC 3339)."""
        parts = {
            part: {"ready": problem is None, "detail": problem, "since": self._since.get(part)}
            for part, problem in sorted(self._parts.items())
        }
        if not self.started:
            parts["start"] = {"ready": False, "detail": "starting or stopping", "since": self._turned}
        facts = {name: value() if callable(value) else value for name, value in self._facts.items()}
        return {"service": self.service, "ready": self.ready, "parts": parts, **facts}


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
    """What an app is given: health to report to, a place for background tasks, the log's way to the bus."""

    health: Health
    background: Background
    sink: log.BusSink


class HealthSettings(msgspec.Struct, frozen=True):
    """Where this process answers `/healthz`, `/readyz` and `/metrics`: `host:port` or `unix:PATH`; None: nowhere."""

    address: str | None


App = Callable[[Any, Runtime], AbstractAsyncContextManager[None]]


def main(service: str, read: Callable[[Environment], Any], app: App) -> int:
    """Run a service until SIGTERM or SIGINT; returns the exit code."""
    environment = Environment()
    settings = read(environment)
    address = environment.optional("MILLRACE_HEALTH_ADDR")
    try:
        environment.check()
    except ConfigError as error:
        for problem in error.problems:
            sys.stderr.write(f"millrace {service}: {problem.path} {problem.message}\n")
        return EXIT_MISCONFIGURED
    return uvloop.run(_serve(service, settings, app, HealthSettings(address)))


async def _serve(service: str, settings: Any, app: App, health_settings: HealthSettings) -> int:
    sink = log.configure(service)
    health = Health(service)
    stopping, begun = asyncio.Event(), asyncio.Event()
    failures: list[str] = []
    serving = asyncio.current_task()
    assert serving is not None  # noqa: S101 - this is one

    ending: list[asyncio.Task[None]] = []

    async def give_up_starting() -> None:
        # What works in the background ends before what it works with.
        await background.cancel()
        serving.cancel()

    def stop() -> None:
        stopping.set()
        if not begun.is_set():
            # What it waits for to start, such as a registry that nobody has made, may never come.
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
        async with _health_server(health, health_settings), app(settings, Runtime(health, background, sink)):
            begun.set()
            health.started = True
            # What start-up made lives for ever: keep the collector from walking it again and again.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*COLLECTED_AFTER)
            _log.info("service.started", pid=os.getpid())
            await stopping.wait()
            _log.info("service.stopping", reason=failures[0] if failures else "signal")
            health.started = False
            await background.cancel()
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
    return EXIT_FAILED if failures else 0


@contextlib.asynccontextmanager
async def _health_server(health: Health, settings: HealthSettings) -> AsyncIterator[None]:
    if settings.address is None:
        yield
        return
    application = web.Application()
    application.add_routes(
        [web.get("/healthz", _alive), web.get("/readyz", _ready_answer(health)), web.get("/metrics", _metrics(health))]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await _site(runner, settings.address).start()
        yield
    finally:
        await runner.cleanup()


def _site(runner: web.AppRunner, address: str) -> web.BaseSite:
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - a socket left by a killed predecessor
        return web.UnixSite(runner, path)
    host, _, port = address.rpartition(":")
    return web.TCPSite(runner, host or "127.0.0.1", int(port))


async def _alive(_request: web.Request) -> web.Response:
    return web.json_response({"alive": True})


def _ready_answer(health: Health) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def ready(_request: web.Request) -> web.Response:
        return web.json_response(health.document(), status=200 if health.ready else 503)

    return ready


def _metrics(health: Health) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def metrics(_request: web.Request) -> web.Response:
        document = health.document()
        lines = [
            "# TYPE millrace_part_ready gauge",
            *(
                f'millrace_part_ready{{service="{health.service}",part="{part}"}} {int(state["ready"])}'
                for part, state in document.pop("parts").items()
            ),
        ]
        for fact, fields in document.items():
            for name, number in fields.items() if isinstance(fields, dict) else ():
                gauge = f"millrace_{fact}_{name}"
                values = {of: one for of, one in number.items() if isinstance(one, int | float)} if isinstance(number, dict) else {}
                if isinstance(number, int | float):
                    lines += [f"# TYPE {gauge} gauge", f'{gauge}{{service="{health.service}"}} {number}']
                elif values:
                    lines.append(f"# TYPE {gauge} gauge")
                    lines += [f'{gauge}{{service="{health.service}",of={json.dumps(of)}}} {one}' for of, one in values.items()]
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    return metrics
