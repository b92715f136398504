"""Finds the address of Millrace and the key: in an option, the environment, a profile, or the stack that runs here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import click

from millrace.cli.profiles import Profiles, config_file, private

# Characters that can stand in a header; any other is a key that was pasted with something around it.
_KEY = re.compile(r"[\x21-\x7e]+\Z")
_HOW = (
    "sign in with `millrace login URL`, set MILLRACE_URL and MILLRACE_KEY, name a profile with --profile, or stand in a folder "
    "where `millrace up` runs (./.millrace/ready.json, or one above)"
)


@dataclass(frozen=True)
class Place:
    """An address without a slash at its end, the key for it, the default organization, and what said so: for people.

    `profile` is the name of the profile that it comes from, if it does.
    """

    url: str
    key: str = field(repr=False)
    org: str | None = None
    source: str = field(default="", compare=False)
    profile: str | None = field(default=None, compare=False)


def find(profile: str | None, environment: Mapping[str, str], folder: Path) -> Place:
    """Return where commands go: as the option `profile` has it, else MILLRACE_URL and MILLRACE_KEY, else MILLRACE_PROFILE, else the
    profile in use, else the stack that runs in `folder` or above.

    `click.UsageError` names the part that is missing or not private, and never holds a key.
    """
    org = environment.get("MILLRACE_ORG") or None
    profiles = Profiles(config_file(environment))
    if profile is not None:
        return _of_profile(profile, profiles, org, "--profile")
    url, key = environment.get("MILLRACE_URL"), environment.get("MILLRACE_KEY")
    if url and key:
        return Place(address_of(url, "MILLRACE_URL"), _key(key), org, "MILLRACE_URL and MILLRACE_KEY")
    if url or key:
        raise click.UsageError(f"MILLRACE_{'URL' if url else 'KEY'} is set and MILLRACE_{'KEY' if url else 'URL'} is not.")
    if named := environment.get("MILLRACE_PROFILE"):
        return _of_profile(named, profiles, org, "MILLRACE_PROFILE")
    if (used := profiles.read().used) is not None:
        return _of_profile(used, profiles, org, "in use")
    ready = next((path for path in _upwards(folder) if path.is_file()), None)
    if ready is None:
        raise click.UsageError(f"No Millrace is known here: {_HOW}.")
    try:
        told = json.loads(private(ready))
        return Place(address_of(told["url"], str(ready)), _key(told["admin_key"]), org, str(ready))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise click.UsageError(f"{ready} cannot be read: {type(error).__name__}.") from error


def address_of(url: str, said_by: str) -> str:
    """Return an address without a slash at its end. `click.UsageError` where it is none, or holds a name and a password."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or parts.query or parts.fragment or parts.username or parts.password:
        raise click.UsageError(f"{said_by} is not an address such as https://millrace.example.com.")
    return url.rstrip("/")


def _of_profile(name: str, profiles: Profiles, org: str | None, said_by: str) -> Place:
    chosen = profiles.read().chosen(name)
    url = address_of(chosen["url"], f"{profiles.file}: profiles.{name}.url")
    source = f"the profile {name} ({said_by}) of {profiles.file}"
    return Place(url, _key(chosen["key"]), org or chosen.get("org"), source, name)


def _key(text: str) -> str:
    if not _KEY.match(text):
        raise click.UsageError("The key holds a character that no key has.")
    return text


def _upwards(folder: Path) -> Iterable[Path]:
    for above in (folder, *folder.parents):
        yield above / ".millrace" / "ready.json"
