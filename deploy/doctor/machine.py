"""Checks the machine and the data folder, whether Millrace runs or not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deploy import broker, postgres
from deploy.credentials import load_or_create
from deploy.doctor.finding import Finding, tried
from deploy.doctor.running import bounded
from deploy.errors import StartError
from deploy.folder import running_version
from deploy.local import OLDEST_PYTHON
from deploy.reach import CACHES, barred
from deploy.shipped import shipped
from services.executor.sandbox.children import SANDBOX_UID, Children
from services.executor.sandbox.errors import SandboxUnavailable
from services.executor.sandbox.probing import better

OLDEST_GLIBC = (2, 28)  # the wheels are built for it (manylinux_2_28)
OLDEST_MACOS = (13, 0)
# Postgres keeps up to 1 GB of write-ahead log, and JetStream needs room for a day of webhooks.
NEEDED_FREE = 2 * 1024**3
LOCK = shipped("requirements.lock")


def machine() -> Iterator[Finding]:
    """Look at the interpreter, the system and the installed packages."""
    version = ".".join(map(str, sys.version_info[:3]))
    oldest = ".".join(map(str, OLDEST_PYTHON))
    old = sys.version_info < OLDEST_PYTHON
    yield Finding("python", "wrong" if old else "well", f"{version} at {sys.executable}", f"Use Python {oldest} or newer.")
    inside = sys.prefix != sys.base_prefix
    yield Finding(
        "environment",
        "well" if inside else "note",
        sys.prefix if inside else "not a virtual environment",
        "`make install` makes one in .venv.",
    )
    yield _system()
    yield _packages()
    yield tried("broker's program", _nats_version)
    yield tried("database's program", _postgres_version)


def folder(data: Path, *, running: bool) -> Iterator[Finding]:
    """Look at the data folder: room, owner, version, secrets, and whether the database's user gets to it."""
    # Not Path.exists: it raises below a folder that is closed to us.
    existing = next(place for place in (data, *data.parents) if os.path.exists(place))  # noqa: PTH110
    free = shutil.disk_usage(existing).free
    yield Finding(
        "disk",
        "well" if free >= NEEDED_FREE else "wrong",
        f"{free / 1024**3:.1f} GB free for {data}",
        "Make room: a broker without space refuses webhooks, and a database without space stops.",
    )
    yield tried("reach", lambda: _reach(data))
    if existing == data and not is_ours(data):
        yield Finding("data folder", "wrong", *_whose(data))
        return
    if not (data / "version").exists():
        empty = not data.exists() or not {entry.name for entry in data.iterdir()} - {"lock", "lost+found"}
        said = f"{data} is new" if empty else f"{data} holds other files"
        yield Finding("data folder", "well" if empty else "wrong", said, "Choose an empty or a new folder with --data.")
        return
    yield Finding("data folder", "well", str(data))
    made_by = (data / "version").read_text("utf-8", "replace").strip()
    same = made_by == running_version()
    said = f"made by {made_by}, this is {running_version()}"
    yield Finding("version", "well" if same else "note", said, "`up` brings it to this version, unless it is of a newer one.")
    yield tried("secrets", lambda: _secrets(data))
    if (data / "rebuild.json").exists() and not running:
        yield Finding("rebuild", "note", "a rebuild was interrupted", "Go on with `millrace rebuild --from bus`.")


async def sandbox() -> Finding:
    """Look which tier of the sandbox this machine allows, by starting one in a folder that is thrown away."""
    uid = SANDBOX_UID if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="millrace-doctor-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        children = Children(folder / "sandbox", uid=uid, size=1)
        try:
            await children.start()
        except SandboxUnavailable as error:
            return Finding("sandbox here", "wrong", str(error), "Until then runs need `up --unsafe`, and are not isolated.")
        await children.close()
    bounds = bounded(children.held, children.unheld)
    if children.tier == "A":
        return Finding("sandbox here", "well", f"tier A: every run is isolated; {bounds}")
    do = f"Tier A does not stand here: {children.refused['A']}. docs/security.md says what tier B lets through. "
    do = (do + better(children.refused)).rstrip()
    return Finding("sandbox here", "note", f"tier {children.tier}; {bounds}", do)


def port(number: int) -> Finding:
    """Look whether the gateway could listen on its port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            return Finding("port", "wrong", f"{number}: {error.strerror}", "Stop who has it, or choose another with `up --port`.")
    return Finding("port", "well", f"{number} is free")


def _system() -> Finding:
    if sys.platform == "darwin":
        found = tuple(int(part) for part in platform.mac_ver()[0].split(".")[:2])
        return Finding(
            "system", "well" if found >= OLDEST_MACOS else "wrong", f"macOS {platform.mac_ver()[0]}", "macOS 13 or newer."
        )
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    well = name == "glibc" and numbers >= OLDEST_GLIBC
    needed = ".".join(map(str, OLDEST_GLIBC))
    said = f"Linux {platform.release()}, {name or 'no glibc'} {version}"
    return Finding("system", "well" if well else "wrong", said, f"Use a system with glibc {needed} or newer (not Alpine).")


def _packages() -> Finding:
    """Compare the installed packages with those that this version was tested with."""
    if not LOCK.exists():
        return Finding("packages", "well", "no requirements.lock to compare with")
    wanted = dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", LOCK.read_text("utf-8"), re.MULTILINE))
    other = []
    for name, version in wanted.items():
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform, or it will be missed at once
        if found != version:
            other.append(f"{name} {found} instead of {version}")
    if other:
        return Finding(
            "packages",
            "note",
            ", ".join(other[:5]),
            "`make install`, or the lock of the release, installs what this version was tested with.",
        )
    return Finding("packages", "well", f"as in {LOCK.name}")


def _nats_version() -> str:
    program = broker.binary()
    broker.check_version(program)
    return _version_of(program)


def _postgres_version() -> str:
    return _version_of(postgres.binaries() / "postgres")


def _version_of(program: Path) -> str:
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        raise StartError(
            f"{program} does not run here ({error}): install Millrace again on a system that its wheels fit."
        ) from error
    return done.stdout.strip()


def _reach(data: Path) -> str:
    if os.geteuid() != 0:
        return "everything runs as you"
    # `up` makes the folder and its parents, so that only an existing entry can be in the way.
    above = next(place for place in data.absolute().parents if place.exists())
    blocking = barred(above / data.name)
    if blocking is None:
        return f"the sandbox's user {SANDBOX_UID} gets to its folder"
    return f"{blocking} is closed to the sandbox's user {SANDBOX_UID}, whose files are in {CACHES}"


def is_ours(data: Path) -> bool:
    """Return whether a data folder that is there is one that this user may look into."""
    return data.is_dir() and data.stat().st_uid == os.geteuid()


def _whose(data: Path) -> tuple[str, str]:
    if not data.is_dir():
        return f"{data} is no folder", "Choose another one with --data."
    return f"{data} belongs to user {data.stat().st_uid}", "Run as that user."


def _secrets(data: Path) -> str:
    file = data / "credentials.json"
    if not file.exists():
        raise StartError(f"{file} is missing: put it back from a backup, since without its keys the stored secrets are lost.")
    load_or_create(file, None)
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise StartError(f"{file} can be read by others (mode {mode:o}): run `chmod 600 {file}`.")
    return f"{file.name} is whole and private"
