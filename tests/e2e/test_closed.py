"""A data folder is closed to every other local user, whoever started the stack and wherever the folder is."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from deploy import launch
from deploy.accounts import POSTGRES_UID, SANDBOX_UID, blocking_folders
from deploy.reach import CACHES, sandbox_folder
from deploy.staging import Staging
from tests.support.client import Client
from tests.support.places import open_folder
from tests.support.sandbox import reachable_interpreter
from tests.support.stack import ROOT, Up

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another user's eyes")

STRANGER = 12345
NOBODY = 65534
FLOW = b"from millrace import workflow\n\n\n@workflow\ndef note(text: str) -> str:\n    return text\n"
# Becomes another user and prints which of the paths on standard input it can list, read, write or connect to.
TRIES = """
import json, os, socket, sys
user = int(sys.argv[1])
os.setgroups([])
os.setgid(user)
os.setuid(user)
opened = []
for path in json.load(sys.stdin):
    def connect():
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(path)
    for act in (lambda: os.listdir(path), lambda: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)),
                lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)), connect, lambda: os.mkdir(path + "/mine")):
        try:
            act()
        except OSError:
            continue
        opened.append(path)
        break
print(json.dumps(opened))
"""


def seen_by(user: int, paths: list[Path]) -> set[Path]:
    asked = json.dumps([str(path) for path in paths])
    done = subprocess.run(
        [sys.executable, "-c", TRIES, str(user)], input=asked, capture_output=True, text=True, check=True, cwd="/"
    )
    return {Path(path) for path in json.loads(done.stdout)}


def everything(up: Up) -> list[Path]:
    """All that is an installation's, wherever it is: its folder, its sockets, the sandbox's files, what is staged in memory."""
    sockets = Path((up.data / "run" / "sockets").read_text())
    places = [up.data, sockets, sandbox_folder(up.data), Staging(up.data / "nats")._place]
    found = [path for place in places if place.exists() for path in (place, *place.rglob("*"))]
    assert any(path.is_socket() and path.name == ".s.PGSQL.5432" for path in found)
    assert any(path.is_socket() and path.name == "events.sock" for path in found)
    assert {"credentials.json", "ready.json", "nats.conf", "PG_VERSION", "meta.inf"} <= {path.name for path in found}
    return found


@asynccontextmanager
async def installed(up: Up) -> AsyncIterator[Up]:
    """Start a stack and have a workflow run in it, so that there is something of everything."""
    try:
        await up.start()
        async with aiohttp.ClientSession() as session:
            client = Client(session, up.ready)
            await client.put_file("note.py", FLOW)
            run = await client.call("POST", "/api/v1/workflows/note/runs?wait=30", body={"input": {"text": "t"}}, status=200)
            assert (run["status"], run["result"]) == ("succeeded", "t")
        yield up
    finally:
        await up.clear()
        # It may lie outside the folder of the test.
        shutil.rmtree(sandbox_folder(up.data), ignore_errors=True)


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.mark.parametrize("parent", [0o755, 0o700], ids=["in-an-open-folder", "in-a-closed-folder"])
async def test_started_by_root_nobody_sees_anything_but_what_its_user_needs(place: Path, parent: int) -> None:
    home = place / "home"
    home.mkdir(mode=parent)
    home.chmod(parent)
    async with installed(Up(home / "data")) as up:
        paths = everything(up)
        of_sandbox = sandbox_folder(up.data)
        assert of_sandbox.is_relative_to(CACHES if parent == 0o700 else up.data)
        trees = [path for path in paths if path.is_relative_to(of_sandbox / "bundles" / "trees") and path.name == "note.py"]
        assert trees
        assert seen_by(STRANGER, paths) == set()
        others = {path for path in seen_by(SANDBOX_UID, paths) if not path.is_relative_to(of_sandbox)}
        assert others == set()
        assert set(trees) <= seen_by(SANDBOX_UID, paths)
        sockets = Path((up.data / "run" / "sockets").read_text())
        own = (up.data / "postgres", sockets / "pg")
        assert {path for path in seen_by(POSTGRES_UID, paths) if not any(path.is_relative_to(one) for one in own)} == set()
        # Nothing of the user's was opened for it.
        assert stat.S_IMODE(home.stat().st_mode) == parent


def within_reach_of(user: int, *paths: Path) -> bool:
    return blocking_folders((user, user), *(path / "any" for path in paths)) == [None for _ in paths]


PACKAGES = Path(sysconfig.get_path("purelib"))
PYTHON = reachable_interpreter()


@pytest.mark.skipif(PYTHON is None or not within_reach_of(NOBODY, ROOT, PACKAGES), reason="closed to others: only root can run it")
async def test_started_by_another_user_nobody_else_sees_anything(place: Path) -> None:
    home = place / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    dropped = (sys.executable, "-I", "-S", launch.__file__, "--uid", str(NOBODY), "--gid", str(NOBODY), "--")
    environment = {"PATH": os.defpath, "HOME": str(home), "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "sdk", PACKAGES)))}
    async with installed(Up(home / "data", around=dropped, environment=environment, python=PYTHON)) as up:
        places = [up.data, Path((up.data / "run" / "sockets").read_text()), Staging(up.data / "nats")._place]
        paths = [path for one in places if one.exists() for path in (one, *one.rglob("*"))]
        assert {"credentials.json", "ready.json", "PG_VERSION", "note.py", "meta.inf"} <= {path.name for path in paths}
        assert {path.lstat().st_uid for path in paths} == {NOBODY}
        assert seen_by(STRANGER, paths) == set()
        assert up.data / "credentials.json" in seen_by(NOBODY, paths)
