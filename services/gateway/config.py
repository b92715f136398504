"""The gateway's settings, from its environment."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec

from services.gateway.rates import DefaultRates, Rate, checked
from shared.config import Environment, max_backlog, most_queued, public_url, quotas
from shared.egress.configured import egress_of
from shared.egress.policy import EgressRules
from shared.trace_settings import PARENTS

MIB = 1024 * 1024
# The largest that any sender is known to send.
MAX_BODY = 25 * MIB
MAX_FILE = 4096 * MIB
# A day: long enough for somebody to repair what consumes, and six before the broker forgets what waits.
MAX_BACKLOG_AGE = 24 * 60 * 60
# A fifth of the embedded broker's store, which keeps each body twice for seven days: as it came, and parsed.
MAX_BACKLOG_BYTES = 4 * 1024**3
# Each may take a few hundred KiB while a request is on its way.
MAX_CONNECTIONS = 4096

# Seconds within which every load balancer has asked whether it is ready.
MOST_STOP_DELAY = 60
# Seconds: a session that was not used for a working day, and one that is a week old, is over.
SESSION_IDLE, SESSION_LONGEST = 8 * 60 * 60, 7 * 24 * 60 * 60
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")

Network = IPv4Network | IPv6Network


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The gateway's settings. `listen_fd` is a bound socket that was handed over; without one, `host` and `port` are bound.

    `nats_public_url` is the broker's address as subscribers are told it. `public_url` has no slash at its end; None: made of the
    bound address. Sizes are in bytes. `max_backlog` counts messages,
    `max_backlog_bytes` the bytes of their bodies, `max_backlog_age` is in seconds, `most_queued` counts runs. `supervisor` is the
    file in which the supervisor of the services writes their state, where there is one. `stop_delay`: seconds between the signal to
    end, from which on it is not ready, and the last request that it takes. `cors_origins` are exact.
    `session_idle` and `session_longest`: seconds without use, and since the sign-in, after which a session is over.
    `trace_parents`: whose `traceparent` is the parent of its request, of `PARENTS`.
    `rates` and `quotas` count for those that have none of their own. `egress` judges the hosts from which keys are fetched.
    """

    nats_url: str
    nats_public_url: str
    database_url: str
    keys: tuple[bytes, ...]
    admin_key: str
    listen_fd: int | None
    host: str
    port: int
    public_url: str | None
    trusted_proxies: tuple[Network, ...]
    cors_origins: frozenset[str]
    rates: DefaultRates
    max_body: int
    max_file: int
    max_connections: int
    max_backlog: int
    max_backlog_bytes: int
    max_backlog_age: int
    most_queued: int
    quotas: dict[str, int | None]
    supervisor: Path | None
    stop_delay: int
    session_idle: int
    session_longest: int
    egress: EgressRules
    trace_parents: str = "keys"

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "Settings(...)"


def read(environment: Environment) -> GatewaySettings:
    """Read the settings; `environment` remembers a missing or wrong one."""
    public = public_url(environment)
    descriptor = environment.integer("MILLRACE_LISTEN_FD", -1, minimum=0)
    supervisor = environment.optional("MILLRACE_SUPERVISOR")
    nats_url = environment.address("MILLRACE_NATS_URL")
    return GatewaySettings(
        nats_url=nats_url,
        nats_public_url=environment.text("MILLRACE_NATS_PUBLIC_URL", _without_user(nats_url)),
        database_url=environment.address("MILLRACE_DATABASE_URL"),
        keys=environment.keys("MILLRACE_KEYS"),
        admin_key=environment.text("MILLRACE_ADMIN_KEY"),
        listen_fd=None if descriptor < 0 else descriptor,
        host=environment.text("MILLRACE_HOST", "127.0.0.1"),
        port=environment.integer("MILLRACE_PORT", 8420, maximum=65535),
        public_url=public,
        trusted_proxies=_networks(environment, "MILLRACE_TRUSTED_PROXIES"),
        cors_origins=_origins(environment, "MILLRACE_CORS_ORIGINS"),
        rates=DefaultRates(
            key=_rate(environment, "MILLRACE_KEY_RATE"),
            org=_rate(environment, "MILLRACE_ORG_RATE"),
            org_webhooks=_rate(environment, "MILLRACE_ORG_WEBHOOK_RATE"),
        ),
        max_body=environment.integer("MILLRACE_MAX_BODY", MAX_BODY, minimum=1),
        max_file=environment.integer("MILLRACE_MAX_FILE", MAX_FILE, minimum=1),
        max_connections=environment.integer("MILLRACE_MAX_CONNECTIONS", MAX_CONNECTIONS, minimum=16),
        max_backlog=max_backlog(environment),
        max_backlog_bytes=environment.integer("MILLRACE_MAX_BACKLOG_BYTES", MAX_BACKLOG_BYTES, minimum=1, maximum=2**50),
        max_backlog_age=environment.integer("MILLRACE_MAX_BACKLOG_AGE", MAX_BACKLOG_AGE, minimum=1),
        most_queued=most_queued(environment),
        quotas=quotas(environment),
        supervisor=None if supervisor is None else Path(supervisor),
        stop_delay=environment.integer("MILLRACE_STOP_DELAY", 0, maximum=MOST_STOP_DELAY),
        session_idle=environment.integer("MILLRACE_SESSION_IDLE", SESSION_IDLE, minimum=1),
        session_longest=environment.integer("MILLRACE_SESSION_LONGEST", SESSION_LONGEST, minimum=1),
        egress=egress_of(environment),
        trace_parents=environment.choice("MILLRACE_TRACE_PARENTS", PARENTS) or "keys",
    )


def _rate(environment: Environment, name: str) -> Rate | None:
    given = environment.optional(name)
    if given is None:
        return None
    per_second, _, burst = given.partition("/")
    try:
        return checked(Rate(float(per_second), int(burst) if burst else None))
    except ValueError:
        environment.complain(name, f"{given!r} is no rate, such as 50 (a second) or 50/200 (and 200 at once after a rest)")
        return None


def _without_user(urls: str) -> str:
    """Return addresses of the broker, by commas, without users, passwords and the files of this machine."""
    parts = (urlsplit(one.strip()) for one in urls.partition("?")[0].split(","))
    return ",".join(urlunsplit(one._replace(netloc=one.netloc.rpartition("@")[2])) for one in parts)


def _networks(environment: Environment, name: str) -> tuple[Network, ...]:
    networks: list[Network] = []
    for part in (environment.optional(name) or "").split(","):
        if not part.strip():
            continue
        try:
            networks.append(ip_network(part.strip(), strict=False))
        except ValueError:
            environment.complain(name, f"{part.strip()!r} is neither an address nor a network")
    return tuple(networks)


def _origins(environment: Environment, name: str) -> frozenset[str]:
    given = {part.strip() for part in (environment.optional(name) or "").split(",")} - {""}
    for one in sorted(given):
        if not _ORIGIN.fullmatch(one):
            environment.complain(
                name, f"{one!r} is no origin, such as https://console.example.com, in lower case and without a path"
            )
    return frozenset(given)
