"""Links by which people without an account answer what a run asks, or open a form, and see what became of it.

All that they say is sealed in them, and nothing is stored.
"""

from __future__ import annotations

import secrets
from typing import Protocol, TypeVar

import msgspec

from shared.encryption import CannotOpen, Keyring
from shared.errors import NotFound
from shared.questions.approvals import MadeLink
from shared.values import moment_at

PAGE = "/approve"
# What a link is sealed for: no other sealed value opens as one.
_PLACE, _OF_FORM, _OF_SENT = ("link", "approval"), ("link", "form"), ("link", "sent")
LONGEST = 2000
# Seconds for which somebody who has sent a form may look at what became of it.
SENT = 86_400.0
L = TypeVar("L")


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


class FormLink(msgspec.Struct, frozen=True, kw_only=True):
    """A link: to open which form of which organization, for whom, from when until when (epoch seconds).

    `once`: it is of use for one run, whose id follows from the `nonce`.
    """

    org: str
    form: str
    name: str
    made: float
    until: float
    once: bool
    nonce: str

    def __repr__(self) -> str:
        """Show nothing that is of use: a repr ends up in logs."""
        return f"FormLink(form={self.form!r})"


class SentLink(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody who has sent a form is shown: its run, until when; `via`: how the form was opened."""

    org: str
    form: str
    run: str
    via: str
    until: float

    def __repr__(self) -> str:
        """Show nothing that is of use: a repr ends up in logs."""
        return f"SentLink(form={self.form!r})"


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
    return _opened(keyring, token, _PLACE, ApprovalLink)


def form_token(keyring: Keyring, *, org: str, form: str, name: str, made: float, until: float, once: bool) -> str:
    """Return the token of a new link to a form."""
    link = FormLink(org=org, form=form, name=name, made=made, until=until, once=once, nonce=secrets.token_urlsafe(12))
    return keyring.seal(msgspec.json.encode(link).decode(), *_OF_FORM)


def form_link(keyring: Keyring, token: str) -> FormLink:
    """Return the link to a form, whose time may be over. Raises `UnknownLink`."""
    return _opened(keyring, token, _OF_FORM, FormLink)


def sent_token(keyring: Keyring, link: SentLink) -> str:
    """Return the token by which what became of a form is looked at."""
    return keyring.seal(msgspec.json.encode(link).decode(), *_OF_SENT)


def sent_link(keyring: Keyring, token: str) -> SentLink:
    """Return what a token shows, whose time may be over. Raises `UnknownLink`."""
    return _opened(keyring, token, _OF_SENT, SentLink)


def _opened(keyring: Keyring, token: str, place: tuple[str, ...], kind: type[L]) -> L:
    try:
        return msgspec.json.decode(keyring.open(token[:LONGEST], *place), type=kind)
    except (CannotOpen, msgspec.MsgspecError) as error:
        raise UnknownLink("this link is not known, or was altered: ask who sent it for another") from error
