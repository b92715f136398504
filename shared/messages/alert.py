"""Messages of the logs service about saved searches that found more than they may."""

from __future__ import annotations

from shared.messages.declaration import Message, message


@message("alert.raised", key="alert", by="logs", creates=True)
class AlertRaised(Message, frozen=True, kw_only=True):
    """A saved search, `search` by its id, found `count` messages from `since` to `until`, more than `limit`, after it had not.

    Of more than `limit` no more are counted than one. Each crossing has an `alert`, said once.
    """

    alert: str
    search: str
    name: str
    q: str
    limit: int
    count: int
    since: str
    until: str
