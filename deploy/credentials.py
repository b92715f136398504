"""The secrets of one embedded installation: made once per data folder, then only read."""

import base64
import os
import re
import secrets
from pathlib import Path

import msgspec

from deploy.errors import StartError
from deploy.files import write_private

SERVICES = ("gateway", "events", "executor", "oauth", "logs")
# Sixteen random letters and digits are 95 bits; shorter keys could be guessed.
SHORTEST_ADMIN_KEY = 16
KEY_BYTES = 32


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Every secret of an installation; all passwords are URL-safe, so they stand in a URL as they are.

    `nats_issuer` is the seed, in base64, of the key that admits subscribers.
    """

    nats_admin: str
    nats: dict[str, str]
    nats_issuer: str = ""
    postgres_admin: str
    postgres: dict[str, str]
    keys: list[str]
    admin_key: str

    def __repr__(self) -> str:
        """Show nothing: a repr ends up in logs."""
        return "Credentials(...)"


def load_or_create(path: Path, admin_key: str | None) -> Credentials:
    """Return the credentials in `path`, making them the first time only.

    A given `admin_key` replaces the one kept and is kept in its place. StartError when it is too short or not printable,
    or when the file is damaged.
    """
    if admin_key is not None:
        _check_admin_key(admin_key)
    try:
        kept = _decode(path, path.read_bytes())
    except FileNotFoundError:
        made = _create(admin_key)
        write_private(path, msgspec.json.encode(made))
        return made
    # One of a version that admitted none has no issuer.
    changed = msgspec.structs.replace(
        kept, admin_key=admin_key or kept.admin_key, nats_issuer=kept.nats_issuer or _random_bytes(KEY_BYTES)
    )
    if changed == kept:
        return kept
    write_private(path, msgspec.json.encode(changed))
    return changed


def _create(admin_key: str | None) -> Credentials:
    return Credentials(
        nats_admin=secrets.token_urlsafe(32),
        nats={service: secrets.token_urlsafe(32) for service in SERVICES},
        nats_issuer=_random_bytes(KEY_BYTES),
        postgres_admin=secrets.token_urlsafe(32),
        postgres={service: secrets.token_urlsafe(32) for service in SERVICES},
        keys=[_random_bytes(KEY_BYTES)],
        admin_key=admin_key or "mr_" + secrets.token_urlsafe(32),
    )


def _decode(path: Path, content: bytes) -> Credentials:
    try:
        credentials = msgspec.json.decode(content, type=Credentials)
        complete = (
            set(SERVICES) <= credentials.nats.keys()
            and set(SERVICES) <= credentials.postgres.keys()
            and bool(credentials.keys)
            and all(len(base64.b64decode(key, validate=True)) == KEY_BYTES for key in _keys_in(credentials))
        )
    except (msgspec.DecodeError, ValueError):
        complete = False
    if not complete:
        message = f"{path} is damaged: put it back from a backup, since without its keys the stored secrets cannot be read."
        raise StartError(message)
    return credentials


def _keys_in(credentials: Credentials) -> list[str]:
    return [*credentials.keys, *filter(None, (credentials.nats_issuer,))]


def _random_bytes(number: int) -> str:
    return base64.b64encode(os.urandom(number)).decode()


def _check_admin_key(key: str) -> None:
    if len(key) < SHORTEST_ADMIN_KEY:
        message = f"MILLRACE_ADMIN_KEY is too short: it needs at least {SHORTEST_ADMIN_KEY} characters."
        raise StartError(message)
    if not re.fullmatch(r"[A-Za-z0-9._~+/=-]+", key):
        message = "MILLRACE_ADMIN_KEY may hold only letters, digits and . _ ~ + / = -"
        raise StartError(message)
