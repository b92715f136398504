"""Questions and commands to the gateway: about its resources, their sealing, and what a removed organization has left."""

from __future__ import annotations

from typing import Protocol

from shared.asking import Questions
from shared.bus import Bus
from shared.erasing import erase_messages
from shared.owners.answering import questions_of, rotate_keys
from shared.questions.removing import EraseInGatewayOf, Left
from shared.questions.rotation import RotateCredentials


class CatalogErasingDeps(Protocol):
    """Dependency of erasing."""

    bus: Bus


async def erase_of_organization(command: EraseInGatewayOf, deps: CatalogErasingDeps) -> Left:
    """Erase messages of the catalog."""
    await erase_messages(deps.bus.client, command.stream, command.incarnation, command.sequences)
    return Left()


QUESTIONS: Questions = {**questions_of("gateway"), RotateCredentials: rotate_keys, EraseInGatewayOf: erase_of_organization}
