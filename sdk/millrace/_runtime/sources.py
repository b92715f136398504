"""Builds the wheel of one source distribution: the step `open` reads what its build requires, `hook` calls its backend.

Only ever in a child without any network, whose folder is read-only but for the file that the wheel goes to. A process of its own
executes what the distribution's authors wrote, on temporary files of a bounded size. This one looks at nothing of theirs but an
answer and the wheel, and is believed about this one distribution only.
"""

import os
import select
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from millrace._runtime import hooks, root

SOURCE, WHEEL = "sdist", "wheel"
"""Files of the step's folder: the distribution, and its wheel."""
_ANSWER = "answer.json"
_DIST = "dist"
_TREE = "source"
_PASSED = ("PATH", "LANG", "LD_LIBRARY_PATH")
_SAID, _LINES, _WORDS = 20_000, 8, 1200
"""Of the last words of a build: bytes that are read, lines and characters that are kept."""
_LOOK = 0.05
"""Seconds between two looks at a program that is silent."""
_PIPES = 4
"""Reads that empty a pipe."""
_MOST_ANSWER = 1 << 20
_EPOCH = "315532800"
"""The earliest time that an entry of a wheel can have: for the same wheel whenever it is built."""


def opened(folder: str) -> dict[str, Any]:
    """Unpack the distribution; answer the packages that its build requires, or the problem."""
    try:
        place = _unpacked(folder)
        return {"problem": None, "requires": hooks.build_system(place)["requires"]}
    except (OSError, EOFError, ValueError, RecursionError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        return {"problem": f"it cannot be unpacked: {error}"[:1000]}


def called(folder: str, job: dict[str, Any], packages: str | None) -> dict[str, Any]:
    """Unpack the distribution and call a hook of its backend; answer the hook's answer, or the problem.

    After the hook `build_wheel` the wheel is in its place.
    """
    place = _unpacked(folder)
    answer = os.path.join(root.SCRATCH, _ANSWER)
    dist = os.path.join(root.SCRATCH, _DIST)
    os.mkdir(dist)
    os.mkdir(os.path.join(root.SCRATCH, "home"))
    environment = {
        **{name: os.environ[name] for name in _PASSED if name in os.environ},
        "HOME": os.path.join(root.SCRATCH, "home"),
        "TMPDIR": root.SCRATCH,
        "SOURCE_DATE_EPOCH": _EPOCH,
        "PYTHONDONTWRITEBYTECODE": "1",
        **({} if packages is None else {"PYTHONPATH": packages}),
    }
    command = [sys.executable, "-S", "-P", "-B", hooks.__file__, job["hook"], dist, answer]
    code, said = _run(command, place, environment)
    words = _last_words(said.decode("utf-8", "replace"), place)
    if code != 0:
        ended = f"its build was ended by signal {-code}" if code < 0 else f"its build ended with code {code}"
        return {"problem": f"{ended}: {words}" if words else ended}
    with open(answer, "rb") as file:
        found = file.read(_MOST_ANSWER).decode()
    if job["hook"] == hooks.BUILD:
        with open(os.path.join(dist, hooks.name_of(found)), "rb") as built, open(os.path.join(folder, WHEEL), "wb") as wheel:
            shutil.copyfileobj(built, wheel, 1 << 20)
    return {"problem": None, "answer": found}


def _unpacked(folder: str) -> str:
    """Unpack the distribution into the temporary files; answer where its one folder is. Raises OSError, ValueError, and others."""
    path, tree = os.path.join(folder, SOURCE), os.path.join(root.SCRATCH, _TREE)
    os.mkdir(tree)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tree)  # noqa: S202 - behind walls, as all of this
    else:
        with tarfile.open(path) as tar:
            tar.extractall(tree, _plain(tar))  # noqa: S202
    found = os.listdir(tree)
    if len(found) != 1 or not os.path.isdir(os.path.join(tree, found[0])):
        raise ValueError("it has not just one folder at its top")
    return os.path.join(tree, found[0])


def _plain(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files and folders, without links. Raises ValueError for one that leads elsewhere, which the walls would hold."""
    for member in tar:
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise ValueError(f"{member.name[:200]!a} leads out of it")
        if member.isfile() or member.isdir():
            yield member


def _run(command: list[str], place: str, environment: dict[str, str]) -> tuple[int, bytes]:
    """Run a program to its end; answer its code and last words. It may leave no room in files, and others that go on talking."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=place, bufsize=0
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    said, is_open, code = b"", True, None
    while code is None:
        if is_open:
            select.select([pipe], [], [], _LOOK)
        else:
            time.sleep(_LOOK)
        code = process.poll()
        # As much as a pipe holds, for the last words of one that has ended.
        for _ in range(_PIPES):
            part = _part(pipe)
            if not part:
                is_open = part is None
                break
            said = (said + part)[-_SAID:]
    return code, said


def _part(pipe: int) -> bytes | None:
    try:
        return os.read(pipe, _SAID)
    except BlockingIOError:
        return None


def _last_words(text: str, place: str) -> str:
    lines = [line.strip() for line in text.replace(f"{place}/", "").splitlines() if line.strip()]
    return " | ".join(lines[-_LINES:])[-_WORDS:]
