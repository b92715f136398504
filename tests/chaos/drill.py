"""The frame of a drill: its common options, the installation that it disturbs, and what is done with its report."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import click
import msgspec
from rich.console import Console

from tests.chaos.clients import Tries, insist, paced
from tests.chaos.installation import DrillError, Installation, installed
from tests.chaos.place import end_in_order, executions_in, place_of
from tests.chaos.report import Report, document, page, table, written

# Each request in flight has a connection of its own: while the gateway is away, all of them wait.
DESCRIPTORS = 16_384
# Requests of `Site.post_each` that wait for their answers at a time.
AT_ONCE = 64

Command = TypeVar("Command", bound=Callable[..., None])


class Site:
    """Where a drill happens: an installation of its own in `place`, a `session` to it, and the file of `marks` of its workflows."""

    def __init__(self, place: Path, installation: Installation, session: aiohttp.ClientSession, console: Console) -> None:
        self.place = place
        self.installation = installation
        self.session = session
        self.marks = executions_in(place)
        self._console = console

    def print(self, sentence: str) -> None:
        """Print how far the drill is."""
        self._console.print(sentence, markup=False)

    def tell(self, what: str) -> None:
        """Print what is done, with the time of it."""
        self.print(f"{datetime.now(UTC):%H:%M:%S} {what}")

    async def call(self, method: str, path: str, *, body: Any = None, data: bytes | None = None) -> Any:
        """Return the API's answer. Raises `DrillError` when it is a refusal."""
        ready = self.installation.ready()
        async with self.session.request(method, ready["url"] + path, json=body, data=data, headers=_key(ready)) as response:
            answer = await response.json(content_type=None)
            if response.status >= 400:
                raise DrillError(f"{method} {path}: {response.status} {answer.get('detail')}")
            return answer

    async def get(self, path: str) -> dict[str, Any] | None:
        """Return the API's answer, or None when there is none now."""
        ready = self.installation.ready()
        try:
            async with self.session.get(
                ready["url"] + path, headers=_key(ready), timeout=aiohttp.ClientTimeout(total=5)
            ) as response:
                if response.status != 200:
                    return None
                found: dict[str, Any] = await response.json()
                return found
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def deploy(self, workflows: Path) -> None:
        """Put a file of workflows into the workspace. Raises `DrillError` when they do not load."""
        deployed = await self.call("PUT", f"/api/v1/workspace/files/{workflows.name}", data=workflows.read_bytes())
        if deployed["problems"]:
            raise DrillError(f"the drill's workflows do not load: {deployed['problems'][0]['message']}")

    async def post_each(self, rate: float, requests: Iterable[tuple[str, str, str, dict[str, Any]]]) -> dict[str, Any]:
        """Post bodies at a rate, each (name, idempotency key, path, body) until it is accepted; returns the answers by name.

        Raises `DrillError` for one that is not.
        """
        ready = self.installation.ready()
        places = asyncio.Semaphore(AT_ONCE)
        answers: dict[str, Any] = {}

        async def post(name: str, key: str, path: str, body: dict[str, Any]) -> None:
            headers = _key(ready) | {"Idempotency-Key": key}
            tries = Tries()
            async with places:
                sent = msgspec.json.encode(body)
                answer = await insist(self.session, ready["url"] + path, sent, headers, tries, also=frozenset({409}))
            if answer is None or answer.status != 202:
                raise DrillError(
                    f"{path} of {name} was not accepted: {tries.met if answer is None else answer.body[:200].decode()}"
                )
            answers[name] = msgspec.json.decode(answer.body)

        async with asyncio.TaskGroup() as group:
            async for one in paced(requests, rate):
                group.create_task(post(*one))
        return answers


Drill = Callable[[Site], Awaitable[Report]]


def options(quick: str) -> Callable[[Command], Command]:
    """Return the decorator for the options that every drill has; `quick` is the help of --quick."""

    def decorated(command: Command) -> Command:
        for option in (
            click.option("--keep", is_flag=True, help="Leave the installation's folder behind, with its logs."),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON line last."),
            click.option("--write", is_flag=True, help="Write the drill's part of docs/kill-matrix.md."),
            click.option("--quick", is_flag=True, help=quick),
        ):
            command = option(command)
        return command

    return decorated


def settling(default: float) -> Callable[[Command], Command]:
    """Return the decorator for how long nothing may be stored, at last, before what has not ended counts as stuck."""
    return click.option(
        "--settle",
        type=click.FloatRange(1),
        default=default,
        show_default=True,
        help="Seconds without anything new, at last, until what has not ended is called stuck.",
    )


def seeded(does: str) -> Callable[[Command], Command]:
    """Return the decorator for the seed, by which a drill `does` the same again; without one it is the time."""
    help_ = f"{does} again.  [default: the time]"
    return click.option("--seed", type=int, default=lambda: int(datetime.now(UTC).timestamp()), help=help_)


Start = Callable[[Path], AbstractAsyncContextManager[Installation]]


def carry_out(name: str, announced: str, drill: Drill, *, write: bool, as_json: bool, keep: bool, start: Start = installed) -> None:
    """Carry a drill out on what `start` starts, and exit: 0 when nothing was wrong, 1 otherwise, 143 after a SIGTERM."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))
    try:
        with place_of(name, keep=keep) as place:
            console.print(f"{announced}, in {place}")
            report = asyncio.run(_through(place, drill, console, start))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except DrillError as error:
        console.print(f"[red]chaos:[/] {error}")
        sys.exit(1)
    console.print(table(report))
    for remark in report.remarks():
        console.print(remark, markup=False)
    if write:
        console.print(f"written to {written(report.part, page(report))}")
    if as_json:
        click.echo(msgspec.json.encode(document(report)))
    sys.exit(0 if report.clean else 1)


async def _through(place: Path, drill: Drill, console: Console, start: Start) -> Report:
    end_in_order()
    # A client does not wait for other clients.
    connector = aiohttp.TCPConnector(limit=0)
    async with start(place) as installation, aiohttp.ClientSession(connector=connector) as session:
        return await drill(Site(place, installation, session, console))


def _key(ready: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {ready['admin_key']}"}
