"""Registrations of sources with their senders: the sender is asked to notify, and keeps that for a time. No secret, no token."""

from __future__ import annotations

from shared.messages.declaration import Message, message


class RegistrationState(Message, frozen=True, kw_only=True):
    """A registration from this message on: its last message is all of it.

    `place` is the address of the sender's collection, `remote` the id there (None: nothing is known to be there), `digest` stands
    for what it was made of, `connection` for whose token. At `due_at` it is looked at again, and not `not_before`, where the sender
    has said so; `expires_at` is when the sender ends it. `error` is why the last `tries` at it failed. `tried` is the version of
    the source that was looked at. `notice` is what the sender has asked for; at `missed_at` it said that events were missed.
    """

    source: str
    source_name: str
    adapter: str
    tried: int
    due_at: str
    digest: str = ""
    place: str | None = None
    connection: str | None = None
    remote: str | None = None
    expires_at: str | None = None
    not_before: str | None = None
    tries: int = 0
    error: str | None = None
    notice: str | None = None
    missed_at: str | None = None


@message("registration.begun", key="source", by="events")
class RegistrationBegun(RegistrationState, frozen=True, kw_only=True):
    """The sender is about to be asked for it: from now on it may be there."""


@message("registration.confirmed", key="source", by="events")
class RegistrationConfirmed(RegistrationState, frozen=True, kw_only=True):
    """The sender has made it, renewed it, or had it already."""


@message("registration.failed", key="source", by="events")
class RegistrationFailed(RegistrationState, frozen=True, kw_only=True):
    """It could not be made, renewed or removed."""


@message("registration.noticed", key="source", by="events")
class RegistrationNoticed(RegistrationState, frozen=True, kw_only=True):
    """The sender has said something about it, as Microsoft Graph does by lifecycle notifications."""


@message("registration.removed", key="source", by="events")
class RegistrationRemoved(RegistrationState, frozen=True, kw_only=True):
    """It is wanted no more, and gone at the sender; with an `error` it was given up, and may still be there."""
