"""Messages that no handler could take."""

from __future__ import annotations

from shared.messages.declaration import Message, message
from shared.messages.log import SERVICES


@message("dead.*", key="service", by=SERVICES, verb_field="verb", suffix="place")
class DeadLettered(Message, frozen=True, kw_only=True):
    """A consumer of `service` gave a message up. `document_base64` is the original, exactly; `verb` its type.

    `place` is set where a projection could not take it: a hash of the message's place and the projection, of which there is but
    one letter.
    """

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
    place: str | None = None

    def broker_headers(self) -> dict[str, str]:
        """Expect to be the first of the place."""
        return {} if self.place is None else {"Nats-Expected-Last-Subject-Sequence": "0"}
