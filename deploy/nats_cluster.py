"""Three NATS servers of one installation, each message on all of them: any one may be away."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import quote

from deploy.broker import ADMIN, EmbeddedNats
from deploy.concurrency import together
from deploy.credentials import Credentials
from deploy.folder import DataFolder
from deploy.permissions import nats_config
from deploy.supervise import Supervised

NODES = (1, 2, 3)
CLUSTER = "millrace"


class NatsCluster:
    """The servers, kept running from `start` to `stop`; their ports stay the same over restarts of each."""

    def __init__(
        self,
        *,
        folder: DataFolder,
        credentials: Credentials,
        sync_interval: str = "always",
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Start nothing yet. StartError when there is no usable server."""
        self._credentials = credentials
        self._sync_interval = sync_interval
        self._routes: list[int] = []
        self._held = contextlib.ExitStack()
        self._nodes = [
            EmbeddedNats(
                folder=folder.own(f"nats-{node}"),
                pidfile=folder.pidfiles / f"nats-{node}.pid",
                log=folder.logs / f"nats-{node}.log",
                config=partial(self._config, node),
                password=credentials.nats_admin,
                changed=changed,
            )
            for node in NODES
        ]

    @property
    def programs(self) -> dict[str, Supervised]:
        """Each server, by name."""
        return {f"nats-{number}": node.supervised for number, node in zip(NODES, self._nodes, strict=True)}

    def url(self, user: str, password: str) -> str:
        """Return the address of all servers for a user: valid until `stop`."""
        hosts = ",".join(node.url(ADMIN, "").rpartition("@")[2] for node in self._nodes)
        return f"nats://{quote(user, safe='')}:{quote(password, safe='')}@{hosts}"

    async def start(self) -> None:
        """Start all and wait until JetStream answers from each; StartError gives the reason where it does not."""
        self._routes = self._held.enter_context(held_ports(len(NODES)))
        await together(*(node.start() for node in self._nodes))

    async def stage(self) -> None:
        """Let streams that there are by now stage their batches in memory, where the system has a place for it."""
        await together(*(node.stage() for node in self._nodes))

    async def stop(self, grace: float) -> None:
        """Shut all down within `grace` seconds."""
        await together(*(node.stop(grace) for node in self._nodes))
        self._held.close()

    def _config(self, node: int, *, listen: str, store_dir: str, ports_dir: str, server_name: str) -> str:
        return nats_config(
            self._credentials,
            listen=listen,
            store_dir=store_dir,
            ports_dir=ports_dir,
            server_name=f"{server_name}-{node}",
            sync_interval=self._sync_interval,
            extra=cluster_block(
                f"127.0.0.1:{self._routes[node - 1]}",
                [f"127.0.0.1:{port}" for port in self._routes],
                self._credentials.nats_admin,
            ),
        )


def cluster_block(listen: str, routes: list[str], password: str, *, extra: str = "") -> str:
    """Return the part of a server's configuration by which it is one of a cluster, with the addresses of all of them."""
    peers = [f"nats-route://route:{quote(password, safe='')}@{route}" for route in routes]
    return f"""\
cluster {{
  name: {CLUSTER}
  listen: {json.dumps(listen)}
  authorization {{ user: route, password: {json.dumps(password)} }}
  routes: {json.dumps(peers)}
{extra}}}
"""


@contextlib.contextmanager
def held_ports(count: int) -> Iterator[list[int]]:
    """Have ports of this machine that the system gives to nobody else in the block: for servers that are told of them."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            # Bound and not listening: who says so as well may listen there.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("127.0.0.1", 0))
        yield [one.getsockname()[1] for one in sockets]
