"""The users that root runs things as: one for Postgres, another for the sandbox, neither with an entry in /etc/passwd."""

import os
import pwd
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from deploy import launch
from deploy.errors import StartError

# Just below nobody (65534), which other services share; two, because a sandbox must not read Postgres' files.
POSTGRES_UID = 65533
SANDBOX_UID = 65532

Account = tuple[int, int]


def postgres_account() -> Account | None:
    """Return the user and group that Postgres runs as when root starts it; None when it runs as the starting user."""
    return (POSTGRES_UID, POSTGRES_UID) if os.geteuid() == 0 else None


def account_for_initdb(account: Account | None) -> Account | None:
    """Return a user that initdb takes: unlike postgres itself it insists on an entry in the user database."""
    if account is None:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError as error:
            message = (
                f"Postgres needs an entry for user {os.geteuid()} in /etc/passwd; add one, run as root, or give --postgres URL."
            )
            raise StartError(message) from error
        return None
    with suppress(KeyError):
        pwd.getpwuid(account[0])
        return account
    named = sorted((entry for entry in pwd.getpwall() if entry.pw_uid > 0), key=lambda entry: entry.pw_name != "nobody")
    if not named:
        message = "Postgres refuses to run as root and /etc/passwd names no other user; add one or give --postgres URL."
        raise StartError(message)
    return named[0].pw_uid, named[0].pw_gid


def check_reach(account: Account | None, *paths: Path) -> None:
    """Raise StartError, naming the folder in the way and the fix, when `account` cannot get to one of these paths."""
    for path, blocking in zip(paths, blocking_folders(account, *paths), strict=True):
        if blocking is not None:
            message = (
                f"Started by root, Postgres runs as user {POSTGRES_UID}, and the folder {blocking} bars its way to {path}: "
                f"run `chmod o+x {shlex.quote(blocking)}`, choose a place elsewhere, or start Millrace as an ordinary user."
            )
            raise StartError(message)


def blocking_folders(account: Account | None, *paths: Path) -> list[str | None]:
    """Return for each path the first folder above it that `account` may not enter; None where the way is free.

    Asked of the system under that user, so that access lists count.
    """
    if account is None:
        return [None for _ in paths]
    asked = [part for path in paths for part in ("--reach", str(path.parent))]
    answer = subprocess.run(
        [sys.executable, "-I", "-S", launch.__file__, "--uid", str(account[0]), "--gid", str(account[1]), *asked],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        cwd="/",
    )
    return [line or None for line in answer.stdout.splitlines()]


def give(folder: Path, account: Account) -> None:
    """Make `account` the owner of a folder and of everything in it; links are not followed."""
    for place, _, files in os.walk(folder):
        os.chown(place, *account, follow_symlinks=False)
        for name in files:
            os.chown(Path(place) / name, *account, follow_symlinks=False)
