"""The whole stack on one machine: its processes, their environment, and the order they start and stop in."""

import asyncio
import contextlib
import os
import site
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from deploy.accounts import SANDBOX_UID
from deploy.concurrency import together
from deploy.credentials import SERVICES, Credentials
from deploy.files import bound
from deploy.folder import DataFolder
from deploy.forking import Forking, is_possible
from deploy.given import check_users, doubts_of_broker, doubts_of_database
from deploy.liveness import Liveness
from deploy.prepare import prepare
from deploy.reach import make_sandbox_folder
from deploy.readiness import READY_WITHIN, Asked, wait_until_ready
from deploy.stores import Stores
from deploy.supervise import Program, State, Supervised
from shared.messages.shards import VARIABLE

# Seconds after the beginning of a stop at which each one must be gone; a faster one leaves the rest to the next.
# Requests end first, so that nothing new comes in; the stores go last (deploy/stores.py). 15 s are promised for all of it.
GONE_AFTER = {"gateway": 3.0, "events": 5.0, "executor": 8.5, "oauth": 9.5, "logs": 11.0}
# Services that let the others go first where there are too few cores, and with them what they have Postgres do: a sender waits for
# the gateway and the broker, a caller of a run for the executor besides, and nobody for these.
NICENESS = {"events": 10, "logs": 10}
LARGEST_LOG = 16 * 1024 * 1024
LOGS_CHECKED_EVERY = 20.0
# SSL_CERT_… name the authorities of what is called by TLS.
PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", VARIABLE)
KEYS = ("MILLRACE_KEYS", "MILLRACE_KEYS_FILE", "MILLRACE_KEYS_COMMAND")
_POOL = ("MILLRACE_POOLED_DATABASE_URL", "MILLRACE_POOL_SIZE", "MILLRACE_POOL_WAIT_MS", "MILLRACE_STATEMENT_MS")
_EGRESS = ("MILLRACE_EGRESS_ALLOW", "MILLRACE_EGRESS_DENY")
_QUOTAS = tuple(f"MILLRACE_QUOTA_{name}" for name in ("RUNS_IN_FLIGHT", "RUNS_A_DAY", "STORED_BYTES", "SOURCES"))
# Of the settings of services those that an operator of this stack may choose in its environment.
CHOSEN = {
    "gateway": (
        "MILLRACE_NATS_PUBLIC_URL",
        "MILLRACE_MAX_BACKLOG",
        "MILLRACE_MAX_BACKLOG_BYTES",
        "MILLRACE_MAX_BACKLOG_AGE",
        "MILLRACE_MAX_QUEUED_RUNS",
        "MILLRACE_TRUSTED_PROXIES",
        "MILLRACE_CORS_ORIGINS",
        "MILLRACE_SESSION_IDLE",
        "MILLRACE_SESSION_LONGEST",
        "MILLRACE_MAX_CONNECTIONS",
        "MILLRACE_MAX_BODY",
        "MILLRACE_MAX_FILE",
        "MILLRACE_KEY_RATE",
        "MILLRACE_ORG_RATE",
        "MILLRACE_ORG_WEBHOOK_RATE",
        "MILLRACE_TRACE_PARENTS",
        *_QUOTAS,
        *_EGRESS,
    ),
    "events": (
        "MILLRACE_MAX_BACKLOG",
        "MILLRACE_MAX_CHAIN",
        "MILLRACE_MAX_QUEUED_RUNS",
        "MILLRACE_OVERDUE",
        *_QUOTAS,
        *_POOL,
        *_EGRESS,
    ),
    "oauth": (*_POOL, *_EGRESS),
    # An object store's credentials, region and endpoint.
    "logs": (
        "MILLRACE_DIGEST_COPIES",
        "MILLRACE_DIGEST_SECONDS",
        *_POOL,
        *(name for name in os.environ if name.startswith("AWS_")),
    ),
    "executor": (
        *("MILLRACE_MAX_CHAIN", *_POOL, *_EGRESS),
        *(
            "MILLRACE_INDEX_URL",
            "MILLRACE_INDEX_HOSTS",
            "MILLRACE_INDEX_PASSWORD",
            "MILLRACE_PIP_CONF",
            "MILLRACE_PRELOAD",
            "MILLRACE_SDISTS",
            "MILLRACE_ENVIRONMENT_BYTES",
        ),
        *(f"MILLRACE_{name}" for name in ("SLOTS", "SLOTS_MIN", "SLOTS_MAX", "WARM", "WORKER_GROUPS")),
        *(f"MILLRACE_{name}" for name in ("RUN_CORES", "RUN_PROCESSES", "RUNS_KEPT", "ARTIFACTS_KEPT")),
        # What the machine's pip uses is what packages come from, where nothing else is said.
        *(name for name in os.environ if name.startswith("PIP_")),
    ),
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's choices."""

    public_url: str | None
    nats: str | None
    postgres: str | None
    unsafe: bool
    # Of each stream on the broker; as many as there are servers for unless given.
    copies: int | None = None
    # Three brokers and a database with a standby instead of one of each.
    cluster: bool = False
    # Processes of each service.
    replicas: int = 1


class Stack:
    """All processes of one installation. `changed` is called whenever one of them has died or come back."""

    def __init__(
        self,
        *,
        folder: DataFolder,
        sockets: Path,
        credentials: Credentials,
        listening: Sequence[socket.socket],
        options: Options,
        changed: Callable[[], None],
    ) -> None:
        """Start nothing yet; `sockets` is an existing folder with a short path, `listening` a socket for each gateway."""
        self._folder = folder
        self._sockets = sockets
        self._credentials = credentials
        self._listening = listening
        self._options = options
        self._changed = changed
        self.stores = Stores(
            folder=folder,
            sockets=sockets,
            credentials=credentials,
            nats=options.nats,
            postgres=options.postgres,
            changed=changed,
            cluster=options.cluster,
        )
        self._services: dict[str, Supervised] = {}
        self._forking: Forking | None = None
        self._forkserver: Supervised | None = None
        self._bounding: asyncio.Task[None] | None = None
        # After the start: how many copies of each stream there are, and what given servers should be and are not.
        self.copies = 0
        self.warnings: list[str] = []

    @property
    def service_pids(self) -> dict[str, int | None]:
        """Each service's process; None while it is down."""
        return {name: supervised.state.pid for name, supervised in self._services.items()}

    @property
    def states(self) -> dict[str, State]:
        """Every process of this installation as it is now, by name."""
        server = {} if self._forkserver is None else {"forkserver": self._forkserver.state}
        return self.stores.states | server | {name: supervised.state for name, supervised in self._services.items()}

    async def start(self) -> dict[str, dict[str, Any]]:
        """Start everything; return the answer of each service's /readyz when all are ready. StartError when one is not in time."""
        # It imports while the stores start.
        await self._start_forkserver()
        await self.stores.start()
        await self._prepare()
        await self.stores.prepared()
        self._bounding = asyncio.create_task(self._bound_logs(), name="bound logs")
        health = self._sockets / "health"
        health.mkdir(mode=0o700)
        for service in SERVICES:
            for number in range(1, self._options.replicas + 1):
                name = named(service, number)
                self._services[name] = self._service(service, number, health / f"{name}.sock")
        await together(*(supervised.start() for supervised in self._services.values()))
        return await wait_until_ready(
            [Asked(supervised=supervised, socket=health / f"{name}.sock") for name, supervised in self._services.items()],
            READY_WITHIN * self._options.replicas,
        )

    async def stop(self) -> None:
        """End everything that was started, in order, within 15 s; returns when no process is left."""
        began = time.monotonic()
        if self._forkserver is not None:
            await self._forkserver.stop(0.1)  # first, so that no start waits for it
        for service in SERVICES:
            numbers = range(1, self._options.replicas + 1)
            replicas = [self._services[name] for number in numbers if (name := named(service, number)) in self._services]
            grace = max(0.1, began + GONE_AFTER[service] - time.monotonic())
            await together(*(supervised.stop(grace) for supervised in replicas))
        if self._forking is not None:
            self._forking.close()
        await self.stores.stop(began)
        if self._bounding is not None:
            self._bounding.cancel()
            await asyncio.gather(self._bounding, return_exceptions=True)

    async def _prepare(self) -> None:
        options, stores = self._options, self.stores
        if options.nats is not None:
            await check_users(options.nats, self._credentials)
        self.copies = await prepare(
            nats_url=stores.nats_url, database_url=stores.database_url, credentials=self._credentials, replicas=options.copies
        )
        self.warnings = [
            *(await doubts_of_broker(options.nats, self._credentials) if options.nats else []),
            *(await doubts_of_database(options.postgres) if options.postgres else []),
        ]

    async def _start_forkserver(self) -> None:
        if not is_possible():
            return
        self._forking = forking = Forking()

        def changed() -> None:
            forking.is_now(server.state.pid)
            self._changed()

        program = Program(
            name="forkserver",
            command=(sys.executable, "-P", "-m", "deploy.forkserver", str(forking.descriptor)),
            # Other variables may be secrets, as the headers of an exporter are.
            environment={name: value for name, value in _passed_on().items() if name in PASSED_ON},
            directory=self._folder.path,
            log=self._folder.logs / "forkserver.log",
            pidfile=self._folder.pidfiles / "forkserver.pid",
            descriptors=(forking.descriptor,),
        )
        self._forkserver = server = Supervised(program, changed=changed)
        await server.start()

    def _service(self, service: str, number: int, health: Path) -> Supervised:
        name = named(service, number)

        async def unlink_health_socket() -> None:
            health.unlink(missing_ok=True)

        place = make_sandbox_folder(self._folder.path, name) if service == "executor" else self._folder.own(name)
        program = Program(
            name=name,
            command=(sys.executable, "-P", "-m", "services", service),
            environment=_passed_on() | self._environment(service, number, health, place),
            directory=place,
            log=self._folder.logs / f"{name}.log",
            pidfile=self._folder.pidfiles / f"{name}.pid",
            descriptors=(self._listening[number - 1].fileno(),) if service == "gateway" else (),
            liveness=Liveness(socket=health),
            niceness=NICENESS.get(service, 0),
        )
        fork = {} if self._forking is None else {"fork": self._forking.fork}
        return Supervised(program, before=unlink_health_socket, changed=self._changed, **fork)

    def _environment(self, name: str, number: int, health: Path, place: Path) -> dict[str, str]:
        given = {
            "MILLRACE_NATS_URL": self.stores.nats_url_of(name),
            "MILLRACE_DATABASE_URL": self.stores.database_url_of(name),
            **keys_of(self._credentials, os.environ),
            "MILLRACE_HEALTH_ADDR": f"unix:{health}",
            "MILLRACE_DATA": str(place),
        }
        if name in {"gateway", "events"}:
            given["MILLRACE_PUBLIC_URL"] = self._options.public_url or local_url(self._listening[0])
        if name == "gateway":
            given["MILLRACE_LISTEN_FD"] = str(self._listening[number - 1].fileno())
            given["MILLRACE_ADMIN_KEY"] = self._credentials.admin_key
            given["MILLRACE_SUPERVISOR"] = str(self._folder.states)
        if name == "logs":
            given["MILLRACE_NATS_ISSUER"] = self._credentials.nats_issuer
            # Whichever process seals: all copies are in one place.
            given["MILLRACE_DIGEST_COPIES"] = (self._folder.own("logs") / "digests").absolute().as_uri()
        if name == "executor":
            given["MILLRACE_UNSAFE"] = "1" if self._options.unsafe else "0"
            given["MILLRACE_SANDBOX_TIER"] = os.environ.get("MILLRACE_SANDBOX_TIER", "")
            if os.geteuid() == 0:
                given["MILLRACE_SANDBOX_UID"] = str(SANDBOX_UID)
        return given | {variable: os.environ[variable] for variable in CHOSEN.get(name, ()) if variable in os.environ}

    async def _bound_logs(self) -> None:
        while True:
            for log in self._folder.logs.glob("*.log"):
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(bound, log, LARGEST_LOG)
            await asyncio.sleep(LOGS_CHECKED_EVERY)


def named(service: str, number: int) -> str:
    """Return the name of one of a service's processes."""
    return service if number == 1 else f"{service}-{number}"


def keys_of(credentials: Credentials, environment: Mapping[str, str]) -> dict[str, str]:
    """Return where services have their keys from: what the operator says, else the keys of this installation.

    Those open in any case: what was sealed before the operator gave keys would be lost else.
    """
    chosen = {name: environment[name] for name in KEYS if environment.get(name)}
    own = ",".join(credentials.keys)
    return chosen | {f"{KEYS[0]}_OPENING": own} if chosen else {KEYS[0]: own}


def local_url(listening: socket.socket) -> str:
    """Return the address at which this machine reaches a listening socket."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (that is being translated away)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _passed_on() -> dict[str, str]:
    """Give a service the variables that any program needs, and nothing else of the operator's environment."""
    environment = {name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith("OTEL_")}
    root = str(Path(__file__).parent.parent)
    if root not in site.getsitepackages():  # run from a source tree that may not be installed
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.get("PYTHONPATH"), root)))
    return environment
