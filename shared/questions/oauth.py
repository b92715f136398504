"""What the oauth service is asked and told. Secrets in these are sealed: see each field."""

from __future__ import annotations

import msgspec

from shared.questions.declaration import Command, Done, Page, Question, command, question
from shared.values import Key, Name, Opaque


class ConnectionView(msgspec.Struct, frozen=True, kw_only=True):
    """A connection without its credential."""

    id: str
    org: str
    name: str
    grant: str
    status: str
    created_at: str
    updated_at: str
    version: int


class ConnectionList(msgspec.Struct, frozen=True):
    """A page of connections."""

    items: list[ConnectionView]
    next_cursor: str | None


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A live token, sealed for (organization, `question`, "token"), where `question` is the asker's nonce."""

    connection: str
    name: str
    sealed: str
    expires_at: str | None
    version: int


@question("oauth.token", by="executor", answer=Token)
class GetToken(Question, frozen=True, kw_only=True):
    """A live token of the organization's connection `name` for a run. Raises NotFound, Unavailable.

    `correlation_id` is the run's: the record that a token was given joins its chain.
    """

    name: Name
    run: Key
    nonce: Opaque
    correlation_id: Name | None = None


@command("oauth.put_connection", by="gateway", answer=ConnectionView)
class PutConnection(Command, frozen=True, kw_only=True):
    """Create or replace a connection of grant `token`; `sealed` is the token sealed for (organization, command id, "token").

    Raises Invalid, PreconditionFailed, Conflict.
    """

    name: Name
    grant: Name
    sealed: str
    expected: int | None = None


@command("oauth.remove_connection", by="gateway", answer=Done)
class RemoveConnection(Command, frozen=True, kw_only=True):
    """Delete a connection and its credential; `expected` as for putting it. Raises NotFound, PreconditionFailed, Conflict."""

    name: Name
    expected: int | None = None


@question("oauth.connections", by="gateway", answer=ConnectionList)
class ListConnections(Question, frozen=True, kw_only=True):
    """The connections of an organization, by name."""

    page: Page = Page()
    name: Name | None = None
