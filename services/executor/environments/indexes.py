"""Where packages come from: the index that the operator names, else the one that the machine's pip uses."""

from __future__ import annotations

import ast
import configparser
import functools
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec

from shared.egress.addresses import Address
from shared.egress.policy import EgressPolicy, Refusal, Target

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRET = re.compile(r"\$\{secret:([A-Za-z0-9._-]{1,200})\}")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/@'\"]+@")
# Variables that pip's settings depend on; no others of this process are given to it.
_OF_PIP = re.compile(r"(PIP_\w+|XDG_CONFIG_(HOME|DIRS)|HOME|VIRTUAL_ENV|PATH|LANG|LC_\w+|PYTHON(PATH|HOME|UTF8|NOUSERSITE))\Z")
_PIP_SECONDS = 30.0


class Indexes(msgspec.Struct, frozen=True):
    """Addresses of indexes (`extra` are asked first), pages or folders of links, a file of certificates, constraints for all locks.

    `default` is None where there is no index beside the links. `hosts` are further hosts that files may come from. Where an address
    names a secret, `${secret:NAME}` stands there until it is `filled`.
    """

    default: str | None = None
    extra: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    certificates: str | None = None
    constraints: str = ""
    hosts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show no address: it may hold a password."""
        return "Indexes(...)"

    @property
    def folders(self) -> list[Path]:
        """Folders of this machine that hold packages, or lead to them; and the file of certificates."""
        found = [Path(self.certificates)] if self.certificates else []
        for address in self._addresses:
            path = _local(address)
            if path is not None:
                # Its files mostly lie beside an index; nobody is shown the whole machine for it.
                found.append(path.parent if path.name == "simple" and path.parent != Path("/") else path)
        return [path.absolute() for path in found]

    @property
    def policy(self) -> EgressPolicy:
        """The hosts that resolving and fetching may reach."""
        allowed: set[tuple[str, int]] = set()
        public = public_index()
        for address in self._addresses:
            parts = urlsplit(address)
            if parts.scheme in {"http", "https"} and parts.hostname:
                port = parts.port or (443 if parts.scheme == "https" else 80)
                allowed |= {(parts.hostname.lower(), port)}
                if public is not None and parts.hostname == urlsplit(public.address).hostname:
                    allowed |= {(public.files, 443)}
        for host in self.hosts:
            name, _, port_text = host.partition(":")
            allowed |= {(name.lower(), int(port_text or 443))}
        return _OnlyIndexes(frozenset(allowed))

    @property
    def environment(self) -> dict[str, str]:
        """The settings by which the resolver knows all of this. They may hold passwords."""
        settings = {
            "UV_INDEX": " ".join(self.extra),
            "UV_FIND_LINKS": ",".join(self.links),
            "UV_SYSTEM_CERTS": "1",
            "UV_NATIVE_TLS": "1",
        }
        if self.default is not None:
            settings["UV_DEFAULT_INDEX"] = self.default
        if self.certificates:
            settings["SSL_CERT_FILE"] = self.certificates
        return {name: value for name, value in settings.items() if value}

    @property
    def secrets(self) -> frozenset[str]:
        """Names of the secrets that addresses lack."""
        return frozenset(name for address in self._addresses for name in _SECRET.findall(address))

    def filled(self, secrets: Mapping[str, str]) -> Indexes:
        """Return the indexes with these secrets in their addresses."""

        def whole(address: str) -> str:
            return _SECRET.sub(lambda found: quote(secrets[found[1]].strip(), safe=""), address)

        default = None if self.default is None else whole(self.default)
        extra, links = tuple(map(whole, self.extra)), tuple(map(whole, self.links))
        return msgspec.structs.replace(self, default=default, extra=extra, links=links)

    def is_local(self, url: str) -> bool:
        """Return whether a file lies on this machine."""
        return urlsplit(url).scheme == "file"

    def credentials(self, url: str) -> str | None:
        """Return `user:password` for an address of one of the indexes' hosts."""
        parts = urlsplit(url)
        for address in self._addresses:
            known = urlsplit(address)
            same = (known.scheme, known.hostname, known.port) == (parts.scheme, parts.hostname, parts.port)
            if same and known.username is not None:
                return f"{unquote(known.username)}:{unquote(known.password or '')}"
        return None

    def cleaned(self, words: str) -> str:
        """Return a text without the credentials of any address."""
        for address in self._addresses:
            known = urlsplit(address)
            for secret in (known.password, unquote(known.password or ""), known.username if known.password is None else None):
                if secret:
                    words = words.replace(secret, "***")
        return _CREDENTIALS.sub("***@", words)

    @property
    def _addresses(self) -> list[str]:
        return [*([] if self.default is None else [self.default]), *self.extra, *self.links]


class PublicIndex(msgspec.Struct, frozen=True):
    """The address of the index that pip uses unless it is told another, and the host where its files lie."""

    address: str
    files: str


@cache
def public_index() -> PublicIndex | None:
    """Return the index that the machine's pip brings along; None where there is no pip."""
    try:
        known = importlib.import_module("pip._internal.models.index").PyPI
        return PublicIndex(str(known.simple_url), str(known.file_storage_domain))
    except (ImportError, AttributeError):
        return None


class _OnlyIndexes(EgressPolicy):
    """Allows these names and ports, wherever they lead: an operator has named them, and an index may have a private address."""

    def __init__(self, allowed: frozenset[tuple[str, int]]) -> None:
        super().__init__()
        self._allowed = allowed

    def refusal_of_name(self, target: Target) -> Refusal | None:
        if (target.host, target.port) in self._allowed:
            return None
        return Refusal("host", f"{target} is not the configured package index")

    def refusal_of_address(self, address: Address, port: int) -> Refusal | None:  # noqa: ARG002 - the name was allowed
        return None

    def is_opened(self, address: Address, port: int) -> bool:  # noqa: ARG002
        return True


def indexes(
    index_url: str | None,
    pip_conf: str | None,
    hosts: str | None = None,
    *,
    variables: Mapping[str, str] | None = None,
) -> Indexes:
    """Return the indexes: of one address, else of a file in pip's format, else as the machine's pip has them.

    In an address `${NAME}` stands for a variable of this process, and `${secret:NAME}` for a secret, which is filled in later.
    Raises ValueError, without repeating an address.
    """
    environment = os.environ if variables is None else variables
    if pip_conf is not None:
        settings = _of_file(Path(pip_conf))
    elif index_url is not None:
        settings = {}
    else:
        settings = _of_pip(environment)
    if index_url is not None:
        settings["index-url"] = index_url
        settings.pop("no-index", None)

    def addresses(name: str) -> tuple[str, ...]:
        return tuple(_filled(one, environment) for one in settings.get(name, "").split())

    public = public_index()
    default = next(iter(addresses("index-url")), None if public is None else public.address)
    constraint = settings.get("constraint", "").split()
    return Indexes(
        default=None if settings.get("no-index", "").lower() in {"1", "true", "yes", "on"} else default,
        extra=addresses("extra-index-url"),
        links=addresses("find-links"),
        certificates=settings.get("cert") or None,
        constraints="\n".join(_text(Path(one)) for one in constraint),
        hosts=tuple(re.split(r"[\s,]+", hosts)) if hosts else (),
    )


def _of_file(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ValueError(f"{path} is no file in pip's format: {type(error).__name__}") from error
    found: dict[str, str] = {}
    for section in ("global", "download", "install"):
        if parser.has_section(section):
            found |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    return found


def _of_pip(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the machine's pip's settings: those of files in several places, and variables."""
    found: dict[str, str] = {}
    # A later section outranks an earlier one.
    for section in ("global.", "download.", "install.", ":env:."):
        for line in _listed(frozenset(one for one in environment.items() if _OF_PIP.match(one[0]))).splitlines():
            name, equals, value = line.partition("=")
            if name.startswith(section) and equals:
                found[name.removeprefix(section)] = str(ast.literal_eval(value))
    return found


@functools.cache
def _listed(environment: frozenset[tuple[str, str]]) -> str:
    """Have pip list its settings: once in a process for the same variables, since that takes half a second of a core."""
    command = [sys.executable, "-m", "pip", "config", "list", "--disable-pip-version-check"]
    try:
        return subprocess.run(command, env=dict(environment), capture_output=True, timeout=_PIP_SECONDS, check=True).stdout.decode()
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return ""  # there is none, and so no settings of it


def _filled(address: str, environment: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in environment:
            raise ValueError(f"the variable {found[1]} is not set")
        return environment[found[1]].strip()

    known = _REFERENCE.sub("", address)
    if "${" in known:
        # Anywhere else a secret would be shown: messages hide credentials only, and a lock keeps the rest of an address.
        begin, _, rest = known.partition("://")
        user, at, _ = rest.partition("/")[0].rpartition("@")
        if begin not in ("https", "http") or "${" in _SECRET.sub("", user) or "${" in rest[len(user + at) :]:
            raise ValueError("a reference is ${NAME}, or ${secret:NAME} where an address has its user or password")
    return _REFERENCE.sub(value, address)


def _local(address: str) -> Path | None:
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(address) if not parts.scheme else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the constraints {path} cannot be read") from error
