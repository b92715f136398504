"""Fills the `{…}` of providers' addresses, so that a value changes no more of an address than the part where it stands. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, quote, urlsplit

from shared.errors import Invalid, Problem

_PART = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,49})\}")
_LABELS = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


def parameters_of(template: str) -> list[str]:
    """Return the names of the `{…}` of an address, or of a parameter's text."""
    return sorted(set(_PART.findall(template)))


def filled_text(text: str, values: Mapping[str, str]) -> str:
    """Return a parameter's text with the values of its `{…}`. Raises `Invalid` naming `parameters.<name>` where one is missing."""
    return _PART.sub(lambda found: _value(found[1], values), text)


def check_template(path: str, template: str, hosts: Sequence[str]) -> None:
    """Raise `Invalid` naming the field `path` where an address, filled or not, could be none.

    One whose values could make up the whole host is refused unless `hosts` names the ones that it may lead to.
    """
    parts = _split(path, template)
    host = parts.hostname or ""
    if not _HOST.fullmatch(_PART.sub("x", host)) and not host.startswith(("[", "::")) and ":" not in host:
        raise _wrong(path, "has a host that is none")
    fixed = _PART.split(host)[-1]
    # `{site}.example.com` stays below example.com whatever stands there; `{site}`, `{site}.com` and `a{site}` do not.
    if _PART.search(host) and (not fixed.startswith(".") or fixed.count(".") < 2) and not hosts:
        raise _wrong(path, "may lead to any host: `hosts` has to name those that it may lead to")
    for piece in (parts.scheme, parts.query):
        if "{" in piece:
            raise _wrong(path, "may have `{…}` in its host and its path only")


def filled(template: str, values: Mapping[str, str], hosts: Sequence[str]) -> str:
    """Return an address with the values of its `{…}`: labels of a host, and single segments of a path.

    Raises `Invalid` naming `parameters.<name>` where one is missing or does not fit there.
    """
    parts = _split("parameters", template)
    netloc = _PART.sub(lambda found: _label(found[1], values), parts.netloc)
    path = _PART.sub(lambda found: _segment(found[1], values), parts.path)
    made = parts._replace(netloc=netloc, path=path).geturl()
    again = urlsplit(made)
    if (again.scheme, again.port, again.username, again.query) != (parts.scheme, parts.port, None, parts.query):
        raise _wrong("parameters", "make another address of it")
    if netloc != parts.netloc and hosts and not any(_is_of(again.hostname or "", one) for one in hosts):
        raise _wrong("parameters", f"lead to a host that is none of {', '.join(hosts)}")
    return made


def _split(path: str, template: str) -> SplitResult:
    try:
        parts = urlsplit(template)
        port = parts.port
    except ValueError as error:
        raise _wrong(path, "is no address") from error
    if parts.scheme not in {"https", "http"} or not parts.hostname or port == 0:
        raise _wrong(path, "must be an address that begins with https://, or with http:// where the operator allows that address")
    if parts.username is not None or parts.password is not None or parts.fragment or any(one <= " " for one in template):
        raise _wrong(path, "must have no user, no fragment and no blanks")
    return parts


def _label(name: str, values: Mapping[str, str]) -> str:
    value = _value(name, values)
    if not _LABELS.fullmatch(value) or ".." in value:
        raise _wrong(f"parameters.{name}", "must be lower-case letters, digits, dots and hyphens, since it stands in a host")
    return value


def _segment(name: str, values: Mapping[str, str]) -> str:
    value = _value(name, values)
    if value in {".", ".."}:
        raise _wrong(f"parameters.{name}", "must be more than dots, since it stands in a path")
    return quote(value, safe="")


def _value(name: str, values: Mapping[str, str]) -> str:
    if name not in values:
        raise _wrong(f"parameters.{name}", "is missing: the provider's addresses need it")
    return values[name]


def _is_of(host: str, allowed: str) -> bool:
    return host == allowed or (allowed.startswith("*.") and host.endswith(allowed[1:]))


def _wrong(path: str, message: str) -> Invalid:
    return Invalid(f"{path} {message}", errors=(Problem(path, message),))
