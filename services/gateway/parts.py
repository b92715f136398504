"""The parts of a running gateway, which the handlers of requests are given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from services.gateway.admission import Admission
from services.gateway.backlog import WebhookBacklog
from services.gateway.config import Network
from services.gateway.credentials import UserCredentials
from services.gateway.endings import Endings
from services.gateway.forms import Forms
from services.gateway.idempotency import Starting
from services.gateway.identity import Keys
from services.gateway.invitations import Invitations
from services.gateway.lanes import Lanes
from services.gateway.limits import RateLimits
from services.gateway.logins import Logins
from services.gateway.memory_budget import MemoryBudget
from services.gateway.passkeys import Passkeys
from services.gateway.proofs import Passwords
from services.gateway.readiness import Readiness
from services.gateway.refusals import Refusals
from services.gateway.removing.remover import Remover
from services.gateway.sessions import Sessions
from services.gateway.users import Users
from services.gateway.visitors import Strangers, Visitors
from services.gateway.watching import Watching
from services.gateway.workflows import WorkflowLookup
from shared.adapters import CustomAdapters
from shared.blobs import Blobs
from shared.bus import Bus
from shared.cache import Cache
from shared.egress.fetching import Fetcher
from shared.encryption import Keyring
from shared.health import Health
from shared.owners.keeper import Keeper
from shared.owners.rotation import Rotation
from shared.quotas import Quotas
from shared.trail import Trail


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """The parts. `keepers` keep the gateway's own resources; sizes are in bytes; `public_url` ends without a slash.

    `trace_parents`: see `GatewaySettings`. `cors_origins`: the origins whose pages may use the API with a key of theirs.
    """

    bus: Bus
    health: Health
    readiness: Readiness
    keyring: Keyring
    trail: Trail
    refusals: Refusals
    admission: Admission
    adapters: CustomAdapters
    fetcher: Fetcher
    backlog: WebhookBacklog
    lanes: Lanes
    limits: RateLimits
    workflows: WorkflowLookup
    endings: Endings
    starting: Starting
    watching: Watching
    bodies: Blobs
    workspace: Blobs
    results: Blobs
    memory: MemoryBudget
    visitors: Visitors
    forms: Forms
    strangers: Strangers
    keys: Keys
    logins: Logins
    users: Users
    sessions: Sessions
    credentials: UserCredentials
    passwords: Passwords
    passkeys: Passkeys
    invitations: Invitations
    rotation: Rotation
    keepers: Mapping[str, Keeper[Any]]
    removing: Remover
    quotas: Quotas
    options: Cache
    public_url: str
    trusted_proxies: tuple[Network, ...]
    cors_origins: frozenset[str]
    max_body: int
    max_file: int
    trace_parents: str = "keys"


GATEWAY = web.AppKey("gateway", Gateway)
