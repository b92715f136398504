"""Links by which people without an account answer what a run asks: all that they say is sealed in them, and nothing is stored."""

from __future__ import annotations

import secrets
from typing import Protocol

import msgspec

from shared.encryption import CannotOpen, Keyring
from shared.errors import NotFound
from shared.questions.approvals import MadeLink
from shared.values import moment_at

PAGE = "/approve"
# What a link is sealed for: no other sealed value opens as one.
_PLACE = ("link", "approval")
LONGEST = 2000


class ApprovalLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link: of whom, to answer which question of which organization, until when (epoch seconds). `nonce` makes it one of many."""

    org: str
    approval: str
    name: str
    until: float
    nonce: str

    def __repr__(self) -> str:
        """Show nothing that is of use: a repr ends up in logs."""
        return f"ApprovalLink(approval={self.approval!r})"


class LinkDeps(Protocol):
    """Dependencies of links."""

    @property
    def keyring(self) -> Keyring:
        """Keys of the installation, which seal them."""

    @property
    def public_url(self) -> str:
        """The address at which people reach the gateway."""


class UnknownLink(NotFound):
    """No link of this installation, or an altered one."""


def sealed(keyring: Keyring, *, org: str, approval: str, name: str, until: float) -> str:
    """Return the token of a new link."""
    made = ApprovalLink(org=org, approval=approval, name=name, until=until, nonce=secrets.token_urlsafe(12))
    return keyring.seal(msgspec.json.encode(made).decode(), *_PLACE)


def link_to(gateway: LinkDeps, *, org: str, approval: str, name: str, until: str) -> MadeLink:
    """Return a new link, of use until a time. Raises `Invalid` for what is none."""
    token = sealed(gateway.keyring, org=org, approval=approval, name=name, until=moment_at(until, "until").timestamp())
    return MadeLink(f"{gateway.public_url}{PAGE}?link={token}", until)


def opened(keyring: Keyring, token: str) -> ApprovalLink:
    """Return the link of a token, whose time may be over. Raises `UnknownLink`."""
    try:
        return msgspec.json.decode(keyring.open(token[:LONGEST], *_PLACE), type=ApprovalLink)
    except (CannotOpen, msgspec.MsgspecError) as error:
        raise UnknownLink("this link is not known, or was altered: ask who sent it for another") from error
