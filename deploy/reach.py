"""Puts files where the users of Postgres and of the sandbox reach them, if the data folder or this installation is out of reach.

Started by root, both run as users of their own, and the home folder of root is closed to them. Nothing of it is opened. Postgres
is given its data folder as the one that it starts in, and needs no way there; its programs, which are public, are copied to a
world-readable place, and the sandbox's files lie in a folder beside. Both can be made anew at any time.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from deploy import launch
from deploy.accounts import SANDBOX_UID, Account, blocking_folders
from deploy.errors import StartError

CACHES = Path("/var/cache/millrace")
ASKING_TAKES = 30
# The folder that a cache belongs to: when that is gone, so may this be.
NOTE = "made-for"
HERE = Path("/proc/self/cwd")


def sandbox_folder(data: Path, name: str = "executor") -> Path:
    """Return where an executor's folder is: below `data`, or elsewhere when the sandbox's user does not get to `data`."""
    if os.geteuid() != 0 or barred(data) is None:
        return data / name
    digest = hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]
    return CACHES / f"{name}-{digest}"


def make_sandbox_folder(data: Path, name: str = "executor") -> Path:
    """Make an executor's folder, closed to other users. StartError when it cannot be made."""
    folder = sandbox_folder(data, name)
    if folder.parent == data:
        folder.mkdir(exist_ok=True)
    else:
        _make_caches()
        _forget_what_is_gone()
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / NOTE).write_bytes(os.fsencode(data.resolve()))
        (folder / NOTE).chmod(0o600)
    close(folder)
    return folder


def close(folder: Path) -> None:
    """Close a folder of ours to all but the sandbox's user, where there is one."""
    if os.geteuid() == 0 and sys.platform == "linux":
        os.chown(folder, 0, SANDBOX_UID)
        folder.chmod(0o710)
    else:
        folder.chmod(0o700)


def barred(data: Path) -> str | None:
    """Return the first folder above `data` that bars the sandbox's way; None where it is free."""
    if os.geteuid() != 0:
        return None
    return blocking_folders((SANDBOX_UID, SANDBOX_UID), data)[0]


def programs_within_reach(programs: Path, account: Account | None) -> Path:
    """Return a folder with these programs of Postgres that `account` can execute: `programs`, or a copy in a copy of its wheel.

    StartError when neither is to be had.
    """
    if account is None or _run(programs, account):
        return programs
    made = (programs / "postgres").stat()
    stamp = hashlib.sha256(f"{programs}\0{made.st_size}\0{made.st_mtime_ns}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
    copy = _make_caches() / f"postgres-{stamp}"
    tree = programs.parent
    if not copy.exists():
        # Their libraries lie beside the package, where wheels put them, and are found by the way there.
        libraries = tree.parent.with_name(f"{tree.parent.name}.libs")
        _copy({place: place.relative_to(tree.parents[1]) for place in (tree, libraries) if place.exists()}, copy)
    copied = copy / programs.relative_to(tree.parents[1])
    if not _run(copied, account):
        raise StartError(
            f"Started by root, Postgres runs as user {account[0]}, who can execute neither the programs in {programs} nor a copy "
            f"below {CACHES}: allow programs there, or start Millrace as an ordinary user."
        )
    return copied


def _run(programs: Path, account: Account) -> bool:
    command = [sys.executable, "-I", "-S", launch.__file__, "--uid", str(account[0]), "--gid", str(account[1]), "--"]
    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    try:
        for program in ("postgres", "initdb"):
            asked = [*command, str(programs / program), "--version"]
            subprocess.run(asked, capture_output=True, check=True, timeout=ASKING_TAKES, cwd="/", env=environment)
    except subprocess.SubprocessError:
        return False
    return True


def _make_caches() -> Path:
    """Make the place of all that lies beside data folders; only root may ever have written there."""
    try:
        CACHES.mkdir(mode=0o711, parents=True, exist_ok=True)
        found = CACHES.lstat()
        if found.st_uid == 0 and not CACHES.is_symlink():
            CACHES.chmod(0o711)
            return CACHES
        reason = f"it belongs to user {found.st_uid}" if found.st_uid else "it is a link"
    except OSError as error:
        reason = error.strerror or str(error)
    raise StartError(
        f"The data folder or this installation lies out of reach for the users of Postgres and of the sandbox, and {CACHES} "
        f"cannot be used in its place: {reason}. Choose a folder with --data that every user can get to, or start Millrace as an "
        "ordinary user."
    )


def _forget_what_is_gone() -> None:
    """Remove the files of data folders that no longer exist."""
    for note in CACHES.glob(f"executor-*/{NOTE}"):
        with suppress(OSError):
            if not os.path.exists(note.read_bytes()):  # noqa: PTH110 - of bytes
                shutil.rmtree(note.parent)


def _copy(places: dict[Path, Path], copy: Path) -> None:
    """Copy folders to their places below `copy`, world-readable; all of them or nothing."""
    fresh = Path(tempfile.mkdtemp(dir=copy.parent, prefix=".postgres-"))
    try:
        for place, below in places.items():
            shutil.copytree(place, fresh / below, symlinks=True)
        for path in [fresh, *fresh.rglob("*")]:
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        fresh.rename(copy)
    except OSError:
        shutil.rmtree(fresh, ignore_errors=True)
        if not copy.exists():  # else another start was first with the same
            raise
