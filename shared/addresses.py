"""Addresses of the stores: one URL that names several servers and files for TLS, and what of it may be shown.

`nats://user:password@a:4222,b:4222` is two brokers, and so is `nats://user:password@a:4222,nats://user:password@b:4222`.
`tls://a:4222?sslrootcert=/etc/ca.pem` is a broker whose certificate that authority has signed.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit, urlunsplit

# Between two servers; a user stands with the first one, and is the same for all.
_BETWEEN = re.compile(r"\s*,\s*(?:[a-z]+://(?:[^@,/]*@)?)?")
# As Postgres' clients call them (postgresql.org/docs/current/libpq-connect.html); of the broker there is no such custom.
_AUTHORITY, _CERTIFICATE, _KEY = TLS_FILES = ("sslrootcert", "sslcert", "sslkey")


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


def tls_of(url: str) -> ssl.SSLContext | None:
    """Return the context of the files that an address names in its query; None where it names none.

    Raises ValueError for a file that cannot be used and for a parameter that a broker's address does not take. Its message is the
    rest of a sentence that begins with the address.
    """
    parts = urlsplit(_short(url))
    asked = parse_qs(parts.query, keep_blank_values=True)
    if asked and not parts.scheme.startswith("postgres"):
        if unknown := sorted(asked.keys() - set(TLS_FILES)):
            raise ValueError(f"has the parameter {unknown[0]!r}: a broker's address takes {', '.join(TLS_FILES)}")
        if parts.scheme not in {"tls", "wss"}:
            raise ValueError(f"names {min(asked)}, for which it has to begin with tls://")
    named = {name: asked[name][-1] for name in TLS_FILES if name in asked}
    if not named:
        return None
    if _KEY in named and _CERTIFICATE not in named:
        raise ValueError(f"names {_KEY} without {_CERTIFICATE}")
    for name, place in named.items():
        try:
            Path(place).open("rb").close()
        except OSError as error:
            raise ValueError(f"names {place!r} as {name}, which cannot be read: {error.strerror}") from error
    try:
        context = ssl.create_default_context(cafile=named.get(_AUTHORITY))
        if _CERTIFICATE in named:
            # A password that is not given would be asked for at a terminal.
            context.load_cert_chain(named[_CERTIFICATE], named.get(_KEY), password=asked.get("sslpassword", [""])[-1])
    except ssl.SSLError as error:
        raise ValueError(f"names files that TLS cannot use, {' or '.join(named.values())}: {error.reason or error}") from error
    return context


def _short(url: str) -> str:
    """Return `url` with what its servers share said once."""
    head, at, hosts = url.strip().partition("@")
    return f"{head}{at}{_BETWEEN.sub(',', hosts)}" if at else _BETWEEN.sub(",", head)
