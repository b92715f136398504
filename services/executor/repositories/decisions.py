"""Decides what goes from a repository to a workspace, what the other way, and what needs a person. Pure.

A side is its files: the SHA-256 of each content by path. The base is what both sides had last; a path that both changed is a
conflict unless they agree. Each path is in at most one of the sets, because each is decided once.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping

import msgspec

from services.executor import domain
from shared.questions.files import MOST_CHANGES, MOST_PATH_BYTES

Side = Mapping[str, str]

CHANGED, ADDED, REMOVED = "changed", "added", "removed"
# Lines of context around a change, and lines of one difference that are shown.
CONTEXT, MOST_LINES = 3, 2000
# Bytes and lines of a text that is compared line by line: the comparison takes a time that grows with the square of the latter.
MOST_COMPARED, MOST_LINES_COMPARED = 256 * 1024, 5000


class SyncDecision(msgspec.Struct, frozen=True):
    """The content that each path gets, None where the file goes; conflicts; and paths left alone on both sides, with the reason."""

    to_pull: dict[str, str | None]
    to_push: dict[str, str | None]
    conflicts: tuple[str, ...]
    refused: dict[str, str]

    @property
    def is_nothing(self) -> bool:
        """Whether both sides are alike but for what is refused."""
        return not (self.to_pull or self.to_push or self.conflicts)


def decide(base: Side, local: Side, remote: Side, refused: Mapping[str, str], ignored: Collection[str] = ()) -> SyncDecision:
    """Compare the sides. `refused` are paths of the remote that no workspace can have, with the reason.

    `ignored` are those that are not to be pushed: it counts for files that the remote has never had.
    """
    to_pull: dict[str, str | None] = {}
    to_push: dict[str, str | None] = {}
    conflicts: list[str] = []
    left = dict(refused)
    for path in sorted(base.keys() | local.keys() | remote.keys()):
        known, ours, theirs = base.get(path), local.get(path), remote.get(path)
        if ours == theirs or path in left or (path in ignored and known is None and theirs is None):
            continue
        if ours == known:
            to_pull[path] = theirs
        elif theirs == known:
            to_push[path] = ours
        else:
            conflicts.append(path)
    for path, reason in _clashes(local, remote, refused, to_pull, to_push).items():
        left[path] = reason
        to_pull.pop(path, None)
        to_push.pop(path, None)
    return SyncDecision(to_pull, to_push, tuple(conflicts), left)


def _clashes(
    local: Side, remote: Side, refused: Iterable[str], to_pull: Mapping[str, str | None], to_push: Mapping[str, str | None]
) -> dict[str, str]:
    """Return which new paths cannot be beside others that either side has afterwards, with the reason."""
    after = domain.changed_tree({**remote, **dict.fromkeys(refused, "")}, to_push) | domain.changed_tree(dict(local), to_pull)
    new = [path for path in to_pull if path not in local and path in after]
    new += [path for path in to_push if path not in remote and path in after]
    return domain.misplaced(after, new)


def agreed(base: Side, remote: Side, decision: SyncDecision) -> dict[str, str]:
    """Return what both sides had last, once everything that is to be pulled is there: the remote's files but for open questions."""
    open_ = {*decision.conflicts, *decision.refused}
    found = {path: sha256 for path, sha256 in remote.items() if path not in open_}
    return found | {path: base[path] for path in open_ if path in base}


def settled(base: Side, paths: Iterable[str], side: Side) -> dict[str, str]:
    """Return the base with some paths as a side has them."""
    return domain.changed_tree(dict(base), {path: side.get(path) for path in paths})


def fitting_a_commit(paths: Iterable[str]) -> list[str]:
    """Return as many of the first paths as one commit of the workspace changes."""
    found: list[str] = []
    left = MOST_PATH_BYTES
    for path in sorted(paths):
        left -= len(path.encode())
        if left < 0 or len(found) == MOST_CHANGES:
            break
        found.append(path)
    return found


def kind_of(before: str | None, after: str | None) -> str:
    """Return what happened to a file."""
    return ADDED if before is None else REMOVED if after is None else CHANGED


def explained(path: str, base: Side, local: Side, remote: Side) -> str:
    """Return what makes a path a conflict, in words."""
    ours, theirs = local.get(path), remote.get(path)
    if ours is None:
        return "removed in the workspace, changed in the repository"
    if theirs is None:
        return "changed in the workspace, removed in the repository"
    return "added to both with different content" if path not in base else "changed in both"


def moved_modes(base: Side, to_push: Mapping[str, str | None], executable: Collection[str]) -> set[str]:
    """Return the new paths that are executable because a file of the same content, which was, goes at once: it was renamed."""
    was = {base[path] for path, after in to_push.items() if after is None and path in executable and path in base}
    return {path for path, after in to_push.items() if after is not None and path not in base and after in was}


def difference(path: str, before: bytes | None, after: bytes | None) -> str:
    """Return a unified difference of two contents (None: no file), or a sentence where they cannot be compared by lines."""
    texts: list[list[str]] = []
    for content in (before, after):
        if content is not None and len(content) > MOST_COMPARED:
            return f"{path}: {len(before or b'')} and {len(after or b'')} bytes, too large to be compared by lines\n"
        try:
            texts.append([] if content is None else content.decode().splitlines(keepends=True))
        except UnicodeDecodeError:
            return f"{path}: {len(before or b'')} and {len(after or b'')} bytes that are no text\n"
        if len(texts[-1]) > MOST_LINES_COMPARED:
            return f"{path}: {len(before or b'')} and {len(after or b'')} bytes, of too many lines to be compared\n"
    old, new = (f"{side}/{path}" if content is not None else "/dev/null" for side, content in (("a", before), ("b", after)))
    lines: list[str] = []
    for line in difflib.unified_diff(texts[0], texts[1], old, new, n=CONTEXT):
        if len(lines) == MOST_LINES:
            lines.append("(more was changed)\n")
            break
        lines.append(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n")
    return "".join(lines)
