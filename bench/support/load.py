"""Load from a process of its own: wrk where it is installed, else our own sender; one run uses one of them for everything."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from typing import Literal

import msgspec

from bench.support.connection import Post
from bench.support.outcome import BenchError
from bench.support.sender import Plan

Generator = Literal["wrk", "sender"]
# Beyond the load itself a generator only connects and sums up.
MARGIN = 20.0

# wrk takes no body from its command line. Without a request function nothing of this runs per request.
_SCRIPT = """
wrk.method = "POST"
wrk.body = "%s"
%s
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"completed":%%d,"failed":%%d,"seconds":%%.6f,"p50_ms":%%.3f,"p99_ms":%%.3f}\\n',
    summary.requests - e.status, e.connect + e.read + e.write + e.status + e.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


class Load(msgspec.Struct, frozen=True):
    """What came of a load: requests answered with a success and otherwise, its real duration, latencies of all answers."""

    completed: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        """Successes per second."""
        return self.completed / self.seconds


def generator() -> Generator:
    """Return the better one that there is."""
    return "wrk" if shutil.which("wrk") else "sender"


async def load(how: Generator, post: Post, *, connections: int, seconds: int) -> Load:
    """Send `post` over `connections`, each as fast as it is answered. Raises `BenchError` when any request failed."""
    made = await (_wrk if how == "wrk" else _sender)(post, connections, seconds)
    if made.failed or not made.completed:
        raise BenchError(f"{made.failed} of {made.failed + made.completed} requests to {post.url} failed")
    return made


async def _wrk(post: Post, connections: int, seconds: int) -> Load:
    headers = "\n".join(f'wrk.headers["{name}"] = "{_lua(value.encode())}"' for name, value in post.headers.items())
    with tempfile.NamedTemporaryFile("w", prefix="millrace-bench-", suffix=".lua") as script:
        script.write(_SCRIPT % (_lua(post.body), headers))
        script.flush()
        options = ["-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s", "-s", script.name]
        said = await _said(["wrk", *options, post.url], b"", seconds)
    return msgspec.json.decode(said.splitlines()[-1], type=Load)


async def _sender(post: Post, connections: int, seconds: int) -> Load:
    plan = Plan(post=post, connections=connections, seconds=seconds)
    return msgspec.json.decode(
        await _said([sys.executable, "-m", "bench.support.sender"], msgspec.json.encode(plan), seconds), type=Load
    )


async def _said(command: list[str], given: bytes, seconds: float) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds + MARGIN):
            said, complained = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode or not said.strip():
        raise BenchError(f"{command[0]} ended with {process.returncode}: {complained.decode()[-500:]}")
    return said


def _lua(text: bytes) -> str:
    return "".join(f"\\{byte:03d}" for byte in text)
