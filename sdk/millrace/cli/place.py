"""Finds the address of Millrace and the key: in a profile, the environment, or the stack that runs here."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

FIELDS = {"url", "key", "org"}
# Characters that can stand in a header; any other is a key that was pasted with something around it.
_KEY = re.compile(r"[\x21-\x7e]+\Z")
_HOW = (
    "set MILLRACE_URL and MILLRACE_KEY, name a profile with --profile, or stand in a folder where `millrace up` runs "
    "(./.millrace/ready.json, or one above)"
)


@dataclass(frozen=True)
class Place:
    """An address without a slash at its end, the key for it, and the default organization."""

    url: str
    key: str = field(repr=False)
    org: str | None = None


def find(profile: str | None, environment: Mapping[str, str], folder: Path) -> Place:
    """Return the profile's place, else the environment's, else that of the stack that runs in `folder` or above.

    `click.UsageError` names the part that is missing or not private, and never holds a key.
    """
    org = environment.get("MILLRACE_ORG") or None
    if profile is not None:
        return _of_profile(profile, config_file(environment), org)
    url, key = environment.get("MILLRACE_URL"), environment.get("MILLRACE_KEY")
    if url and key:
        return _place(url, key, org, "MILLRACE_URL")
    if url or key:
        raise click.UsageError(f"MILLRACE_{'URL' if url else 'KEY'} is set and MILLRACE_{'KEY' if url else 'URL'} is not.")
    ready = next((path for path in _upwards(folder) if path.is_file()), None)
    if ready is None:
        raise click.UsageError(f"No Millrace is known here: {_HOW}.")
    try:
        told = json.loads(_private(ready))
        return _place(told["url"], told["admin_key"], org, str(ready))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise click.UsageError(f"{ready} cannot be read: {type(error).__name__}.") from error


def config_file(environment: Mapping[str, str]) -> Path:
    """Return where the profiles are: ~/.config/millrace/config.toml, or below XDG_CONFIG_HOME."""
    above = environment.get("XDG_CONFIG_HOME")
    return (Path(above) if above else Path.home() / ".config") / "millrace" / "config.toml"


def _of_profile(name: str, file: Path, org: str | None) -> Place:
    try:
        told = tomllib.loads(_private(file))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file} is not TOML: {error}.") from error
    profiles: Any = told.get("profiles")
    profiles = profiles if isinstance(profiles, dict) else {}
    chosen = profiles.get(name)
    if not isinstance(chosen, dict):
        known = ", ".join(sorted(profiles)) or "none"
        raise click.UsageError(f"{file} has no profile {name!r}; there are: {known}.")
    unknown = sorted(chosen.keys() - FIELDS)
    if unknown:
        raise click.UsageError(f"{file}: profiles.{name}.{unknown[0]} is not a setting; a profile has url, key and org.")
    for needed in ("url", "key"):
        if not isinstance(chosen.get(needed), str):
            raise click.UsageError(f"{file}: profiles.{name}.{needed} is missing or is not text.")
    return _place(chosen["url"], chosen["key"], org or chosen.get("org"), f"{file}: profiles.{name}.url")


def _place(url: str, key: str, org: str | None, said_by: str) -> Place:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username or parts.password:
        raise click.UsageError(f"{said_by} is not an address such as https://millrace.example.com.")
    if not _KEY.match(key):
        raise click.UsageError("The key holds a character that no key has.")
    return Place(url.rstrip("/"), key, org)


def _private(file: Path) -> str:
    """Return the text of a file that holds a key; only its owner, this user or root, may read it."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            content = opened.read()
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read: {error.strerror}.") from error
    # In a world-writable folder another user's file would send our workspace to them.
    if status.st_uid not in {os.geteuid(), 0}:
        raise click.UsageError(f"{file} belongs to user {status.st_uid}, not to you: it is not believed.")
    if status.st_mode & 0o077:
        raise click.UsageError(f"{file} holds a key and is open to others: run `chmod 600 {file}`.")
    return content.decode()


def _upwards(folder: Path) -> Iterable[Path]:
    for above in (folder, *folder.parents):
        yield above / ".millrace" / "ready.json"
