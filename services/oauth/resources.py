"""Rules of this service's resources that no schema can state: connections, secrets and variables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.oauth.announce import Announcer
from services.oauth.domain import check_readers, check_secret, check_token, check_value
from services.oauth.store import KeptStore
from services.oauth.vaulted import Vaulted
from shared.bus import Bus
from shared.encryption import Keyring
from shared.owners.catalogued import catalogued
from shared.owners.keeper import Keeper
from shared.owners.rows import ResourceRows
from shared.owners.rules import Draft, Rules
from shared.projection import Projection
from shared.resources.connection import Connection
from shared.resources.secret import Secret
from shared.resources.variable import Variable


class Connections(Rules[Connection]):
    """A token can be sent in a header."""

    async def check(self, draft: Draft[Connection]) -> Connection:
        """Return the spec if a token that is given can be one."""
        for token in draft.secrets.values():
            check_token(token)
        return draft.spec


class Secrets(Rules[Secret]):
    """A secret can be masked, and one for services stays so: whoever puts a new value in its place may not know of that."""

    async def check(self, draft: Draft[Secret]) -> Secret:
        """Return the spec if a value that is given can be one, and its readers may be these."""
        for value in draft.secrets.values():
            check_secret(value)
        if draft.before is not None:
            check_readers(draft.before.spec.readers, draft.spec.readers)
        return draft.spec


class Variables(Rules[Variable]):
    """A variable fits a message."""

    async def check(self, draft: Draft[Variable]) -> Variable:
        """Return the spec if its value is not too large."""
        check_value(draft.spec.value)
        return draft.spec


def keepers(
    bus: Bus, rows: ResourceRows, keyring: Keyring, catalog: Projection, store: KeptStore, announcer: Announcer
) -> Mapping[str, Keeper[Any]]:
    """Return the keepers of this service's resources."""
    sealed: dict[str, Rules[Any]] = {"connection": Connections(), "secret": Secrets()}
    return {
        **catalogued("oauth", {"variable": Variables()}, bus=bus, rows=rows, keyring=keyring, catalog=catalog),
        **{
            noun: Vaulted(noun, rules, bus=bus, store=store, keyring=keyring, announcer=announcer) for noun, rules in sealed.items()
        },
    }
