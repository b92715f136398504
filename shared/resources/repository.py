"""Repositories: where an organization's workspace is kept in git besides."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.resources.declaration import Resource, Spec, about, refers_to, resource
from shared.values import Name, Path, Words

Address = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


@resource(
    "repository",
    plural="repositories",
    owner="events",
    registered=("events",),
    # A workspace has one other side: with two, what is missing on one of them would mean two things.
    most=1,
    columns=("name", "url", "branch", "folder", "source", "updated_at"),
    example={"url": "https://git.example.org/acme/flows.git", "branch": "main", "secret": "git-token"},
)
class Repository(Spec, frozen=True, kw_only=True):
    """A branch of a remote git repository that the workspace is kept in step with; the organization has one at most.

    The remote is shown a token, as the password of `username`: that of a connection, or a secret of the organization's own. By SSH
    the secret is a private key, and the host shows the one that is pinned here.
    """

    url: Annotated[Address, about("Where it is: https://host/path or ssh://host/path, without a user and a password.")]
    branch: Annotated[Name, about("The branch that is pulled and pushed.")] = "main"
    folder: Annotated[Path, about("The folder of the repository that is the workspace; all of it unless given.")] = ""
    connection: Annotated[Name, refers_to("connection"), about("The connection whose token is shown to the remote.")] | None = None
    secret: Annotated[Name, refers_to("secret"), about("The secret that is shown to the remote.")] | None = None
    username: Annotated[Name, about("The user whose password or key that is; `oauth2`, or `git` by SSH, unless given.")] | None = (
        None
    )
    host_key: Annotated[Words, about("The public key of the host, by SSH: `ssh-ed25519 AAAA…`; no other is accepted.")] | None = (
        None
    )
    author_email: Annotated[Name, about("The address of who makes commits here.")] = "millrace@localhost"
    source: (
        Annotated[Name, refers_to("source", by_id=True), about("The source whose events say that the branch has changed.")] | None
    ) = None
    event: Annotated[Name, about("Which of its events: a type such as push, a prefix such as repo.*, or *.")] = "push"
    on_event: Annotated[Literal["pull", "sync"], about("What they lead to: `pull`, or `sync`, which pushes as well.")] = "pull"


RepositoryEntry = Resource[Repository]
