"""One run's way to a network: its policy, its limits, and the reports of its connections."""

from collections.abc import Callable
from typing import Literal

import msgspec

from shared.egress.policy import EgressPolicy
from shared.egress.resolver import Resolve

Outcome = Literal["connected", "denied", "failed"]


class EgressLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on one run's use of the supervisor. Memory follows: at most some 300 KiB a connection, 20 MiB a run."""

    connections: int = 64
    """Served at a time; as many again are refused with an answer."""
    per_second: float = 200.0
    """Connections that are begun in the long run: some tenth of a core at most. `burst` may come at once."""
    burst: int = 200
    head_bytes: int = 32 * 1024
    head_seconds: float = 10.0
    """For the whole head, however its bytes trickle in."""
    resolve_seconds: float = 10.0
    connect_seconds: float = 10.0
    """For all addresses of a name together."""
    idle_seconds: float = 300.0
    half_open_seconds: float = 30.0
    linger_seconds: float = 1.0
    """Time for a refused client to read the reason."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One connection, reported at its end. `sent` are bytes to the other side, `received` those from it, exactly.

    `address` is the one that was connected to or refused. `reason` is a code: why it was denied or failed, or how one
    that was connected ended (closed, reset, idle, half_open, run_ended). `host` is empty where no request could be read.
    """

    outcome: Outcome
    reason: str
    host: str = ""
    port: int = 0
    address: str | None = None
    sent: int = 0
    received: int = 0
    duration_ms: int


class Network(msgspec.Struct, frozen=True):
    """A run's egress policy, the resolver of names for it, and the call per connection (from the event loop, at once)."""

    policy: EgressPolicy
    resolve: Resolve
    record: Callable[[Record], None]
    limits: EgressLimits = EgressLimits()
