"""Resources at their owners, as a gateway would ask for them."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import msgspec

from shared.bus import Bus
from shared.encryption import Keyring
from shared.envelope import new_id
from shared.questions import Page
from shared.questions.resources import GetResource, ListResources, PutResource, RemoveResource, Shown, ShownPage, of
from shared.resources import KINDS
from tests.support.servers import Place


def ring(place: Place) -> Keyring:
    """Return the keys that the services of a place have."""
    return Keyring(tuple(base64.b64decode(key) for key in place.credentials.keys))


def putting(noun: str, name: str, keyring: Keyring | None = None, *, org: str = "default", **given: Any) -> PutResource:
    """Return the command that puts a resource; of `given`, what is no field of its spec is one of the command.

    A mapping's config, in which mostly nothing is secret, may travel open here, without a keyring.
    """
    kind = KINDS[noun]
    fields = {field: given.pop(field) for field in list(given) if field in kind.spec.__struct_fields__}
    told = {"id": new_id(), "actor": "test"} | given
    sealed = {}
    for field in kind.confidential & fields.keys() if keyring is not None or noun != "mapping" else ():
        assert keyring is not None, f"{field} may hold secrets"
        sealed[field] = keyring.seal(msgspec.json.encode(fields.pop(field)).decode(), org, told["id"], field)
    return of(PutResource, noun, org=org, name=name, fields=fields, sealed=sealed, **told)


def removing(noun: str, name: str, *, org: str = "default", **given: Any) -> RemoveResource:
    """Return the command that removes a resource."""
    return of(RemoveResource, noun, **{"id": new_id(), "actor": "test", "org": org, "name": name} | given)


async def told(bus: Bus, command: PutResource) -> Any:
    """Give a command; return the resource as it is shown, its fields as attributes."""
    shown: Shown = await bus.ask(command)
    return SimpleNamespace(**shown.fields)


async def got(bus: Bus, noun: str, name: str, *, org: str = "default") -> Any:
    """Return a resource as it is shown, its fields as attributes."""
    shown: Shown = await bus.ask(of(GetResource, noun, org=org, name=name))
    return SimpleNamespace(**shown.fields)


async def listed(
    bus: Bus, noun: str, *, org: str = "default", name: str | None = None, **page: Any
) -> tuple[list[Any], str | None]:
    """Return a page of resources, their fields as attributes, and the cursor of the next one."""
    found: ShownPage = await bus.ask(of(ListResources, noun, org=org, name=name, page=Page(**page)))
    return [SimpleNamespace(**fields) for fields in found.items], found.next_cursor
