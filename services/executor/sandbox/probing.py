"""Finds the tier that stands on this machine, and the change that would give a better one."""

import asyncio
import os
import platform
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.executor.sandbox.interface import Tier

OLDEST_KERNEL = {"A": "5.13", "B": "6.7"}
"""The first Linux that a tier needs: with Landlock at all; with Landlock for TCP ports."""

_APPARMOR = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
_MOST_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
_MAY_CLONE = Path("/proc/sys/kernel/unprivileged_userns_clone")


@asynccontextmanager
async def targets(data: Path) -> AsyncIterator[dict[str, Any]]:
    """Put up the targets of the attack list, for the block: a world-readable file and three listening sockets."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=data, prefix="probe-"))
    folder.chmod(0o755)
    canary, path = folder / "file", folder / "socket"
    abstract = f"\0millrace-probe-{secrets.token_hex(8)}"
    try:
        canary.write_text("found")
        canary.chmod(0o644)
        with socket.socket() as port, socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as unnamed:
            port.bind(("127.0.0.1", 0))
            unnamed.bind(abstract)
            addresses = [abstract, abstract]
            try:
                named.bind(str(path))
                path.chmod(0o777)
                addresses[0] = str(path)
            except OSError:  # a path too long for a socket: the abstract one has to do
                path = canary
            for one in (port, named, unnamed):
                if one.getsockname():
                    one.listen()
            yield {"pid": os.getpid(), "file": str(canary), "port": port.getsockname()[1], "sockets": addresses}
    finally:
        canary.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        folder.rmdir()


def remedy(reasons: dict[Tier, str]) -> str:
    """Return a text for an operator: why each tier is unavailable, and the fix."""
    listed = "; ".join(f"tier {tier}: {reason}" for tier, reason in reasons.items())
    return f"No sandbox is available ({listed}). To put it right: {_advice(reasons)}"


def _advice(reasons: dict[Tier, str]) -> str:
    """Name the one change that gives tier A, and the one that gives tier B instead."""
    if platform.machine() not in {"x86_64", "aarch64"}:
        return f"run it on x86-64 or aarch64: there is no list of system calls for {platform.machine()}."
    ways = [*_namespaces(reasons.get("A", "")), *_landlock(reasons)]
    return "; or ".join(ways or ["see the reasons above"]) + ". Or accept that runs are not isolated: `--unsafe`."


def better(reasons: dict[Tier, str]) -> str:
    """Name the change that gives tier A where B is in use, as one sentence; empty where none is known."""
    ways = _namespaces(reasons.get("A", ""))
    return f"For tier A, {ways[0]}." if ways else ""


def _namespaces(because: str) -> list[str]:
    """Answer the one change that allows namespaces here, if it is they that are missing."""
    if _read(_APPARMOR) == "1":
        return ["allow user namespaces with `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"]
    if _read(_MAY_CLONE) == "0":
        return ["allow user namespaces with `sysctl -w kernel.unprivileged_userns_clone=1`"]
    if _read(_MOST_NAMESPACES) == "0":
        return ["allow user namespaces with `sysctl -w user.max_user_namespaces=10000`"]
    if "unshare" in because or "mounting" in because or "uid_map" in because:
        way = (
            "in a container, start it with `--security-opt seccomp=unconfined --security-opt apparmor=unconfined "
            "--security-opt systempaths=unconfined`, which lets it make namespaces and mount /proc (tier A)"
        )
        return [way]
    return []


def _landlock(reasons: dict[Tier, str]) -> list[str]:
    """Return the changes that bring Landlock, if it is missing."""
    if "Landlock" not in "".join(reasons.values()):
        return []
    way = (
        f"use Linux {OLDEST_KERNEL['B']} or newer with Landlock: `lsm=landlock,…` on the kernel's command line, and a container "
        "runtime whose seccomp profile knows its system calls (tier B, and tier A where namespaces are allowed)"
    )
    return [way]


def _read(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except OSError:
        return None
