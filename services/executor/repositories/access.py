"""How a repository is reached: its address, and the credential that is asked of the oauth service each time."""

from __future__ import annotations

import secrets
from typing import Protocol
from urllib.parse import urlsplit

from services.executor.repositories.remote import Access
from shared.bus import Bus
from shared.egress.policy import Target, target
from shared.encryption import CannotOpen, Keyring
from shared.errors import Invalid, NotFound, Problem, Unavailable
from shared.questions.oauth import GetSecret, GetToken
from shared.resources.repository import Repository

PORTS = {"https": 443, "http": 80, "ssh": 22}
# Who asks, where nobody is named: most hosts of git take any user with a token, and this one by SSH.
USERS = {"https": "oauth2", "http": "oauth2", "ssh": "git"}


class AccessDeps(Protocol):
    """Dependencies of credentials."""

    bus: Bus
    keyring: Keyring


async def access_of(org: str, spec: Repository, deps: AccessDeps) -> Access:
    """Return how an organization reaches its repository. Raises `NotFound` for a missing credential, `Unavailable`."""
    return Access(
        org=org,
        url=spec.url,
        target=_target(spec.url),
        branch=spec.branch,
        folder=spec.folder,
        username=spec.username or USERS.get(spec.url.partition(":")[0], ""),
        password=await _password(org, spec, deps),
        host_key=spec.host_key,
    )


def _target(url: str) -> Target:
    parts = urlsplit(url)
    try:
        return target(parts.netloc, PORTS[parts.scheme])
    except (KeyError, ValueError) as error:
        raise Invalid("the address of the repository cannot be used", errors=(Problem("url", str(error)),)) from error


async def _password(org: str, spec: Repository, deps: AccessDeps) -> str | None:
    nonce = secrets.token_urlsafe(16)
    try:
        if spec.connection is not None:
            token = await deps.bus.ask(GetToken(org=org, name=spec.connection, nonce=nonce))
            return deps.keyring.open(token.sealed, org, nonce, "token")
        if spec.secret is not None:
            given = await deps.bus.ask(GetSecret(org=org, name=spec.secret, nonce=nonce))
            if given.owner != org:
                # One of the platform's may be for its services alone, and this repository's remote is the organization's choice.
                raise NotFound(f"the organization {org} has no secret {spec.secret!r} of its own, for its repository")
            return deps.keyring.open(given.sealed, org, nonce, "secret")
    except CannotOpen as error:
        raise Unavailable(f"the credential of the repository cannot be opened: {error}") from error
    return None
