"""Questions to the executor about adapters of workspaces, whose code runs in its sandbox."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from shared.messages.catalog import AdapterDeclaration
from shared.questions.declaration import Question, question
from shared.values import Key, Name

# Seconds for the code, of which a sender waits for some. Above it the process is killed, and the question is answered.
CODE_TIMEOUT = 3.0
# Bytes of a body that code verifies, which the question carries, and of one that it parses: as base64 each fits into a message.
MOST_VERIFIED, MOST_PARSED = 1024 * 1024, 8 * 1024 * 1024
# What an answer that an author wrote may be, and have for headers: it comes from the origin of the console, in which it must run no
# script, set no cookie and lead nowhere else.
HARMLESS_TYPES = frozenset({"text/plain", "application/json"})
HARMLESS_HEADER = re.compile(r"(?:x-(?!content-type-options\Z|frame-options\Z|accel-)|webhook-|allow\Z)[a-z0-9-]*", re.IGNORECASE)
# Seconds of the question: for the code, and the way to it.
ASK_TIMEOUT = 6.0


class AdapterEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An adapter of a workspace as the registry `adapters` holds it, under the hash of (organization, name)."""

    org: str
    name: str
    version: str
    module: str
    function: str
    path: str
    line: int
    doc: str
    declaration: AdapterDeclaration
    updated_at: str


class AdapterFound(msgspec.Struct, frozen=True):
    """A registry entry with its sequence; `entry` is None for an adapter that was removed."""

    seq: int
    entry: AdapterEntry | None


@question("executor.find_adapter", by="events")
class FindAdapter(Question[AdapterFound], frozen=True, kw_only=True):
    """The adapter that an organization means by a name: its own, else the platform's. Raises NotFound."""

    name: Name


class AdapterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a source; its body is in the bucket `bodies` where `body_ref` names it."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    query: list[tuple[str, str]]
    body_base64: str = ""
    body_ref: str | None = None


class AdapterReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a handshake."""

    status: int
    content_type: str
    headers: dict[str, str]
    body_base64: str


def check_answer(content_type: str, headers: dict[str, str]) -> None:
    """Raise ValueError for an answer that may not come from the address of the console."""
    if content_type not in HARMLESS_TYPES:
        raise ValueError(f"an answer is {' or '.join(sorted(HARMLESS_TYPES))}, not {content_type[:100]!r}")
    for name, value in headers.items():
        if not HARMLESS_HEADER.fullmatch(name):
            raise ValueError(f"an answer has headers that begin with X- or WebHook-, and Allow, not {name[:100]!r}")
        if not value.isprintable() or not value.isascii():
            raise ValueError(f"the header {name[:100]} holds what no header may")


class MadeEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event that an adapter has made."""

    type: str
    data: Any = None
    headers: dict[str, str] = {}


class AdapterAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the code of an adapter has answered.

    `genuine` with the sender's id of the `delivery`, if it has one; `refused` with the reason; `reply` to a handshake; `events`;
    `nothing` to a request that is no handshake. `failed`: the code raised, or answered what it may not, and would again; `lost`: it
    took too long, or its process ended. Then `reason` is for the organization, and not for the sender.
    """

    outcome: Literal["genuine", "refused", "reply", "events", "nothing", "failed", "lost"]
    reason: str | None = None
    delivery: str | None = None
    reply: AdapterReply | None = None
    events: list[MadeEvent] = []


@question("executor.adapter", by=("gateway", "events"), timeout=ASK_TIMEOUT)
class AskAdapter(Question[AdapterAnswer], frozen=True, kw_only=True):
    """What an adapter of `owner`'s workspace, at a version, makes of a request to a source of the organization.

    `receive`: a handshake, else whether it is genuine. `handshake` and `parse` are that alone. `sealed` are the source's secrets,
    encrypted as they are kept. Raises NotFound for a version without this adapter; Unavailable where too many wait for it, while it
    rests because its code hung, and where nothing can be run.
    """

    owner: Name
    adapter: Name
    version: Name
    act: Literal["receive", "handshake", "parse"]
    source: Key
    settings: dict[str, Any]
    sealed: dict[str, str]
    request: AdapterRequest
