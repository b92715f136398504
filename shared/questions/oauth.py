"""Questions to the oauth service, mostly for runs: tokens, secrets and variables. Secret values are sealed: see each field."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

from shared.questions.declaration import Command, Done, Question, command, question
from shared.values import Key, Name, Opaque, Words

A = TypeVar("A")


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A live token, sealed for (organization, `question`, "token"), where `question` is the asker's nonce.

    `request` is how it is sent, `{"headers": {}, "query": {}}` as JSON, sealed likewise for "request"; `base_url` is where to.
    `version` is the number of the token, for a report that the API has refused it; `unreplaced` why there is no newer one than one
    that was reported.
    """

    connection: str
    name: str
    sealed: str
    expires_at: str | None
    version: int
    request: str | None = None
    base_url: str | None = None
    unreplaced: str | None = None


class SecretGiven(msgspec.Struct, frozen=True, kw_only=True):
    """A secret's value, sealed for (organization, the asker's nonce, "secret"); `owner` is whose it is."""

    name: str
    owner: str
    sealed: str
    version: int


class VariableView(msgspec.Struct, frozen=True, kw_only=True):
    """A variable; its version is the sequence of the message that set it."""

    org: str
    name: str
    value: Any
    created_at: str
    updated_at: str
    version: int


class RunQuestion(Question[A], Generic[A], frozen=True, kw_only=True):
    """A run's question for what `name` means there; the record of the answer joins the run's chain by `correlation_id`.

    Without `run` it is the asking service's own; `source` then is the source whose registration with its sender needs it.
    """

    name: Name
    run: Key | None = None
    source: Key | None = None
    nonce: Opaque
    correlation_id: Name | None = None


@question("oauth.token", by=("executor", "events"), timeout=25.0)
class GetToken(RunQuestion[Token], frozen=True, kw_only=True):
    """A live token of the organization's connection `name`, for a run or for a source's registration.

    `rejected` is the version of a token that the API has refused: if there is none newer, another one is got, for reports at most
    once a minute. Raises NotFound, Invalid, Unavailable.
    """

    rejected: int | None = None


class KnownProviderView(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that is known: its documents, the grants that they describe, and the parameters that it needs of a connection."""

    name: str
    title: str
    documents: str
    grants: list[str]
    parameters: list[str]
    note: str | None


class AuthorizationBegun(msgspec.Struct, frozen=True, kw_only=True):
    """An authorization that is good until `expires_at`: its `state`, or for a device where the person enters `user_code`."""

    id: str
    expires_at: str
    state: str | None = None
    url: str | None = None
    user_code: str | None = None
    url_with_code: str | None = None


class AskedAuthorization(msgspec.Struct, frozen=True, kw_only=True):
    """What a person is asked for: the connection, who has begun it, and the provider's address where they would be led."""

    org: str
    name: str
    actor: str
    url: str


class AuthorizationOpened(msgspec.Struct, frozen=True, kw_only=True):
    """The address of the provider's page."""

    url: str


class AuthorizationView(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of an authorization; a `reason` for people where it failed."""

    id: str
    status: Literal["open", "authorized", "failed"]
    reason: str | None
    expires_at: str


class AuthorizationEnded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an authorization, of which connection if that is known; a `reason` for people where it failed."""

    org: str | None = None
    name: str | None = None
    reason: str | None = None


@command("oauth.begin_authorization", by="gateway", timeout=25.0)
class BeginAuthorization(Command[AuthorizationBegun], frozen=True, kw_only=True):
    """Have a person asked to authorize the connection `name`, who comes back to `redirect`. Raises NotFound, Invalid."""

    name: Name
    redirect: Words


@question("oauth.authorization", by="gateway")
class GetAuthorization(Question[AuthorizationView], frozen=True, kw_only=True):
    """What has become of an authorization of the connection `name`, until some minutes after its end. Raises NotFound."""

    name: Name
    authorization: Key


@question("oauth.asked_authorization", by="gateway")
class GetAskedAuthorization(Question[AskedAuthorization], frozen=True, kw_only=True):
    """What the person who opens an authorization is asked for. Raises NotFound with a reason for people."""

    state: Opaque


@command("oauth.open_authorization", by="gateway")
class OpenAuthorization(Command[AuthorizationOpened], frozen=True, kw_only=True):
    """Lead a person to the provider in the browser that `browser` stands for: no other one can come back from now on.

    Raises NotFound with a reason for people, also for one that another browser has opened.
    """

    state: Opaque
    browser: Words


@command("oauth.finish_authorization", by="gateway", timeout=25.0)
class FinishAuthorization(Command[AuthorizationEnded], frozen=True, kw_only=True):
    """Use what came back to `redirect` in a browser; the code is sealed for (`org`, `id`, "code"). Sent again it is refused."""

    state: Opaque
    browser: Words
    redirect: Words
    sealed_code: str | None = None
    iss: Words | None = None
    error: Words | None = None


@command("oauth.refresh_connection", by="gateway", timeout=25.0)
class RefreshConnection(Command[Done], frozen=True, kw_only=True):
    """Get another token for the connection `name` now. Raises NotFound, Invalid, Unavailable with the provider's reason."""

    name: Name


class ConnectionTested(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a connection works, as far as its provider could be asked, `by` which of its addresses, and in words."""

    outcome: Literal["works", "broken", "unknown"]
    by: str | None
    detail: str


@command("oauth.try_connection", by="gateway", timeout=25.0)
class TryConnection(Command[ConnectionTested], frozen=True, kw_only=True):
    """Ask the provider of the connection `name` whether its credential works. Raises NotFound."""

    name: Name


@question("oauth.known_providers", by="gateway")
class ListKnownProviders(Question[list[KnownProviderView]], frozen=True, kw_only=True):
    """The providers that need no addresses of their own, by name."""


@question("oauth.secret", by="executor")
class GetSecret(RunQuestion[SecretGiven], frozen=True, kw_only=True):
    """The secret that a run of the organization means by a name: its own one, else the platform's; none that is for services alone.

    The record of the answer, or of a refusal, is on disk before. Raises NotFound, Unavailable.
    """


@question("oauth.variable", by="executor")
class GetVariable(Question[VariableView], frozen=True, kw_only=True):
    """The variable that a run of the organization means by a name: its own one, else the platform's. Raises NotFound."""

    name: Name
