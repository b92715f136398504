"""A workspace's files, in memory."""

import base64
import hashlib
import posixpath
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from millrace.errors import Refused
from millrace.testing.fakes import Answer

_CHUNK = 1 << 20
"""Bytes of one part, as on the platform, so that parts behave alike."""
_LISTED = 500


class Files:
    """Holds the files that are given, and lets the run `run` change what a run may change."""

    def __init__(self, given: Mapping[str, bytes | str], run: str) -> None:
        self._own = ("data/", f"artifacts/{run}/")
        self.held = {path: content.encode() if isinstance(content, str) else bytes(content) for path, content in given.items()}
        self._since = dict.fromkeys(self.held, _now())
        self._writing: dict[int, bytearray] = {}

    @property
    def answers(self) -> Mapping[str, Answer]:
        """By the kind of request."""
        return {
            "file_find": self._find,
            "file_list": self._list,
            "file_read": self._read,
            "file_write": self._write,
            "file_delete": self._delete,
        }

    def _find(self, asked: dict[str, Any]) -> Any:
        path = _normal(asked["path"])
        if path not in self.held:
            msg = f"there is no file {path!r} in the workspace of this organization or of global"
            raise Refused("NotFound", msg)
        content = self.held[path]
        sha256 = hashlib.sha256(content).hexdigest()
        return {"path": path, "size": len(content), "sha256": sha256, "updated_at": self._since[path]}

    def _list(self, asked: dict[str, Any]) -> Any:
        paths = sorted(path for path in self.held if path.startswith(asked["prefix"]) and path > asked["after"])
        items = [self._find({"path": path}) for path in paths[:_LISTED]]
        return {"items": items, "next": paths[_LISTED - 1] if len(paths) > _LISTED else None}

    def _read(self, asked: dict[str, Any]) -> Any:
        size = self._find(asked)["size"]
        part = self.held[asked["path"]][asked["at"] : asked["at"] + _CHUNK]
        return {"data": base64.b64encode(part).decode(), "size": size}

    def _write(self, asked: dict[str, Any]) -> Any:
        path = self._changeable(asked["path"])
        written = self._writing.setdefault(asked["writing"], bytearray())
        written += base64.b64decode(asked["data"])
        if not asked["is_last"]:
            return None
        self._check_place(path)
        self.held[path] = bytes(self._writing.pop(asked["writing"]))
        self._since[path] = _now()
        return self._find(asked)

    def _check_place(self, path: str) -> None:
        for other in sorted(self.held):
            if path.startswith(f"{other}/"):
                complaint = f"{other} is a file, and would have to be a folder"
            elif other.startswith(f"{path}/"):
                complaint = f"it is the folder of {other}"
            elif other != path and other.lower() == path.lower():
                complaint = f"it differs from {other} in upper and lower case only, which some file systems do not tell apart"
            else:
                continue
            msg = f"{path} cannot be put there: {complaint}"
            raise Refused("Invalid", msg)

    def _delete(self, asked: dict[str, Any]) -> Any:
        path = self._changeable(asked["path"])
        if path not in self.held:
            msg = f"there is no file {path}"
            raise Refused("NotFound", msg)
        del self.held[path]

    def _changeable(self, path: str) -> str:
        complaint = None
        if not _normal(path).startswith(self._own):
            complaint = "only what is below 'data/', and its own artifacts, is for runs to write"
        elif path.endswith((".py", ".pyi")) or path.rpartition("/")[2] in {"requirements.txt", "pyproject.toml"}:
            complaint = "it would be code, which only people deploy"
        if complaint is not None:
            msg = f"a run may not write or delete {path!r}: {complaint}"
            raise Refused("PermissionDenied", msg)
        return path


def _normal(path: str) -> str:
    if path.startswith("/") or path != posixpath.normpath(path) or path == "." or path.split("/", maxsplit=1)[0] == "..":
        wanted = "it must be relative and normal, without . and .. and doubled slashes"
        msg = f"{path[:120]!r} cannot be a workspace path: {wanted}"
        raise Refused("Invalid", msg)
    return path


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
