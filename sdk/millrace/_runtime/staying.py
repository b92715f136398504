"""Restores a process between two runs, where a workflow allows that; a change that cannot be put back ends it.

Modules, their variables and the author's patches stay as they are: `isolation="workflow"` gives that up.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import threading
import time

_GOING = 0.1
"""Seconds that threads have to end which have nothing more to do."""


class Stay:
    """The state of a process before its first run."""

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._folder = os.getcwd()
        self._scratch = os.environ.get("TMPDIR")
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._path = list(sys.path)
        self._hooks = (sys.excepthook, threading.excepthook)

    def is_clean(self, threads: int, loops: list[asyncio.AbstractEventLoop]) -> bool:
        """Answer whether the run has left nothing that goes on: no thread beside so many of ours, no process, no timer.

        Its event loops are closed, which lets threads go that had plain functions to call.
        """
        while loops:
            loops.pop().close()
        until = time.monotonic() + _GOING
        while threading.active_count() > 1 + threads and time.monotonic() < until:
            time.sleep(0.001)
        if threading.active_count() > 1 + threads or signal.getitimer(signal.ITIMER_REAL)[0]:
            return False
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return True
        except OSError:
            return False
        return False  # it lives, or was left unwaited for: others may as well

    def put_back(self) -> None:
        """Empty the scratch folder; restore environment, folder, path and streams. Raises OSError."""
        os.environ.clear()
        os.environ.update(self._environment)
        os.chdir(self._folder)
        sys.path[:] = self._path
        sys.stdin, sys.stdout, sys.stderr = self._streams
        sys.settrace(None)
        sys.excepthook, threading.excepthook = self._hooks
        tempfile.tempdir = None
        if self._scratch is not None:
            for entry in os.scandir(self._scratch):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)
