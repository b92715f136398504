"""Bringing a workspace to what a folder holds."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millrace.cli.api import Api, Document
from millrace.cli.folder import Stamp, files_of, is_code, plan, sha256_of, stamps_of


@dataclass
class Deployed:
    """What was done, and how the workspace's code is now. `files` are the API's views of what was sent, in order.

    `left_out` is what the folder has and is not deployed, by path, with the reason; `own` are the paths of what it deploys.
    """

    files: list[Document] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unchanged: int = 0
    problems: list[Document] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    @property
    def is_nothing(self) -> bool:
        """Whether there was nothing to do."""
        return not self.files and not self.deleted

    def document(self) -> dict[str, Any]:
        """Return it all for `--output json`."""
        return {
            "files": self.files,
            "deleted": self.deleted,
            "kept": self.kept,
            "unchanged": self.unchanged,
            "problems": self.problems,
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out.items()],
        }


class Deployment:
    """One folder and the workspace that it is deployed to."""

    def __init__(self, api: Api, folder: Path, *, prune: bool) -> None:
        self._api = api
        self._folder = folder
        self._prune = prune
        self._hashes: dict[str, tuple[Stamp, str]] = {}

    def bring(self, *, check: bool) -> Deployed:
        """Upload what has changed, delete what is gone if that is wanted.

        `check`: where no code has changed, one file of it is sent again, because only then the API says what is wrong with it.
        Raises `Refused`, also when somebody else changes the same files meanwhile, and `Unreachable`.
        """
        found = files_of(self._folder)
        files = found.files
        local = self._hashed(files)
        views = self._api.pages("/workspace/files")["items"]
        remote = {view["path"]: view["sha256"] for view in views}
        # Of what cannot be looked at, nobody can say that it has gone.
        planned = plan(local, {path: sha256 for path, sha256 in remote.items() if not found.is_unseen(path)})
        done = Deployed(
            unchanged=len(local) - len(planned.changed),
            kept=[] if self._prune else planned.gone,
            left_out=found.left_out,
            own=frozenset(files),
        )
        for path in planned.changed:
            view = self._put(path, files[path], remote.get(path))
            if view is not None:
                done.files.append(view)
                done.problems = view["problems"] if is_code(path) else done.problems
        for path in planned.gone if self._prune else []:
            gone = self._api.call("DELETE", "/workspace/files", *path.split("/"), headers=_match(remote[path]))
            done.deleted.append(path)
            done.problems = gone["problems"] if is_code(path) else done.problems
        code = sorted(path for path in local if is_code(path))
        if check and code and not any(is_code(path) for path in (*planned.changed, *done.deleted)):
            done.problems = (self._put(code[0], files[code[0]], remote[code[0]]) or {"problems": []})["problems"]
        return done

    def _put(self, path: str, file: Path, before: str | None) -> Document | None:
        """Store a file if it is there as it was before; returns its view, or None when it has gone from the folder meanwhile."""
        guard = {"If-None-Match": "*"} if before is None else _match(before)
        try:
            opened = file.open("rb")
        except FileNotFoundError:
            return None  # it was there a moment ago; it is not any more
        with opened:
            size = opened.seek(0, 2)
            opened.seek(0)
            return self._api.put_file(path, opened, size, guard)

    def _hashed(self, files: dict[str, Path]) -> dict[str, str]:
        """Return the SHA-256 of each file; one that was not saved since is not read again."""
        stamps = stamps_of(files)
        for name, stamp in stamps.items():
            if self._hashes.get(name, (None, ""))[0] != stamp:
                # One that has just gone is not there the next time.
                with contextlib.suppress(FileNotFoundError):
                    self._hashes[name] = (stamp, sha256_of(files[name]))
        return {name: self._hashes[name][1] for name, stamp in stamps.items() if self._hashes.get(name, (None, ""))[0] == stamp}


def _match(sha256: str) -> dict[str, str]:
    return {"If-Match": f'"{sha256}"'}
