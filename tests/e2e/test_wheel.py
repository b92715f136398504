"""A wheel on a machine without the source tree: what is in it, and the main job with nothing but it and the pinned packages."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from deploy.image_lock import pinned
from deploy.release import build_twice
from tests.support.command import until_said
from tests.support.places import open_folder

ROOT = Path(__file__).parents[2]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
# 2026-01-01: all times in what is built are this one.
EPOCH = 1_767_225_600
SHIPPED = ("services/", "shared/", "deploy/", "sdk/millrace/")
# Of use in the source tree only.
LEFT_OUT = {"deploy/Dockerfile", "deploy/image_lock.py", "deploy/release.py"}
INFORMATION = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the sdist of this tree; built of the sdist, they have the same bytes."""
    return build_twice(ROOT, tmp_path_factory.mktemp("dist"), EPOCH)


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path]) -> Iterator[Path]:
    """An environment outside the tree, with the wheel and the packages that it needs, by their hashes."""
    with open_folder() as folder:
        lock = folder / "millrace.lock"
        lock.write_text(pinned(ROOT))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv/bin/python"), "install", "--quiet", "--no-compile"]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(lock)], cwd=folder, check=True)
        subprocess.run([*pip, "--no-deps", "--no-index", str(built[0])], cwd=folder, check=True)
        yield folder


def test_the_wheel_holds_what_is_needed_and_nothing_else(built: tuple[Path, Path]) -> None:
    tracked = of_the_tree()
    wanted = {path.removeprefix("sdk/") for path in tracked if path.startswith(SHIPPED) and path not in LEFT_OUT}
    wanted |= {f"deploy/{path}" for path in tracked if path.startswith("examples/github-push/") or path == "requirements.lock"}
    information = f"millrace-{VERSION}.dist-info/"
    with zipfile.ZipFile(built[0]) as wheel:
        found = set(wheel.namelist())
        metadata = wheel.read(f"{information}METADATA").decode()
    assert {path for path in found if not path.startswith(information)} == wanted
    assert {f"{information}{name}" for name in INFORMATION} <= found
    assert "License-Expression: Apache-2.0\n" in metadata
    assert not re.search(r"^Requires-Dist: \S+ @", metadata, re.MULTILINE)


def test_the_sdist_holds_the_whole_tree(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as sdist:
        found = {one.name.partition("/")[2] for one in sdist if one.isfile()}
    assert found - {"PKG-INFO"} == of_the_tree()


def of_the_tree() -> set[str]:
    """Return every file of the source tree that is no product of something else."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {path for path in listed.stdout.split("\0") if path and (ROOT / path).is_file()}


async def test_the_main_job_runs_with_the_wheel_alone(installed: Path) -> None:
    """From a folder that is none of ours: start, webhook, run, console, documents, commands, stop."""
    millrace, place = installed / "venv/bin/millrace", installed / "place"
    place.mkdir()
    environment = {"PATH": os.defpath, "HOME": str(place)}

    async def say(*arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        done = await asyncio.create_subprocess_exec(
            millrace, *arguments, cwd=place, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await done.communicate()
        assert done.returncode in codes, (arguments, said.decode())
        return said.decode()

    assert VERSION in await say("version")
    assert "dev" in await say("--help")
    await say("dev", "init", "workspace")
    assert (place / "workspace" / ".sdk" / f"millrace_sdk-{VERSION}-py3-none-any.whl").is_file()
    demo = await asyncio.create_subprocess_exec(
        *[millrace, "demo", "--unsafe"],
        cwd=place,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        await until_said(demo.stdout, "Run", "succeeded")
        address = (await until_said(demo.stdout, "Address")).split()[-1]
        await until_said(demo.stdout, "until Ctrl-C")
        async with aiohttp.ClientSession() as session:
            await serves_everything(session, address)
        # Its code is 1 where the machine lacks something, such as room.
        found = {one["about"]: one for one in json.loads(await say("doctor", "--output", "json", codes=(0, 1)))["items"]}
        assert found["packages"]["said"] == "as in requirements.lock"
        assert "summarize-push" in await say("runs", "list")
        demo.send_signal(signal.SIGINT)
        async with asyncio.timeout(120):
            assert await demo.wait() == 0
    finally:
        if demo.returncode is None:
            demo.terminate()
            await demo.wait()


async def serves_everything(session: aiohttp.ClientSession, address: str) -> None:
    """Assert that what the gateway sends of its package's files is there, and says which version it is of."""
    async with session.get(f"{address}/") as response:
        page = await response.text()
        assert response.ok
    scripts = re.findall(r'src="(/console/assets/[^"]+)"', page)
    assert scripts
    for path in [*scripts, "/console/licences.md", "/sign-in", "/docs"]:
        async with session.get(address + path) as response:
            assert response.status == 200, path
            assert await response.read()
    async with session.get(f"{address}/openapi.json") as response:
        assert (await response.json())["info"]["version"] == VERSION
