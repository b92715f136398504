"""Large files put and read over HTTP, and the memory that services have at the most meanwhile, seen from outside."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp

PART = 1 << 20
# A Python module of any size: text in it, which nothing has to run.
LINE = b"# " + b"x" * 77 + b"\n"
FLOW = b"from millrace import workflow\n\n\n@workflow\ndef large() -> int:\n    return 1\n\n\n"


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has held since this was last reset."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)


def reset_peak(pid: int) -> None:
    """Forget the peak of a process."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


class LargeFiles:
    """The workspace of an organization, filled and read with bytes that are made as they go; `api` has the key."""

    def __init__(self, api: aiohttp.ClientSession, url: str) -> None:
        self._api = api
        self._files = f"{url}/api/v1/workspace/files"
        self._noise = os.urandom(PART - 8)

    async def parts(self, seed: int, size: int) -> AsyncIterator[bytes]:
        """Yield so many bytes, which no other seed has."""
        left, number = size, 0
        while left:
            part = (seed.to_bytes(4, "big") + number.to_bytes(4, "big") + self._noise)[:left]
            yield part
            left -= len(part)
            number += 1

    async def put(self, path: str, seed: int, size: int) -> str:
        """Store a file; returns the hash that the server has of it."""
        async with self._api.put(f"{self._files}/{path}", data=self.parts(seed, size)) as answer:
            view = await answer.json()
            assert answer.status == 200, view
            assert view["size"] == size, view
            return str(view["sha256"])

    async def put_module(self, path: str, size: int) -> None:
        """Store a Python module with one workflow, which is served afterwards."""

        async def text() -> AsyncIterator[bytes]:
            yield FLOW
            for _ in range(size // (len(LINE) * 1024)):
                yield LINE * 1024

        async with self._api.put(f"{self._files}/{path}", data=text()) as answer:
            view = await answer.json()
            assert (answer.status, view["workflows"], view["problems"]) == (200, ["large"], []), view

    async def read(self, path: str) -> str:
        """Return the hash of a file as it is read."""
        digest = hashlib.sha256()
        async with self._api.get(f"{self._files}/{path}") as answer:
            assert answer.status == 200
            async for chunk in answer.content.iter_any():
                digest.update(chunk)
        return digest.hexdigest()

    async def through(self, path: str, seed: int, size: int) -> None:
        """Store a file, and read it as it was sent."""
        assert await self.put(path, seed, size) == await self.read(path)

    async def in_sequence(self, count: int, size: int) -> None:
        """Do so with many files, one after the other."""
        for number in range(count):
            await self.through(f"data/sequence-{number}.bin", 1000 + number, size)

    async def at_once(self, count: int, size: int) -> None:
        """Do so with many files at the same time."""
        await asyncio.gather(*(self.through(f"data/at-once-{number}.bin", 5000 + number, size) for number in range(count)))


async def settled(pids: Mapping[str, int]) -> dict[str, float]:
    """Return the memory of idle processes in MB, once it has stopped falling."""
    last = {name: float("inf") for name in pids}
    while True:
        for pid in pids.values():
            reset_peak(pid)
        now = {name: peak_mb(pid) for name, pid in pids.items()}
        if all(now[name] > last[name] - 0.5 for name in pids):
            return now
        last = now
        await asyncio.sleep(1)
