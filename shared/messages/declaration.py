"""The one declaration of a message: type, key, stream, subject and the services that may publish it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from shared.messages.shards import in_shard, noun_of, shard_of, shards_of

KEY = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")

# Resources stand in none of these rows: their declaration adds them.
STREAM_OF_NOUN = {
    "webhook": "WEBHOOKS",
    "event": "EVENTS",
    "replay": "EVENTS",
    "firing": "EVENTS",
    "branch": "EVENTS",
    "alert": "EVENTS",
    "run": "RUNS",
    "line": "LINES",
    "timer": "TIMERS",
    "organization": "CATALOG",
    "removal": "CATALOG",
    "key": "CATALOG",
    "schedule": "CATALOG",
    "workflow": "CATALOG",
    "adapter": "CATALOG",
    "file": "CATALOG",
    "sync": "CATALOG",
    "history": "CATALOG",
    "secret": "CATALOG",
    "registration": "CATALOG",
    "provider": "CATALOG",
    "identity_provider": "CATALOG",
    "connection": "CONNECTIONS",
    "log": "LOGS",
    "audit": "AUDIT",
    "dead": "DEAD",
    "letter": "DEAD",
}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A past-tense fact. Unknown fields are ignored when read, so that fields may be added."""

    def broker_headers(self) -> dict[str, str]:
        """Return the headers for the broker beside the document."""
        return {}

    def chain_begun(self) -> str | None:
        """Return the correlation id of the chain that this message begins whatever has caused it; None: it joins its cause's."""
        return None

    @classmethod
    def upcast(cls, _document: bytes) -> bytes | None:
        """Return the JSON of an older version's message in today's shape; None for any other."""
        return None


class Declaration(msgspec.Struct, frozen=True):
    """The arguments of `@message` for a class.

    `verb_field` is set for the three open kinds (`log.<level>`, `audit.<action>`, `dead.<noun>.<verbed>`), whose verb is a
    field's value; `suffix` names a field whose value, unless it is None, is one more token at the end of the subject. `bare`: it
    may be None. `ending` names another, whose value, unless it is None, is the token after that. A suffix `owner` names the service
    that the message belongs to: no other writes it, and none but that one and the archive reads it.
    """

    type: str
    noun: str
    verb: str
    key_field: str
    stream: str
    by: tuple[str, ...]
    verb_field: str | None = None
    suffix: str | None = None
    creates: bool = False
    bare: bool = False
    ending: str | None = None

    def key(self, message: Message) -> str:
        """Return the key of `message`. Raises ValueError when it may not stand in a subject."""
        return checked_key(getattr(message, self.key_field))

    def type_of(self, message: Message) -> str:
        """Return the CloudEvents type of `message`, such as `event.routed`."""
        if self.verb_field is None:
            return self.type
        return f"{self.noun}.{getattr(message, self.verb_field)}"

    def subject(self, message: Message, key: str | None = None) -> str:
        """Return the subject of `message`, such as `event.<source>.routed`; `key` is its key where that is at hand."""
        verb = self.verb if self.verb_field is None else getattr(message, self.verb_field)
        key = key or self.key(message)
        subject = f"{noun_of(self.noun, key)}.{key}.{verb}"
        if self.suffix is not None and (suffix := getattr(message, self.suffix)) is not None:
            subject = f"{subject}.{checked_key(suffix)}"
        if self.ending is not None and (ending := getattr(message, self.ending)) is not None:
            subject = f"{subject}.{checked_key(ending)}"
        return subject

    def aggregate(self, key: str) -> str:
        """Return the filter of an aggregate's whole life: that of every expectation, never a narrower one."""
        return f"{noun_of(self.noun, key)}.{key}.>"

    def stream_of(self, key: str) -> str:
        """Return the name of the stream of an aggregate: `stream`, or a shard of it."""
        return stream_of(self.noun, key)

    def pattern(self) -> str:
        """Return the subjects of this message, any key, as a NATS filter: in the first shard, where there are several."""
        if self.verb_field is not None:
            return f"{self.noun}.>"
        return f"{self.noun}.*.{self.verb}" + (".>" if self.ending else ".*" if self.suffix else "")

    def patterns(self) -> tuple[str, ...]:
        """Return all filters of the subjects of this message: where the suffix may be None also the one without it."""
        return (self.pattern(), f"{self.noun}.*.{self.verb}") if self.bare else (self.pattern(),)


DECLARATIONS: dict[str, tuple[Declaration, type[Message]]] = {}
_BY_CLASS: dict[type[Message], Declaration] = {}

M = TypeVar("M", bound=type[Message])


def message(
    type_: str,
    *,
    key: str,
    by: str | tuple[str, ...],
    verb_field: str | None = None,
    suffix: str | None = None,
    creates: bool = False,
    ending: str | None = None,
) -> Callable[[M], M]:
    """Declare the class below as the message `type_`; `by` names the services that may publish it."""

    def declare(cls: M) -> M:
        noun, _, verb = type_.partition(".")
        writers = (by,) if isinstance(by, str) else by
        bare = any(field.name == suffix and field.default is None for field in msgspec.structs.fields(cls)) and verb_field is None
        made = Declaration(type_, noun, verb, key, STREAM_OF_NOUN[noun], writers, verb_field, suffix, creates, bare, ending)
        if type_ in DECLARATIONS:
            raise ValueError(f"message {type_!r} is declared twice")
        DECLARATIONS[type_] = (made, cls)
        _BY_CLASS[cls] = made
        return cls

    return declare


def declaration_of(of: Message | type[Message]) -> Declaration:
    """Return the declaration of a message or of its class."""
    return _BY_CLASS[of if isinstance(of, type) else type(of)]


def stream_of(noun: str, key: str) -> str:
    """Return the name of the stream that holds the messages of a key."""
    return in_shard(STREAM_OF_NOUN[noun], shard_of(key, shards_of(noun)))


def class_of(type_: str) -> type[Message] | None:
    """Return the class of a CloudEvents type, or None when this version does not know it."""
    found = DECLARATIONS.get(type_)
    if found is None:
        noun = type_.partition(".")[0]
        found = DECLARATIONS.get(f"{noun}.*")
    return found[1] if found else None


def checked_key(key: Any) -> str:
    """Return `key` if it may stand in a subject, else raise ValueError: nothing from outside gets there unchecked."""
    if not isinstance(key, str) or not KEY.match(key):
        raise ValueError(f"{key!r} cannot be a key: it must match {KEY.pattern}")
    return key


def hashed_key(*parts: str) -> str:
    """Return the key of a path or of a pair such as (organization, name): 128 bits of SHA-256, hexadecimal."""
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return digest[:32]
