"""Three real NATS servers in one cluster, for the races that only replicated streams have."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.broker import binary
from deploy.nats_cluster import held_ports
from deploy.permissions import ACCOUNT, users
from deploy.prepare import prepare_broker
from tests.support.servers import test_credentials

NODES = 3
# Election and catching up of three servers on two cores that do other things too.
FORMS_WITHIN = 60.0


class Cluster:
    """Addresses of a running cluster, by node and user."""

    def __init__(self, ports: list[int], passwords: dict[str, str]) -> None:
        self._ports = ports
        self._passwords = passwords

    def url(self, user: str, node: int = 0) -> str:
        """Return a node's address for a service or for `admin`."""
        return f"nats://{user}:{self._passwords[user]}@127.0.0.1:{self._ports[node]}"


@asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Run three nodes with every stream on all three, for the block."""
    credentials = test_credentials()
    passwords = {"admin": credentials.nats_admin, **credentials.nats}
    processes: list[asyncio.subprocess.Process] = []
    stack = contextlib.ExitStack()
    ports = stack.enter_context(held_ports(2 * NODES))
    clients, routes = ports[:NODES], ports[NODES:]
    try:
        for node in range(NODES):
            config = folder / f"node-{node}.conf"
            peers = [f"nats://127.0.0.1:{port}" for port in routes]
            await asyncio.to_thread(
                config.write_text,
                f"server_name: n{node}\nlisten: 127.0.0.1:{clients[node]}\nmax_payload: 2097152\n"
                f"jetstream {{ store_dir: {json.dumps(str(folder / f'data-{node}'))}, sync_interval: always }}\n"
                f"cluster {{ name: test, listen: 127.0.0.1:{routes[node]}, routes: {json.dumps(peers)} }}\n"
                f"accounts {{ {ACCOUNT}: {{ jetstream: enabled, users: {json.dumps(users(credentials))} }} }}\n",
            )
            processes.append(
                await asyncio.create_subprocess_exec(
                    str(binary()), "-c", str(config), "-l", str(folder / f"node-{node}.log"), stderr=asyncio.subprocess.DEVNULL
                )
            )
        cluster = Cluster(clients, passwords)
        async with asyncio.timeout(FORMS_WITHIN):
            while True:
                try:
                    await prepare_broker(cluster.url("admin"), replicas=NODES)
                    break
                except Exception:
                    await asyncio.sleep(0.5)
        yield cluster
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        stack.close()
