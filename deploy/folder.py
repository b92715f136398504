"""The data folder of an installation: its lock, the version that made it, and the short paths that go with it."""

import asyncio
import fcntl
import os
import re
import shutil
import signal
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from deploy import processes
from deploy.accounts import blocking_folders, postgres_account
from deploy.errors import StartError
from deploy.files import write_private
from deploy.reach import close

# Socket paths end at 107 bytes on Linux and at 103 on macOS; the longest name that is put below the folder takes 24.
LONGEST_RUN_FOLDER = 75
# Entries that do not make a folder foreign: our own lock from a start that went no further, and those of mkfs.
LOCK = "lock"
IGNORED = frozenset({LOCK, "lost+found"})
# Seconds: far longer than the doctor needs to see whether the lock is free.
LOOKED_AT = 0.3


class DataFolder(msgspec.Struct, frozen=True):
    """A claimed data folder: no other stack runs on it until `claim` is left."""

    path: Path

    def own(self, name: str) -> Path:
        """Return a folder inside that exists and is closed to all other users."""
        folder = self.path / name
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
        return folder

    @property
    def credentials(self) -> Path:
        """The secrets."""
        return self.path / "credentials.json"

    @property
    def ready(self) -> Path:
        """The file that clients wait for and read."""
        return self.path / "ready.json"

    @property
    def pidfiles(self) -> Path:
        """The identities of the processes that belong to this folder."""
        return self.own("run")

    @property
    def last_backup(self) -> Path:
        """Was touched when a backup was made last, or, while there is none, when the installation began."""
        return self.pidfiles / "last-backup"

    @property
    def states(self) -> Path:
        """The states of the processes: pid, restarts and last exit of each; there while `up` runs."""
        return self.pidfiles / "state.json"

    @property
    def rebuild(self) -> Path:
        """The memory of a rebuild that is under way."""
        return self.path / "rebuild.json"

    @property
    def logs(self) -> Path:
        """The output of the processes."""
        return self.own("logs")


def _lock(descriptor: int) -> None:
    """Take the lock; BlockingIOError when another process keeps it. One that only looks whether it is free has it for a moment."""
    deadline = time.monotonic() + LOOKED_AT
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOKED_AT / 10)
        else:
            return


def is_claimed(path: Path) -> bool:
    """Return whether a process holds the folder; looking takes the lock for a moment."""
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


@contextmanager
def claim(path: Path) -> Iterator[DataFolder]:
    """Make and lock a data folder for as long as the block runs.

    StartError when another `up` has it, when it is of a newer version, belongs to another user or holds something else.
    """
    path = path.expanduser().absolute()
    try:
        _make(path)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        message = f"The data folder {path} cannot be used: {error.strerror}; choose another one with --data."
        raise StartError(message) from error
    try:
        try:
            _lock(lock)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0).decode().strip() or "another process"
            message = f"Millrace already runs on {path} (pid {holder}); stop that one or choose another folder with --data."
            raise StartError(message) from error
        _check_version(path)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield DataFolder(path)
    finally:
        os.close(lock)


def running_version() -> str:
    """Return the version of this Millrace, installed or not."""
    with suppress(PackageNotFoundError):
        return version("millrace")
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))
    return str(project["project"]["version"])


async def end_orphans(folder: DataFolder) -> None:
    """End, by pid, the processes that an earlier `up` on this folder left running; returns when they are gone."""
    left = [identity for pidfile in folder.pidfiles.glob("*.pid") if (identity := processes.recall(pidfile)) is not None]
    await asyncio.gather(*(processes.end(identity, _gently(identity), grace=5) for identity in left))


@contextmanager
def run_folder(folder: DataFolder) -> Iterator[Path]:
    """Make a folder with a path short enough for sockets, gone afterwards; one that a killed `up` left is removed first."""
    note = folder.pidfiles / "sockets"
    with suppress(OSError):
        stale = Path(note.read_text("utf-8"))
        if stale.name.startswith("millrace-") and stale.lstat().st_uid == os.geteuid():
            shutil.rmtree(stale, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix="millrace-", dir=_place_for_sockets()))
    if os.geteuid() == 0:
        made.chmod(0o711)  # Postgres, under its own user, passes through
    write_private(note, os.fsencode(made))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        note.unlink(missing_ok=True)


def _place_for_sockets() -> Path:
    place = Path(tempfile.gettempdir())
    short = len(os.fsencode(place)) <= LONGEST_RUN_FOLDER - len("/millrace-12345678")
    if short and blocking_folders(postgres_account(), place / "any") == [None]:
        return place
    return Path("/tmp")  # noqa: S108 (mkdtemp makes the folder below it ours)


def _gently(identity: processes.Identity) -> tuple[signal.Signals, ...]:
    if Path(identity.command[0]).name == "postgres":
        return (signal.SIGINT, signal.SIGQUIT)
    return (signal.SIGTERM,)


def _make(path: Path) -> None:
    for missing in reversed([parent for parent in (path, *path.parents) if not parent.exists()]):
        missing.mkdir(mode=0o755 if missing != path else 0o700, exist_ok=True)
    owner = path.stat().st_uid
    ours = (path / "version").exists()
    if not ours and {entry.name for entry in path.iterdir()} - IGNORED:
        message = f"The data folder {path} holds other files; choose an empty or a new folder with --data."
        raise StartError(message)
    if ours and owner != os.geteuid():
        message = f"The data folder {path} belongs to user {owner}; run as that user or choose another folder with --data."
        raise StartError(message)
    if owner == os.geteuid():
        close(path)


def _check_version(path: Path) -> None:
    file = path / "version"
    current = running_version()
    made_by = file.read_text("utf-8", "replace").strip() if file.exists() else None
    if made_by == current:
        return
    if made_by is not None and is_newer(made_by):
        message = (
            f"The data folder {path} was made by Millrace {made_by}, which is newer than this one ({current}); use that version."
        )
        raise StartError(message)
    write_private(file, f"{current}\n".encode())


def is_newer(made_by: str) -> bool:
    """Return whether something was made by a newer version than this one; an unreadable one counts as newer."""
    return _numbers(made_by) > _numbers(running_version())


def _numbers(text: str) -> tuple[float, ...]:
    """Order versions; an unreadable one counts as newer than all known ones."""
    found = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (float("inf"),) if found is None else tuple(float(part or 0) for part in found.groups())
