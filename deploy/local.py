"""`python -m deploy.local`, which is `millrace up`: the whole stack on one machine, in the foreground."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from deploy.credentials import Credentials, load_or_create
from deploy.errors import SandboxMissing, StartError
from deploy.files import write_private
from deploy.folder import DataFolder, claim, end_orphans, run_folder, running_version
from deploy.stack import Options, Stack, local_url

OLDEST_PYTHON = (3, 11)
# Connections that wait while a gateway is started again; the kernel cuts this to its own limit.
BACKLOG = 4096


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ready.json: the addresses of a stack that is up."""

    version: str
    url: str
    admin_key: str
    nats_url: str
    database_url: str
    nats_pid: int | None
    postgres_pid: int | None
    pid: int
    services: dict[str, int | None]
    # Of each gateway, and the processes of the stores, by name.
    urls: list[str] = []
    stores: dict[str, int | None] = {}


@click.command(name="up", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", type=click.Path(path_type=Path), default=Path(".millrace"), show_default=True, help="The data folder.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8420, show_default=True, help="The port; 0 picks a free one.")
@click.option("--public-url", help="The address under which senders of webhooks reach this.")
@click.option("--nats", help="Administrator URL of a NATS server to use instead of the embedded one.")
@click.option("--postgres", help="Administrator URL of a Postgres database to use instead of the embedded one.")
@click.option("--cluster", is_flag=True, help="Three NATS servers, Postgres with a standby, and two processes of each service.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 16),
    help="Processes of each service, each gateway at a port; 2 with --cluster, else 1.",
)
@click.option(
    "--nats-replicas",
    "copies",
    type=click.IntRange(1, 5),
    envvar="MILLRACE_NATS_REPLICAS",
    help="Copies of each stream; unless given 3 where NATS is a cluster, else 1.",
)
@click.option("--unsafe", is_flag=True, help="Run workflows even where no sandbox is available.")
def main(*, data: Path, host: str, port: int, cluster: bool, replicas: int | None, **chosen: Any) -> None:
    """Start everything on this machine and keep it running until SIGINT or SIGTERM."""
    options = Options(cluster=cluster, replicas=replicas or (2 if cluster else 1), **chosen)
    try:
        if sys.version_info < OLDEST_PYTHON:
            message = f"Millrace needs Python {'.'.join(map(str, OLDEST_PYTHON))} or later."
            raise StartError(message)
        asyncio.run(up(data, host, port, options))
    except StartError as error:
        click.echo(f"millrace up: {error}", err=True)
        sys.exit(3 if isinstance(error, SandboxMissing) else 2)


async def up(data: Path, host: str, port: int, options: Options) -> None:
    """Run the stack until a signal; StartError when it cannot start. No process and no ready.json is left afterwards."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with ExitStack() as held:
        folder = held.enter_context(claim(data))
        folder.ready.unlink(missing_ok=True)
        await end_orphans(folder)
        check_kind(folder, options)
        # Of several gateways the first is at the port asked for, and each other one at the next.
        ports = [port + number if port else 0 for number in range(options.replicas)]
        listening = [held.enter_context(listen(host, one)) for one in ports]
        urls = [local_url(one) for one in listening]
        credentials = _credentials(folder)
        if not folder.last_backup.exists():
            folder.last_backup.touch(0o600)
        sockets = held.enter_context(run_folder(folder))

        def changed() -> None:
            tell(folder, stack)
            if folder.ready.exists():
                announce(folder, stack, credentials, urls)

        stack = Stack(
            folder=folder, sockets=sockets, credentials=credentials, listening=listening, options=options, changed=changed
        )
        try:
            await _run(stack, folder, credentials, urls, stop)
        finally:
            folder.ready.unlink(missing_ok=True)
            await stack.stop()
            folder.states.unlink(missing_ok=True)


async def _run(stack: Stack, folder: DataFolder, credentials: Credentials, urls: list[str], stop: asyncio.Event) -> None:
    starting = asyncio.create_task(stack.start(), name="start")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        health = starting.result()
        announce(folder, stack, credentials, urls)
        for warning in stack.warnings:
            click.echo(f"WARNING: {warning}", err=True)
        sandbox = health["executor"].get("sandbox")
        if isinstance(sandbox, dict) and sandbox.get("tier") == "none":
            click.echo("WARNING: RUNS ARE NOT ISOLATED (--unsafe): workflows can do whatever their user can do.", err=True)
            for tier, reason in sandbox.get("refused", {}).items():
                click.echo(f"  tier {tier}: {reason}", err=True)
        click.echo(f"address and administrator key: {folder.ready}")
        click.echo("the first person to sign in is invited by: millrace users invite --org global --role admin")
        if len(urls) > 1:
            click.echo(f"{stack.copies} of each stream; gateways at {' and '.join(urls)}")
        click.echo(f"ready {urls[0]}")
        await stop.wait()
    finally:
        for task in (starting, stopped):
            task.cancel()
        await asyncio.gather(starting, stopped, return_exceptions=True)


def check_kind(folder: DataFolder, options: Options) -> None:
    """Raise StartError for a folder whose stores are a cluster's and which is started without one, and the other way round."""
    single, cluster = ((folder.path / name).exists() for name in ("nats", "nats-1"))
    if options.cluster and (options.nats or options.postgres):
        raise StartError(
            "--cluster brings servers of its own: give no --nats and no --postgres with it (--replicas goes with both)."
        )
    if single and options.cluster:
        raise StartError(
            f"{folder.path} holds data of one broker and one database: start it without --cluster, or `millrace backup` it and "
            "fill servers of your own from the backup."
        )
    if cluster and not options.cluster:
        raise StartError(f"{folder.path} holds data of a cluster: start it with --cluster.")


def announce(folder: DataFolder, stack: Stack, credentials: Credentials, urls: list[str]) -> None:
    """Write ready.json as the stack is now."""
    ready = Ready(
        version=running_version(),
        url=urls[0],
        urls=urls,
        stores={name: state.pid for name, state in stack.stores.states.items()},
        admin_key=credentials.admin_key,
        nats_url=stack.stores.nats_url,
        database_url=stack.stores.database_url,
        nats_pid=stack.stores.nats_pid,
        postgres_pid=stack.stores.postgres_pid,
        pid=os.getpid(),
        services=stack.service_pids,
    )
    write_private(folder.ready, msgspec.json.format(msgspec.json.encode(ready)) + b"\n")


def tell(folder: DataFolder, stack: Stack) -> None:
    """Write how every process is and which die again and again, also while `up` is not ready yet; the gateway shows it."""
    failing = [name for name, state in stack.states.items() if state.is_failing]
    told = msgspec.json.encode({"pid": os.getpid(), "processes": stack.states, "failing": failing})
    write_private(folder.states, msgspec.json.format(told) + b"\n")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; StartError when the address is not this machine's or the port is taken."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        message = f"The address {host} is not known here: {error.strerror}; give another one with --host."
        raise StartError(message) from error
    listening = socket.socket(found[0], socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        message = f"Cannot listen on {host} port {port}: {error.strerror}; choose another one with --port (0 picks a free one)."
        raise StartError(message) from error
    listening.setblocking(False)  # noqa: FBT003
    return listening


def _credentials(folder: DataFolder) -> Credentials:
    """Read or make the secrets; new ones for an old cluster would lock it for good, so that is refused."""
    if not folder.credentials.exists() and any(folder.path.glob("postgres*/data")):
        message = f"{folder.credentials} is missing although {folder.path} holds data: put it back from a backup."
        raise StartError(message)
    return load_or_create(folder.credentials, os.environ.get("MILLRACE_ADMIN_KEY") or None)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(prog_name="millrace up")
