"""Packs: what was applied as one, so that it can be upgraded and removed as one."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from shared.resources.declaration import Spec, about, resource
from shared.values import Name, Path, Words

Digest = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
"""The SHA-256 of a content, or nothing where there is none."""
Held = Annotated[dict[Path, Annotated[list[Digest], msgspec.Meta(max_length=4)]], msgspec.Meta(max_length=500)]
"""What a pack holds: by name the digests that it may have, several while it is being changed, none where that is not known."""


@resource(
    "pack",
    plural="packs",
    owner="events",
    columns=("name", "release", "status", "origin", "description", "updated_at"),
    example={"release": "1.0.0", "origin": "https://git.example.org/acme/packs.git", "resources": {"variable/region": []}},
)
class Pack(Spec, frozen=True, kw_only=True):
    """The record of a package of work that was applied: its release, where it came from, and what it brought.

    `millrace packs` writes it. It does not bring or remove anything by itself: resources and files are changed where they are. What
    differs from the digests here was changed by somebody else.
    """

    release: Annotated[Name, about("The version that the pack calls itself; while it is being applied the one that is to be.")]
    status: Annotated[
        Literal["applying", "applied", "removing"],
        about("Whether it is there as a whole: `applying` and `removing` are of what was begun and has not ended."),
    ] = "applied"
    origin: Annotated[Words, about("Where it came from: a folder, or an address and a commit.")] = ""
    description: Annotated[Words, about("What it does, in a sentence.")] = ""
    resources: Annotated[Held, about("Its resources, as `kind/name`, with the SHA-256 of their fields.")] = msgspec.field(
        default_factory=dict
    )
    files: Annotated[Held, about("Its files of the workspace, by path, with their SHA-256.")] = msgspec.field(default_factory=dict)
