"""A lock: which file of which package an environment holds, each with its hash. Written and read as PEP 751 has it. Pure."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import sysconfig
import tomllib
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.markers import InvalidMarker, Marker
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from services.executor.environments.requirements import Requirements

MOST_BYTES = 8 << 20
"""Of a lock's text."""
MOST_PACKAGES = 2000
_LONGEST_NAME = 255
_FORMAT = 1
"""Counts the ways in which environments were built: an environment of another one is built anew."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,127}[A-Za-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class LockError(Exception):
    """A lock that cannot be used; `package` is the one that is to blame, if it is one."""

    def __init__(self, message: str, package: str = "") -> None:
        self.package = package
        super().__init__(message)


class Package(msgspec.Struct, frozen=True, order=True):
    """One package: the wheel or source distribution `file`, to be had at `url`, which holds no credentials."""

    name: str
    version: str
    file: str
    sha256: str
    url: str

    @property
    def is_source(self) -> bool:
        """Whether its wheel is built here."""
        return not self.file.endswith(".whl")


class Lock(msgspec.Struct, frozen=True):
    """The packages of an environment by name, for this machine's Python and platform."""

    packages: tuple[Package, ...]

    @property
    def identity(self) -> str:
        """Hash of all that decides about the files of the environment. Where a wheel is to be had does not."""
        told = _FORMAT, here(), [(one.name, one.version, one.file, one.sha256) for one in self.packages]
        return hashlib.sha256(msgspec.json.encode(told)).hexdigest()

    @property
    def text(self) -> str:
        """The lock as a file, `pylock.toml`: the same text for the same packages from the same place."""
        parts = ['lock-version = "1.0"', 'created-by = "millrace"', f"# {here()}", ""]
        for one in self.packages:
            file = f"{{ name = {_quoted(one.file)}, url = {_quoted(one.url)}, hashes = {{ sha256 = {_quoted(one.sha256)} }} }}"
            parts += [
                "[[packages]]",
                f"name = {_quoted(one.name)}",
                f"version = {_quoted(one.version)}",
                f"sdist = {file}" if one.is_source else f"wheels = [{file}]",
                "",
            ]
        return "\n".join(parts)


@cache
def here() -> str:
    """Return the Python and platform that locks are for."""
    libc = "-".join(platform.libc_ver())
    return f"{sys.implementation.cache_tag} {'.'.join(map(str, sys.version_info[:3]))} {sysconfig.get_platform()} {libc}"


def read(text: str, requirements: Requirements | None = None) -> Lock:
    """Read what a resolver wrote, or `Lock.text`, and choose the file of each package for this machine. Raises `LockError`.

    That is a wheel, or a source distribution where there is nothing else.
    """
    if len(text) > MOST_BYTES:
        raise LockError(f"the lock has more than {MOST_BYTES} characters")
    try:
        found = tomllib.loads(text).get("packages", [])
        if len(found) > MOST_PACKAGES:
            raise LockError(f"the lock has more than {MOST_PACKAGES} packages")
        wanted = {} if requirements is None else {one.name: one.hashes for one in (*requirements.wanted, *requirements.constraints)}
        chosen = [_package(one, wanted) for one in found if _is_for_here(one)]
    except (tomllib.TOMLDecodeError, RecursionError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise LockError(f"the lock cannot be read: {error!r}"[:500]) from error
    names = [one.name for one in chosen]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LockError("the lock holds it twice", twice)
    return Lock(tuple(sorted(chosen)))


def _package(found: dict[str, Any], wanted: dict[str, tuple[str, ...]]) -> Package:
    name, version = canonicalize_name(found["name"]), str(found.get("version", ""))
    if not _NAME.fullmatch(name) or len(version) > 200:
        raise LockError(f"the lock holds {name[:100]!r}, which is no name of a package")
    best: tuple[int, Package] | None = None
    sources = [found["sdist"]] if "sdist" in found and not found.get("wheels") else []
    for file in [*found.get("wheels", []), *sources]:
        package = _of_file(name, version, file)
        if wanted.get(name) and package.sha256 not in wanted[name]:
            continue
        rank = 0 if sources else _rank(package.file)
        if rank is not None and (best is None or rank < best[0]):
            best = rank, package
    if best is not None:
        return best[1]
    if wanted.get(name):
        raise LockError(f"no file of {name} {version} that fits this machine has one of the hashes that are asked for", name)
    raise LockError(
        f"{name} {version} has no wheel for this machine ({here()}), and is none of the packages that are built from their source",
        name,
    )


def _of_file(name: str, version: str, found: dict[str, Any]) -> Package:
    url = found.get("url") or f"file://{found['path']}"
    file = found.get("name") or unquote(urlsplit(url).path.rpartition("/")[2])
    sha256 = found.get("hashes", {}).get("sha256", "")
    if not _SHA256.fullmatch(sha256):
        raise LockError("the index gives no SHA-256 for its files, by which they would be compared", name)
    return Package(name, version, file, sha256, _without_credentials(url))


def _is_for_here(found: dict[str, Any]) -> bool:
    try:
        return "marker" not in found or Marker(found["marker"]).evaluate({"extra": ""})
    except InvalidMarker as error:
        raise LockError("the lock has a marker that cannot be read") from error


def fits(file: str) -> bool:
    """Return whether a wheel of this name can be installed on this machine."""
    return _rank(file) is not None


def _rank(file: str) -> int | None:
    """Return how well a wheel fits, 0 for best; None where it does not."""
    if len(file) > _LONGEST_NAME:  # every combination of its tags is made
        return None
    try:
        _, _, _, tags = parse_wheel_filename(file)
    except InvalidWheelFilename:
        return None
    return min((_ranks()[tag] for tag in tags if tag in _ranks()), default=None)


@cache
def _ranks() -> dict[Tag, int]:
    ranks: dict[Tag, int] = {}
    for tag in sys_tags():
        ranks.setdefault(tag, len(ranks))
    return ranks


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    if parts.port == 0:  # one beyond all ports is a ValueError
        raise ValueError("port 0")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()


def _quoted(text: str) -> str:
    return json.dumps(text)
