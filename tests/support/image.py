"""The image without Docker: the steps of its Dockerfile in a root of their own, made of this machine's programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of this machine, read-only: what the base image brings.
BASE = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
USER = 10001


class Image:
    """A root in which each instruction of the Dockerfile's build stage was carried out, and what the last one has of it."""

    def __init__(self, folder: Path) -> None:
        """Make an empty root in `folder`."""
        self.root = folder / "root"
        for name in ("tmp", "dev", "proc", "src", "opt", "var/lib/millrace"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "tmp").chmod(0o1777)
        os.chown(self.root / "var" / "lib" / "millrace", USER, USER)

    def build(self) -> None:
        """Carry out the instructions up to the second stage. AssertionError with what a step said that failed."""
        where = Path("/")
        for word, rest in instructions():
            if word == "WORKDIR":
                where = Path(rest)
            elif word == "COPY":
                *sources, target = rest.split()
                for source in sources:
                    self._copy(ROOT / source, self.root / str(where / target).lstrip("/"), target.endswith("/") or target == ".")
            elif word == "RUN":
                command = rest.replace("--no-cache-dir ", "").replace("python -m venv", f"{sys.executable} -m venv")
                done = self.run("/bin/sh", "-ec", command, where=where)
                assert done.returncode == 0, f"RUN {rest}: {done.stdout}"
            elif word == "FROM" and not rest.endswith(" AS build"):
                return

    def run(
        self, *command: str, where: Path = Path("/"), user: int | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command within, as `user` with nothing writable but /tmp and the folder of data, or else as root."""
        binds = [place for place in (*BASE, *{str(Path(sys.prefix)), str(Path(sys.base_prefix))}) if Path(place).is_dir()]
        mounted = [f"mkdir -p {self.root}{place} && mount --bind {place} {self.root}{place}" for place in binds]
        mounted += [f"mount --rbind /dev {self.root}/dev", f"mount -t proc proc {self.root}/proc"]
        drop = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
        inside = ["chroot", str(self.root), *drop, "env", "--chdir", str(where), *command]
        script = " && ".join([*mounted, f"exec {' '.join(map(quoted, inside))}"])
        passed = {name: value for name, value in os.environ.items() if name.startswith("PIP_")} if user is None else {}
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env=passed
            | {"PIP_NO_COMPILE": "1", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
            | environment,
        )

    def _copy(self, source: Path, target: Path, into: bool) -> None:
        place = target / source.name if into else target
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__", "node_modules"), dirs_exist_ok=True)
        else:
            shutil.copyfile(source, place)


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, each with what follows it."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "deploy" / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line.strip())]


def quoted(word: str) -> str:
    """Return a word as the shell takes it."""
    return "'" + word.replace("'", "'\\''") + "'"
