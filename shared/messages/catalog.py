"""Definitions: configured entities and their author. Every message holds the whole new state, so that the last one is the entity.

Entities with a name are keyed by the hash of (organization, name), which makes names unique on the bus itself.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from shared.messages.declaration import Message, message

Severity = Literal["error", "warning"]


class FileProblem(msgspec.Struct, frozen=True):
    """Why a workspace file could not be taken into service, or, as a warning, why runs may fail though it was."""

    path: str
    line: int
    message: str
    severity: Severity = "error"


@message("file.changed", key="key", by="executor")
class FileChanged(Message, frozen=True, kw_only=True):
    """A workspace file has new content; the bucket `workspace` holds it under `sha256`.

    `commit` is the id of the command that changed it, and with it others, and `note` what that said it was for; `moved_from` is the
    path that the content had before.
    """

    key: str
    path: str
    sha256: str
    size: int
    actor: str
    commit: str | None = None
    note: str | None = None
    moved_from: str | None = None


@message("file.removed", key="key", by="executor")
class FileRemoved(Message, frozen=True, kw_only=True):
    """A workspace file was deleted, by a commit as the one above."""

    key: str
    path: str
    actor: str
    commit: str | None = None
    note: str | None = None


@message("history.trimmed", key="key", by="executor")
class HistoryTrimmed(Message, frozen=True, kw_only=True):
    """An organization keeps no versions of its files any more that were replaced before `before` (RFC 3339), nor, of one file, more
    than the last `most`: their content may go.
    With `below` only that goes which was recorded of files below this folder, and all of it.
    """

    key: str
    before: str
    most: int
    below: str | None = None


class DeclaredSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as it stands beside a workflow's code: the fields of a schedule but for what is run, and whether it is on."""

    cron: str | None = None
    every: int | None = None
    timezone: str = "UTC"
    input: dict[str, Any] | None = None
    overlap: str = "skip"
    catch_up: str = "one"


class DeclaredOptions(msgspec.Struct, frozen=True, kw_only=True):
    """For how many seconds the options of a data provider are fresh, and for how many they are answered after that."""

    ttl: float = 60.0
    stale: float = 300.0


class DeclaredTool(msgspec.Struct, frozen=True, kw_only=True):
    """What agents are told of a workflow that is a tool; None where its author says nothing."""

    read_only: bool | None = None
    destructive: bool | None = None
    idempotent: bool | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow's declarations for its runs, beside their time-out and the number of retries. Durations are in seconds.

    A retry comes after a pause drawn from 0 to `retry_delay` times two to the number of failures before, at most `retry_max_delay`.
    A run that has not begun after `queue_timeout` expires. Of runs that share the workflow's concurrency key `concurrency_limit`
    go on at a time; `concurrency_policy` is `queue`, `reject` or `cancel_older`. `isolation` is `run`, or `workflow` where a child
    serves several runs of one organization, one after the other. `preload`: whether packages may be imported ahead of its runs.
    `schedule` is when it runs by itself. `options` are there for a data provider, and only then. `group` is the worker group that
    carries its runs out, None for the default one. `tool` is there for one that is offered to agents.
    """

    retry_delay: float = 1.0
    retry_max_delay: float = 3600.0
    queue_timeout: float | None = None
    concurrency_limit: int = 1
    concurrency_policy: str = "queue"
    isolation: str = "run"
    preload: bool = True
    group: str | None = None
    schedule: DeclaredSchedule | None = None
    options: DeclaredOptions | None = None
    tool: DeclaredTool | None = None


@message("workflow.changed", key="key", by="executor")
class WorkflowChanged(Message, frozen=True, kw_only=True):
    """A workflow is served at `version`, the hash of the bundle of code that defines it."""

    key: str
    name: str
    version: str
    module: str
    function: str
    path: str
    line: int
    doc: str
    input_schema: dict[str, Any]
    timeout: float
    retries: int
    concurrency: str | None = None
    policy: Policy = Policy()


@message("workflow.removed", key="key", by="executor")
class WorkflowRemoved(Message, frozen=True, kw_only=True):
    """No file of the workspace defines this workflow any more."""

    key: str
    name: str


class AdapterDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """The declaration of an adapter of a workspace.

    `verification` is a `shared.verification.Verification` as JSON. `secrets` are the descriptions of secret settings, `settings`
    the schemas of the others, and `required` those without which no source is made. `code` names what the adapter's code does
    beside parsing: `verify`, `delivery` (the sender's id of one), `handshake`. Without `verify` the gateway verifies by itself.
    `entity` is the path in an event of what tells whose it is. `registering` is a `shared.registering.DeclaredRegistering` as JSON.
    """

    verification: dict[str, Any]
    secrets: dict[str, str] = {}
    settings: dict[str, dict[str, Any]] = {}
    required: list[str] = []
    code: list[str] = []
    event_types: list[str] = []
    link: str | None = None
    entity: str | None = None
    registering: dict[str, Any] | None = None


@message("adapter.changed", key="key", by="executor")
class AdapterChanged(Message, frozen=True, kw_only=True):
    """An adapter of a workspace is served at `version`, the hash of the bundle of code that defines it."""

    key: str
    name: str
    version: str
    module: str
    function: str
    path: str
    line: int
    doc: str
    declaration: AdapterDeclaration


@message("adapter.removed", key="key", by="executor")
class AdapterRemoved(Message, frozen=True, kw_only=True):
    """No file of the workspace defines this adapter any more."""

    key: str
    name: str


@message("secret.changed", key="secret", by="oauth")
class SecretChanged(Message, frozen=True, kw_only=True):
    """A secret was created or changed, as a rule its value, which is in no message; `version` counts that."""

    secret: str
    name: str
    version: int
    actor: str


@message("secret.removed", key="secret", by="oauth")
class SecretRemoved(Message, frozen=True, kw_only=True):
    """A secret was deleted, and its value with it."""

    secret: str
    name: str
    actor: str


@message("provider.changed", key="provider", by="oauth")
class ProviderChanged(Message, frozen=True, kw_only=True):
    """A provider of tokens was created or changed; its client's secret is in no message. `version` counts the changes."""

    provider: str
    name: str
    version: int
    actor: str


@message("provider.removed", key="provider", by="oauth")
class ProviderRemoved(Message, frozen=True, kw_only=True):
    """A provider of tokens was deleted, and its client's secret with it."""

    provider: str
    name: str
    actor: str


@message("identity_provider.changed", key="identity_provider", by="oauth")
class IdentityProviderChanged(Message, frozen=True, kw_only=True):
    """A provider by which people sign in was created or changed; its client's secret is in no message. `version` counts."""

    identity_provider: str
    name: str
    version: int
    actor: str


@message("identity_provider.removed", key="identity_provider", by="oauth")
class IdentityProviderRemoved(Message, frozen=True, kw_only=True):
    """A provider by which people signed in was deleted, and its client's secret with it."""

    identity_provider: str
    name: str
    actor: str
