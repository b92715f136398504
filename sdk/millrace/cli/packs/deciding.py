"""What to do about one thing of a pack, by what the pack brought, what is there now, and what the pack wants. Pure.

A thing is known by its digest; `ABSENT` is that of what is not there. Both sides are compared with what they last agreed on, as the
files of a workspace and of a repository are: what only the pack has changed is brought, what only somebody here has changed stays.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

ABSENT = ""
# The digest of what the owner has not checked yet, because what it refers to is not there: no digest is like it.
UNKNOWN = "?"
# Digests that the record of a pack holds of one thing.
MOST = 4
Action = Literal["none", "create", "change", "remove", "keep", "conflict"]


def decide(base: Collection[str] | None, present: str, wanted: str, *, force: bool = False) -> Action:
    """Return what to do. `base` holds the digests that the pack may have left, none where that is not known; None: it left nothing.

    `keep`: somebody has changed it here, and the pack has not. `conflict`: both have, or it was never the pack's. `force` takes the
    pack's side in both.
    """
    if base is None and present != ABSENT:
        return "change" if force else "conflict"
    if present == wanted:
        return "none"
    is_as_left = base is None or not base or present in base
    if force or is_as_left:
        return "create" if present == ABSENT else "remove" if wanted == ABSENT else "change"
    return "keep" if base and wanted in base and wanted != ABSENT else "conflict"


def bases(before: Collection[str] | None, present: str, wanted: str) -> list[str]:
    """Return the digests that something may have while it is being changed: as it was left, and as it is to be.

    None (an empty list) where that is not known, as of what is only known once it is there, or after very many interruptions.
    """
    if wanted == UNKNOWN or (before is not None and not before):
        return []
    made = sorted({present, wanted} if before is None else {*before, wanted})
    return made if len(made) <= MOST else []
