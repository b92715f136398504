"""Runs the main job once: start everything, deploy the example, send a signed webhook, show its run."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import signal
import sys
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.tree import Tree

from deploy.shipped import shipped

EXAMPLE = shipped("examples/github-push")
# The whole chain takes milliseconds; a machine that is busy with its first start gets a minute.
CHAIN_WITHIN = 60.0
ASKED_EVERY = 0.1
START_WITHIN = 150.0
# The last rows of the chain: when they are searchable, so is all that came before.
LAST = {"run.succeeded", "event.routed"}


class DemoError(Exception):
    """The demonstration did not get to its end; one sentence names the place."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--once", is_flag=True, help="Stop everything after the webhook's run and exit.")
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="Data folder.")
@click.option("--unsafe", is_flag=True, help="Go on where runs cannot be isolated.")
def main(*, once: bool, data: Path, unsafe: bool) -> None:
    """Start Millrace, deploy the example workspace and send it a signed GitHub push."""
    sys.exit(asyncio.run(_demo(data, once=once, unsafe=unsafe)))


async def _demo(data: Path, *, once: bool, unsafe: bool) -> int:
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    options = ["--data", str(data), "--port", "0", *(["--unsafe"] if unsafe else [])]
    console.print("[bold]Starting[/] NATS, Postgres and the five services …")
    stack = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "deploy.local", *options, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        if not await _ready(stack, console):
            return await stack.wait()
        ready = json.loads((data / "ready.json").read_text())
        await _show(ready, console, stays=not once)
        if not once:
            console.print("\nRunning until Ctrl-C.")
            over = asyncio.create_task(stack.wait())
            await asyncio.wait([over, asyncio.create_task(stopped.wait())], return_when=asyncio.FIRST_COMPLETED)
    except (DemoError, aiohttp.ClientError, TimeoutError) as error:
        console.print(f"[red]{type(error).__name__}:[/] {error}")
        return 1
    finally:
        if stack.returncode is None:
            stack.terminate()
            await stack.wait()
    return 0


async def _ready(stack: asyncio.subprocess.Process, console: Console) -> bool:
    """Pass on the stack's output until it is ready; False when it ended instead."""
    assert stack.stdout is not None  # noqa: S101 - asked for above
    async with asyncio.timeout(START_WITHIN):
        while line := (await stack.stdout.readline()).decode():
            if line.startswith("ready "):
                return True
            console.print(line.rstrip(), markup=False)
    return False


class Client:
    """The HTTP API with the platform key."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def call(self, method: str, path: str, *, body: Any = None, data: bytes | None = None) -> Any:
        """Return the JSON answer. Raises `DemoError` with the problem's detail."""
        async with self._session.request(method, self._url + path, json=body, data=data) as response:
            answer = await response.json(content_type=None)
            if response.status >= 400:
                raise DemoError(f"{method} {path}: {answer.get('detail', response.status)}")
            return answer


async def _show(ready: dict[str, Any], console: Console, *, stays: bool) -> None:
    headers = {"Authorization": f"Bearer {ready['admin_key']}"}
    async with aiohttp.ClientSession(headers=headers) as session, aiohttp.ClientSession() as outside:
        client = Client(session, ready["url"])
        for file in sorted((EXAMPLE / "workflows").glob("*.py")):
            view = await client.call("PUT", f"/api/v1/workspace/files/workflows/{file.name}", data=file.read_bytes())
            for problem in view["problems"]:
                if problem["severity"] == "error":
                    raise DemoError(f"{file.name}: {problem['message']}")
            console.print(f"[bold]Deployed[/] workflows/{file.name}: {', '.join(view['workflows'])}")
        secret = secrets.token_urlsafe(24)
        source = {"adapter": "github", "settings": {"secret": secret}}
        address = (await client.call("PUT", "/api/v1/sources/example-repository", body=source))["url"]
        subscription = {"source": "example-repository", "event": "push", "workflow": "summarize-push"}
        await client.call("PUT", "/api/v1/subscriptions/example-push", body=subscription)
        body = (EXAMPLE / "push.json").read_bytes()
        delivery = await _send(outside, address, body, secret)
        console.print(f"[bold]Sent[/] a signed GitHub push to {address}: delivery {delivery}")
        run = await _run_of(client, delivery)
        console.print(f"[bold]Run[/] {run['id']} {run['status']} in {run['duration_ms']} ms, attempt {run['attempt']}:")
        console.print_json(json.dumps(run["result"] if run["status"] == "succeeded" else run["error"]))
        if run["status"] != "succeeded":
            raise DemoError(f"the run ended {run['status']}")
        rows = await _rows_of(client, run["correlation_id"])
        console.print(tree_of(rows))
        if not stays:
            return
        console.print(f"\n[bold]Address[/] {ready['url']}\n[bold]Key[/]     {ready['admin_key']}\n[bold]Try[/]")
        query = f"{ready['url']}/api/v1/logs?q=correlation_id:{run['correlation_id']}"
        console.print(f"  curl -s -H 'Authorization: Bearer {ready['admin_key']}' '{query}'", markup=False)


async def _send(session: aiohttp.ClientSession, address: str, body: bytes, secret: str) -> str:
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": str(uuid.uuid4()),
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    async with session.post(address, data=body, headers=headers) as response:
        answer = await response.json(content_type=None)
        if response.status != 202:
            raise DemoError(f"the webhook was answered {response.status}: {answer.get('detail')}")
        delivery: str = answer["id"]
        return delivery


async def _run_of(client: Client, delivery: str) -> dict[str, Any]:
    async with asyncio.timeout(CHAIN_WITHIN):
        while True:
            found = [one for one in (await client.call("GET", "/api/v1/deliveries"))["items"] if one["id"] == delivery]
            if found and found[0]["status"] in {"unroutable", "filtered", "dead"}:
                raise DemoError(f"the delivery is {found[0]['status']}: {found[0]['reason']}")
            if found and found[0]["runs"]:
                run: dict[str, Any] = await client.call("GET", f"/api/v1/runs/{found[0]['runs'][0]['id']}")
                if run["finished_at"] is not None:
                    return run
            await asyncio.sleep(ASKED_EVERY)


async def _rows_of(client: Client, correlation: str) -> list[dict[str, Any]]:
    path = f"/api/v1/logs?q=correlation_id:{correlation}&order=asc"
    async with asyncio.timeout(CHAIN_WITHIN):
        while True:
            rows: list[dict[str, Any]] = (await client.call("GET", path))["items"]
            if {row["type"] for row in rows} >= LAST:
                return rows
            await asyncio.sleep(ASKED_EVERY)


def tree_of(rows: list[dict[str, Any]]) -> Tree:
    """Return the rows of one chain as a tree by cause, with the milliseconds since the chain began and since the cause."""
    rows = sorted(rows, key=lambda row: row["time"])
    times = {row["id"]: datetime.fromisoformat(row["time"]) for row in rows}
    begin = min(times.values())
    root = Tree(f"[bold]{rows[0]['correlation_id']}[/]")
    places: dict[str, Tree] = {}
    for row in rows:
        parent = places.get(row["causation_id"] or "", root)
        since = (times[row["id"]] - begin).total_seconds() * 1000
        cause = times.get(row["causation_id"] or "")
        step = "" if cause is None else f"  [dim](+{(times[row['id']] - cause).total_seconds() * 1000:.1f} ms)[/]"
        places[row["id"]] = parent.add(f"{since:7.1f} ms  [cyan]{row['type']:16}[/] {row['message']}{step}")
    return root


if __name__ == "__main__":
    main(prog_name="millrace demo")
