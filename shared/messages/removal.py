"""Messages of the gateway about organizations that are removed with everything that belongs to them."""

from __future__ import annotations

from shared.messages.declaration import Message, message


@message("removal.began", key="organization", by="gateway")
class RemovalBegan(Message, frozen=True, kw_only=True):
    """An organization is being removed: from now on nobody acts in it, and its owners remove what they have of it."""

    organization: str
    actor: str


@message("removal.ended", key="organization", by="gateway")
class RemovalEnded(Message, frozen=True, kw_only=True):
    """Nothing of an organization is left. What was said in it up to `until` (RFC 3339) is not about another one of its name."""

    organization: str
    until: str
