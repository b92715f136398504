"""Addresses of the stores: one URL that names several servers, and what of it may be shown.

`nats://user:password@a:4222,b:4222` is two brokers, and so is `nats://user:password@a:4222,nats://user:password@b:4222`.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

# Between two servers; a user stands with the first one, and is the same for all.
_BETWEEN = re.compile(r"\s*,\s*(?:[a-z]+://(?:[^@,/]*@)?)?")


def servers_of(url: str) -> list[str]:
    """Return the address of each server that `url` names."""
    parts = urlsplit(_short(url))
    user, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]


def user_of(url: str) -> tuple[str, str] | None:
    """Return the user and the password in a URL; None where it has not both."""
    parts = urlsplit(_short(url))
    if parts.username is None or parts.password is None:
        return None
    return unquote(parts.username), unquote(parts.password)


def with_user(url: str, user: str, password: str) -> str:
    """Return a URL with another user and password in it."""
    parts = urlsplit(_short(url))
    hosts = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{hosts}"))


def without_password(url: str) -> str:
    """Return `url` as it may be shown."""
    parts = urlsplit(_short(url))
    if parts.password is None:
        return urlunsplit(parts)
    return urlunsplit(parts._replace(netloc=f"{parts.username}:…@{parts.netloc.rpartition('@')[2]}"))


def writable(url: str) -> dict[str, str]:
    """Return what the database's driver has to be told besides a URL: of several servers only the one that writes will do.

    Nothing where the URL has one server, or says itself which one.
    """
    parts = urlsplit(url)
    asked = parse_qs(parts.query)
    hosts = asked.get("host", [parts.netloc.rpartition("@")[2]])[-1]
    return {"target_session_attrs": "read-write"} if "," in hosts and "target_session_attrs" not in asked else {}


def _short(url: str) -> str:
    """Return `url` with what its servers share said once."""
    head, at, hosts = url.strip().partition("@")
    return f"{head}{at}{_BETWEEN.sub(',', hosts)}" if at else _BETWEEN.sub(",", head)
