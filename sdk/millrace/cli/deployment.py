"""Brings a workspace to the content of a folder."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from millrace.cli.api import Api, Document, Query, Refused
from millrace.cli.environments import installed
from millrace.cli.folder import Plan, Stamp, files_of, is_code, plan, sha256_of, stamps_of

# Files that the API changes at once, and bytes of their paths together.
MOST_CHANGES = 4000
MOST_PATH_BYTES = 512 * 1024
# Bytes of a file up to which it is read as a whole.
IN_MEMORY = 8 * 1024 * 1024
FORBIDDEN, MISSING = 403, 404

# A path of the workspace, and its new content; None: it is removed.
Change = tuple[str, Path | None]
# A file that a run has left: below its id.
_ARTIFACT = re.compile(r"artifacts/[0-9a-f-]{36}/")


@dataclass
class Deployed:
    """The result of a deploy, and the state of the workspace's code. `files` are the API's views of the files sent, in order.

    `left_out` are files of the folder that are not deployed, by path, with the reason; `own` are the paths of those that are.
    """

    files: list[Document] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    unchanged: int = 0
    problems: list[Document] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    @property
    def errors(self) -> list[Document]:
        """The problems that keep newer content from serving; the others are warnings."""
        return [problem for problem in self.problems if is_error(problem)]

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

        `check`: where no code has changed, one file of it is sent again, because only then the API returns its problems.
        Raises `Refused`, before anything is sent where that is too much for one commit, and when another client changes the same
        files meanwhile, and `Unreachable`.
        """
        found = files_of(self._folder)
        files = found.files
        local = self._hashed(files)
        views = self._api.pages("/workspace/files")["items"]
        # What a run has left is no part of what is deployed.
        remote = {view["path"]: view["sha256"] for view in views if not _ARTIFACT.match(view["path"])}
        # An unreadable entry may still be there.
        planned = plan(local, {path: sha256 for path, sha256 in remote.items() if not found.is_unseen(path)})
        if planned.gone:
            packed = self._packed()
            planned = Plan(planned.changed, [path for path in planned.gone if path not in packed])
        done = Deployed(
            unchanged=len(local) - len(planned.changed),
            kept=[] if self._prune else planned.gone,
            left_out=found.left_out,
            own=frozenset(files),
        )
        gone = planned.gone if self._prune else []
        code = sorted(path for path in local if is_code(path))
        sent = list(planned.changed)
        if check and code and not any(is_code(path) for path in (*sent, *gone)):
            sent.append(code[0])
        changes = [(path, files[path]) for path in sent] + [(path, None) for path in gone]
        if changes:
            _check_size([path for path, _ in changes], self._folder)
            answer = commit(self._api, changes, remote, local)
            changed = set(planned.changed)
            done.problems = answer["problems"]
            done.deleted = [path for path, view in answer["files"].items() if view is None]
            done.files = [view for path, view in answer["files"].items() if view is not None and path in changed]
        return done

    def _packed(self) -> set[str]:
        """Return the paths of what packs have brought: that is theirs, whatever a folder holds."""
        try:
            return {path for pack in self._api.pages("/packs")["items"] for path in pack["files"]}
        except Refused as refused:
            # An older server has none. With a key that is narrowed to the workspace nobody knows whose a file is.
            if refused.status == MISSING or (refused.status == FORBIDDEN and not self._prune):
                return set()
            if refused.status == FORBIDDEN:
                why = "nothing was deployed: --prune spares what packs have brought, and this key may not see packs (scope: packs)"
                raise Refused(FORBIDDEN, {"detail": f"{why}: {refused}"}) from refused
            raise

    def _hashed(self, files: dict[str, Path]) -> dict[str, str]:
        """Return the SHA-256 of each file; one that was not saved since is not read again."""
        stamps = stamps_of(files)
        for name, stamp in stamps.items():
            if self._hashes.get(name, (None, ""))[0] != stamp:
                # One that has just gone is not there the next time.
                with contextlib.suppress(FileNotFoundError):
                    self._hashes[name] = (stamp, sha256_of(files[name]))
        return {name: self._hashes[name][1] for name, stamp in stamps.items() if self._hashes.get(name, (None, ""))[0] == stamp}


def commit(
    api: Api, changes: Sequence[Change], remote: Mapping[str, str], local: Mapping[str, str], query: Query | None = None
) -> Document:
    """Change files that are there as in `remote`, all or none, and wait for the packages that their code needs.

    `local` has the hashes of the new ones. Returns all views by path, and the problems; raises as `Deployment.bring`.
    """
    answer = _sent(api, changes, remote, query)
    while answer.get("building"):
        # Its packages are being installed; what is sent again is registered with them.
        installed(api)
        again = [(path, file) for path, file in changes if file is not None][:1]
        # What is only tried is as it was.
        later = _sent(api, changes, remote, query) if query else _sent(api, again, local, query)
        answer = {**later, "files": {**answer["files"], **later["files"]}}
    return answer


def _sent(api: Api, changes: Sequence[Change], remote: Mapping[str, str], query: Query | None) -> Document:
    """Send one commit; a file that has gone from the folder meanwhile is left out."""
    with tempfile.TemporaryFile() as spool:
        with tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path, file in changes:
                _add(tar, path, file, remote.get(path, ""))
            is_empty = not tar.getmembers()
        size = spool.tell()
        spool.seek(0)
        return {"files": {}, "problems": []} if is_empty else api.commit(spool, size, query)


def is_error(problem: Document) -> bool:
    """Return whether a problem keeps newer content from serving; a warning does not."""
    return bool(problem.get("severity", "error") == "error")


def _check_size(paths: Sequence[str], folder: Path) -> None:
    """Raise `Refused` for more than one commit takes: in several, runs would load code of which half is new."""
    named = sum(len(path.encode(errors="surrogateescape")) for path in paths)
    if len(paths) > MOST_CHANGES or named > MOST_PATH_BYTES:
        fullest, count = Counter(str(PurePosixPath(path).parent) for path in paths).most_common(1)[0]
        detail = (
            f"nothing was deployed: {len(paths)} files of {folder} have changed, whose paths have {named} bytes, and one deploy "
            f"changes at most {MOST_CHANGES} whose paths have {MOST_PATH_BYTES}. Most of them, {count}, are in {folder / fullest}: "
            "take out those that runs do not need, or put some one by one with `millrace files put`"
        )
        raise Refused(413, {"detail": detail})


def _add(tar: tarfile.TarFile, path: str, file: Path | None, before: str) -> None:
    """Add new content of a file, or its removal as layers of container images have it (OCI image-spec, "Whiteouts")."""
    folder, slash, name = path.rpartition("/")
    member = tarfile.TarInfo(path if file else f"{folder}{slash}.wh.{name}")
    member.pax_headers = {"MILLRACE.expected": before}
    if file is None:
        tar.addfile(member)
        return
    # One that was there a moment ago may not be any more.
    with contextlib.suppress(FileNotFoundError), file.open("rb") as opened:
        content: BinaryIO = opened
        member.size = opened.seek(0, 2)
        opened.seek(0)
        if member.size <= IN_MEMORY:
            # It may be written to while it is read: its size goes first.
            content = io.BytesIO(opened.read())
            member.size = len(content.getbuffer())
        tar.addfile(member, content)
