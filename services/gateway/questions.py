"""Questions and commands to the gateway: about its resources, their sealing, and what a removed organization has left."""

from __future__ import annotations

from typing import Protocol

from shared.asking import Questions
from shared.bus import Bus
from shared.owners.answering import questions_of, rotate_keys
from shared.owners.removing import erase_of_organization
from shared.questions.removing import EraseInGatewayOf, Left
from shared.questions.rotation import RotateCredentials


class CatalogErasingDeps(Protocol):
    """Dependency of erasing."""

    bus: Bus


async def erase(command: EraseInGatewayOf, deps: CatalogErasingDeps) -> Left:
    """Erase messages of the catalog."""
    return await erase_of_organization(deps.bus.client, command)


QUESTIONS: Questions = {**questions_of("gateway"), RotateCredentials: rotate_keys, EraseInGatewayOf: erase}
