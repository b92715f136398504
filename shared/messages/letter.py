"""Messages of the events service about dead letters."""

from __future__ import annotations

from shared.messages.declaration import Message, message


@message("letter.replayed", key="letter", by="events")
class LetterReplayed(Message, frozen=True, kw_only=True):
    """The message of a dead letter was handled again, as events of its delivery that are retried by `retry`."""

    letter: str
    actor: str
    delivery: str
    retry: str


@message("letter.discarded", key="letter", by="events")
class LetterDiscarded(Message, frozen=True, kw_only=True):
    """A dead letter was put aside by a person: nothing more is to come of it. It stays where it is."""

    letter: str
    actor: str
