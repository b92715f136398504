"""Questions and commands to the gateway: about its resources, their sealing and use, and what a removed organization has left."""

from __future__ import annotations

from typing import Protocol

from services.gateway.identity import Keys
from services.gateway.links import LinkDeps, link_to
from shared.asking import Questions
from shared.bus import Bus
from shared.owners.answering import questions_of, rotate_keys
from shared.owners.removing import erase_of_organization
from shared.questions import Done
from shared.questions.approvals import MadeLink, MakeApprovalLink
from shared.questions.key_use import NoteKeyUse
from shared.questions.removing import EraseInGatewayOf, Left
from shared.questions.rotation import RotateCredentials


class CatalogErasingDeps(Protocol):
    """Dependency of erasing."""

    bus: Bus


async def erase(command: EraseInGatewayOf, deps: CatalogErasingDeps) -> Left:
    """Erase messages of the catalog."""
    return await erase_of_organization(deps.bus.client, command)


class KeyUseDeps(Protocol):
    """Dependency of noting the use of keys."""

    keys: Keys


async def note_use(command: NoteKeyUse, deps: KeyUseDeps) -> Done:
    """Take over when keys were used; it is written together with the use here."""
    for id_, at in command.used.items():
        deps.keys.note_use(id_, at)
    return Done()


async def make_link(question: MakeApprovalLink, deps: LinkDeps) -> MadeLink:
    """Make a link to answer a question of a run."""
    return link_to(deps, org=question.org, approval=question.approval, name=question.name, until=question.until)


QUESTIONS: Questions = {
    **questions_of("gateway"),
    RotateCredentials: rotate_keys,
    EraseInGatewayOf: erase,
    NoteKeyUse: note_use,
    MakeApprovalLink: make_link,
}
