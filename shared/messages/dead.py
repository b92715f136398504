"""Messages that no handler could take."""

from __future__ import annotations

from shared.messages.declaration import Message, message
from shared.messages.log import SERVICES


@message("dead.*", key="service", by=SERVICES, verb_field="verb")
class DeadLettered(Message, frozen=True, kw_only=True):
    """A consumer of `service` gave a message up. `document_base64` is the original, exactly; `verb` its type."""

    service: str
    verb: str
    consumer: str
    stream: str
    sequence: int
    subject: str
    document_base64: str
    error: str
    reason: str
    tries: int
