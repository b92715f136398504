"""Lets the broker gather an atomic batch until its commit in memory, not on the disk.

A batch is staged in a folder of its own below its stream, with six syncs and a dozen files made and deleted (nats-server 2.15,
by strace), and is then written to the stream with one. An acknowledgement stands for that last one only: at its start
the server throws staged messages away. Staged in memory a commit takes a third of the time (docs/performance.md).
"""

import hashlib
import os
import shutil
import stat
import time
from pathlib import Path

MEMORY = Path("/dev/shm")  # noqa: S108 - a tmpfs on every Linux; what is made there is checked to be ours
# The server deletes a batch's folder before it answers: between two batches there is a moment in which ours can take its place.
TRIES, PAUSE = 200, 0.005


class Staging:
    """The staging folders of one server, from `link` to `remove`. Without a memory file system all stays on the disk."""

    def __init__(self, store: Path) -> None:
        """Name the folder `store_dir` of the server's configuration; nothing is made yet."""
        self._store = store
        self._place = MEMORY / f"millrace-{hashlib.sha256(os.fsencode(store.absolute())).hexdigest()[:16]}"

    def link(self) -> bool:
        """Let every stream that there is stage in memory; to be called whenever the server has started, which undoes it.

        Returns whether all of them do.
        """
        if not self._is_ours():
            return False
        streams = [found.parent for found in self._store.glob("jetstream/*/streams/*/meta.inf")]
        linked = [_linked(stream / "batches", self._place / stream.name) for stream in streams]
        return all(linked)

    def remove(self) -> None:
        """Free the memory; the server must have ended."""
        if self._is_ours(make=False):
            shutil.rmtree(self._place, ignore_errors=True)

    def _is_ours(self, *, make: bool = True) -> bool:
        """Return whether the place is a folder that no other user can enter: its parent is world-writable."""
        try:
            if make and not os.path.lexists(self._place):
                self._place.mkdir(mode=0o700)
            found = self._place.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _linked(batches: Path, place: Path) -> bool:
    place.mkdir(mode=0o700, exist_ok=True)
    for _ in range(TRIES):
        if batches.is_symlink():
            return True
        try:
            if batches.exists():
                batches.rmdir()
            batches.symlink_to(place)
        except FileNotFoundError:
            return False  # the stream is gone
        except OSError:
            time.sleep(PAUSE)  # a batch is in it
    return False
