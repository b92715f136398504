"""What the oauth service is asked and told about variables and secrets. Values of secrets are sealed in these."""

from __future__ import annotations

from typing import Any

import msgspec

from shared.questions.declaration import Command, Done, Page, Question, command, question
from shared.values import Key, Name, Opaque


class VariableView(msgspec.Struct, frozen=True, kw_only=True):
    """A variable; its version is the sequence of the message that said it."""

    org: str
    name: str
    value: Any
    created_at: str
    updated_at: str
    version: int


class VariableList(msgspec.Struct, frozen=True):
    """A page of variables."""

    items: list[VariableView]
    next_cursor: str | None


class SecretView(msgspec.Struct, frozen=True, kw_only=True):
    """A secret without its value. `status` is active, revoking, or quarantined when the key that sealed it is missing."""

    id: str
    org: str
    name: str
    status: str
    created_at: str
    updated_at: str
    version: int


class SecretList(msgspec.Struct, frozen=True):
    """A page of secrets."""

    items: list[SecretView]
    next_cursor: str | None


class SecretGiven(msgspec.Struct, frozen=True, kw_only=True):
    """A secret's value, sealed for (organization, the asker's nonce, "secret"); `owner` is whose it is."""

    name: str
    owner: str
    sealed: str
    version: int


@question("oauth.variable", by="executor", answer=VariableView)
class GetVariable(Question, frozen=True, kw_only=True):
    """The variable that a run of the organization means by a name: its own one, else the platform's. Raises NotFound."""

    name: Name


@question("oauth.secret", by="executor", answer=SecretGiven)
class GetSecret(Question, frozen=True, kw_only=True):
    """The secret that a run of the organization means by a name: its own one, else the platform's.

    That it was given, or was not, is on disk before it is answered; `correlation_id` is the run's, whose chain that joins. Raises
    NotFound, Unavailable.
    """

    name: Name
    run: Key
    nonce: Opaque
    correlation_id: Name | None = None


@question("oauth.variables", by="gateway", answer=VariableList)
class ListVariables(Question, frozen=True, kw_only=True):
    """The variables of an organization, by name."""

    page: Page = Page()
    name: Name | None = None


@command("oauth.put_variable", by="gateway", answer=VariableView)
class PutVariable(Command, frozen=True, kw_only=True):
    """Create or replace a variable. `expected` is the version that must be there (If-Match), 0 for "none".

    Raises Invalid, PreconditionFailed, Conflict.
    """

    name: Name
    value: Any
    expected: int | None = None


@command("oauth.remove_variable", by="gateway", answer=Done)
class RemoveVariable(Command, frozen=True, kw_only=True):
    """Remove a variable; `expected` as for putting it. Raises NotFound, PreconditionFailed, Conflict."""

    name: Name
    expected: int | None = None


@question("oauth.secrets", by="gateway", answer=SecretList)
class ListSecrets(Question, frozen=True, kw_only=True):
    """The secrets of an organization, by name."""

    page: Page = Page()
    name: Name | None = None


@command("oauth.put_secret", by="gateway", answer=SecretView)
class PutSecret(Command, frozen=True, kw_only=True):
    """Create or replace a secret; `sealed` is its value sealed for (organization, command id, "secret").

    Raises Invalid, PreconditionFailed, Conflict.
    """

    name: Name
    sealed: str
    expected: int | None = None


@command("oauth.remove_secret", by="gateway", answer=Done)
class RemoveSecret(Command, frozen=True, kw_only=True):
    """Delete a secret and its value; `expected` as for putting it. Raises NotFound, PreconditionFailed, Conflict."""

    name: Name
    expected: int | None = None
