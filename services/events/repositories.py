"""Rules of repositories that no schema can state."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import urlsplit

from services.events import domain
from shared.egress.policy import target
from shared.errors import Invalid, Problem
from shared.owners.rules import Draft, Rules
from shared.resources.repository import Repository

PORTS = {"https": 443, "http": 80, "ssh": 22}
# git check-ref-format(1), less what nobody misses.
_BRANCH = re.compile(r"(?!.*(\.\.|//|@\{|\.lock(/|\Z)))[A-Za-z0-9_][A-Za-z0-9_./+@#=-]{0,199}(?<![./])")
_HOST_KEY = re.compile(r"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]{20,900}={0,2}")
_EMAIL = re.compile(r"[^\s<>\x00-\x1f]{1,200}")


class Repositories(Rules[Repository]):
    """The address can be used and holds no password, which would be shown; branch and folder can be some."""

    async def check(self, draft: Draft[Repository]) -> Repository:
        """Return the spec if it can be used."""
        spec = draft.spec
        for field, complaint in (
            ("url", _complaint(spec.url)),
            ("branch", None if _BRANCH.fullmatch(spec.branch) else "is no name of a branch"),
            ("folder", _of_folder(spec.folder)),
            (
                "secret",
                "stands beside a connection: one of them is shown to the remote" if spec.secret and spec.connection else None,
            ),
            ("secret", "is missing: by SSH it is the private key" if _is_ssh(spec) and not spec.secret else None),
            ("host_key", _of_host_key(spec)),
            ("author_email", None if _EMAIL.fullmatch(spec.author_email) else "is no address"),
        ):
            if complaint is not None:
                raise Invalid(f"{field} {complaint}", errors=(Problem(field, complaint),))
        if spec.source is not None:
            domain.checked_pattern(spec.event)
        return spec


def _complaint(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        if parts.scheme not in PORTS:
            return f"begins with https://, ssh:// or http://, not {parts.scheme[:20] or 'nothing'!r}"
        if "@" in parts.netloc:
            return "holds a user or a password, which would be shown: name a secret or a connection"
        target(parts.netloc, PORTS[parts.scheme])
    except ValueError as error:
        return f"is no address: {error}"
    if parts.query or parts.fragment or not parts.path.strip("/"):
        return "is the path of a repository at a host, without a query"
    return "holds what no address has" if not url.isascii() or not url.isprintable() or " " in url else None


def _is_ssh(spec: Repository) -> bool:
    return spec.url.startswith("ssh:")


def _of_host_key(spec: Repository) -> str | None:
    if not _is_ssh(spec):
        return None if spec.host_key is None else "is for addresses that begin with ssh://"
    if spec.host_key is None:
        return "is missing: `ssh-keyscan HOST` prints those of a host, and its documentation says which is right"
    return None if _HOST_KEY.fullmatch(spec.host_key) else "is a type and a key in base64: ssh-ed25519 AAAA…"


def _of_folder(folder: str) -> str | None:
    if not folder:
        return None
    parts = folder.split("/")
    is_path = posixpath.normpath(folder) == folder and not folder.startswith("/") and ".." not in parts and "." not in parts
    return None if is_path and folder.isprintable() and "\\" not in folder else "is no folder within the repository"
