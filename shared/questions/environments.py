"""What the executor is asked of the environments that code runs in."""

from __future__ import annotations

import msgspec

from shared.messages.catalog import FileProblem
from shared.questions.declaration import Command, Question, command, question
from shared.questions.files import Committed


class PackageView(msgspec.Struct, frozen=True):
    """A package of an environment."""

    name: str
    version: str


class EnvironmentView(msgspec.Struct, frozen=True, kw_only=True):
    """The packages of a workspace, or of one file that has its own: then `name` is its path, else `workspace`.

    `path` is the file that asks for them. `status` is `ready`, `building` or `failed`; of one that is being built `step` is what is
    done now, and `done` of `total` packages are installed. `problems` say why it failed, in the resolver's words. `serves`: whether
    runs have it now. `lock` is PEP 751 text, where it is asked for alone.
    """

    name: str
    path: str
    status: str
    serves: bool
    step: str = ""
    done: int = 0
    total: int = 0
    id: str | None = None
    packages: list[PackageView] = []
    files: int = 0
    bytes: int = 0
    problems: list[FileProblem] = []
    updated_at: str | None = None
    lock: str | None = None


class EnvironmentList(msgspec.Struct, frozen=True):
    """The environments of a workspace: those that serve, and those that are being built or failed just before."""

    items: list[EnvironmentView]
    next_cursor: str | None


@question("executor.environments", by="gateway")
class ListEnvironments(Question[EnvironmentList], frozen=True, kw_only=True):
    """The environments of a workspace; with `locks` each with its lock."""

    locks: bool = False


@command("executor.build_environments", by="gateway", timeout=120.0)
class BuildEnvironments(Command[Committed], frozen=True, kw_only=True):
    """Resolve what the workspace asks for anew, to the newest versions that fit, and register its workflows with them."""
