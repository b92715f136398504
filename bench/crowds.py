"""What a normal request suffers while crowds of clients hold on to the gateway, beside the same alone, on one stack.

The crowds, all at the same time, and all of them this process:

- 2,000 followers of runs, of which 500 never read what they are sent, and 1,000 have a key of their own;
- 5,000 uploads that send a byte a second; for one that is refused another comes.

Then each of the 1,000 keys is revoked while its client follows:

- `get_p99_ms`, `hook_p99_ms`: of reads and of webhooks, one after the other, `alone` and `beside`; `failed` of them;
- `rss_mib`: of the gateway before, beside, at its highest, and after all have gone, with the KiB that a connection takes;
- `cut_slowest_ms`: from the answer that a key is revoked to the end of its stream; `cut_missed`: streams that went on;
  `unrevoked`: keys that there was no time for;
- `refused`: followers that were not taken; `uploads`: answers to uploads by status; `stalled_cut`: those let go that never read.

The figure is the p99 of webhooks beside the crowds, the limit the same alone.
"""

from __future__ import annotations

import asyncio
import resource
import secrets
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bench.ingest import signed_post
from bench.support import outcome
from bench.support.connection import Post
from bench.support.load import Load, load
from bench.support.outcome import BenchError, Outcome
from bench.support.running import Whole, whole

FOLLOWERS, STALLED, KEYS, UPLOADS = 2000, 500, 1000, 5000
ORGS = ("one", "two", "three", "four")
CONNECTIONS = 12_000
# A stalled client takes this much and no more; its run says far more.
TAKEN = 4096
AT_ONCE = 32
# Seconds in which a client that takes nothing is let go, in which crowds have come, and in which all keys are revoked.
LET_GO, COME, REVOKING = 40.0, 20.0, 150.0
# Uploads that come at a time, and seconds between.
COMING, PAUSE = 200, 0.2
# They end by a reset: each would else leave a port in TIME_WAIT for a minute, and there are 28,000.
RESET = struct.pack("ii", 1, 0)
# Seconds after the crowds in which memory settles.
SETTLED = 5.0
SAYS = 20_000
CODE = (
    b"""
from millrace import sleep, workflow
@workflow(name="quiet")
async def quiet() -> None:
    await sleep(3600)
@workflow(name="loud")
async def loud() -> None:
    for number in range(%d):
        print(number, "x" * 100)
    await sleep(3600)
"""
    % SAYS
)


class Follower(asyncio.Protocol):
    """One client of a run's stream."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self._transport: Any = None
        self.status = 0
        self.ended_at = 0.0
        self.answered = asyncio.Event()
        self.ended = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self._transport = transport
        transport.write(self._head)

    def stall(self) -> None:
        """Take nothing more."""
        # Not where the connection is made: the loop would begin to read only then.
        self._transport.pause_reading()

    def go_on(self) -> None:
        """Take what there still is, or learn that there is no more."""
        if not self.ended.is_set():
            self._transport.resume_reading()

    def close(self) -> None:
        """Go."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Note the status."""
        if not self.status:
            self.status = int(data[9:12])
            self.answered.set()

    def connection_lost(self, _error: Exception | None) -> None:
        """Note when."""
        self.ended_at = time.perf_counter()
        self.answered.set()
        self.ended.set()


class Upload(asyncio.Protocol):
    """One client that sends a byte a second."""

    def __init__(self, head: bytes, crowd: UploadCrowd) -> None:
        self._head = head
        self._crowd = crowd
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        transport.write(self._head)
        self._crowd.sending[self] = None

    def send(self) -> None:
        """Send the next byte."""
        self._transport.write(b"x")

    def data_received(self, data: bytes) -> None:
        """Note the answer, and go."""
        self._crowd.answers[data[9:12].decode(errors="replace")] += 1
        self.close()

    def close(self) -> None:
        """Go."""
        self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """Have another come."""
        self._crowd.sending.pop(self, None)
        self._crowd.gone.set()


class UploadCrowd:
    """So many uploads, always."""

    def __init__(self, url: str, size: int) -> None:
        parts = urlsplit(url)
        self._where = (parts.hostname or "", parts.port or 80)
        lines = (f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Content-Type: application/json", "Content-Length: 10000")
        self._head = "\r\n".join((*lines, f"X-Signature: {'0' * 64}", "", "")).encode()
        self._size = size
        self.sending: dict[Upload, None] = {}
        self.answers: Counter[str] = Counter()
        self.gone = asyncio.Event()

    async def run(self) -> None:
        """Keep them coming, and each a byte a second, for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep())
                group.create_task(self._dribble())
        finally:
            for one in list(self.sending):
                one.close()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(min(COMING, self._size - len(self.sending))):
                try:
                    await loop.create_connection(lambda: Upload(self._head, self), *self._where)
                except OSError as error:
                    self.answers[type(error).__name__] += 1
            if len(self.sending) >= self._size:
                self.gone.clear()
                await self.gone.wait()
            await asyncio.sleep(PAUSE)

    async def _dribble(self) -> None:
        slices = 50
        while True:
            for number in range(slices):
                for one in list(self.sending)[number::slices]:
                    one.send()
                await asyncio.sleep(1 / slices)


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for so many seconds alone and beside."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    async with whole(folder / "data", MILLRACE_MAX_CONNECTIONS=str(CONNECTIONS)) as stack:
        secret = secrets.token_urlsafe(24)
        source = await stack.api.call("PUT", "/api/v1/sources/bench", body={"adapter": "hmac", "settings": {"secret": secret}})
        await stack.api.call("PUT", "/api/v1/workspace/files/crowds.py?org=global", data=CODE)
        runs = {(org, name): await _run(stack, org, name) for org in ORGS for name in ("quiet", "loud")}
        keys = await _keys(stack)
        say(f"{len(keys)} keys")
        normal = (_get(stack), signed_post(source["url"], secret))
        await _normal(normal, 2)
        alone = await _normal(normal, seconds)
        gateway = stack.ready["services"]["gateway"]
        before = _memory(gateway, "VmRSS")
        say(f"alone {alone}, {before:.0f} MiB")
        followers = await _followers(stack, runs, keys)
        began = time.perf_counter()
        say(f"{len(followers)} followers")
        crowd = UploadCrowd(source["url"], UPLOADS)
        uploading = asyncio.create_task(crowd.run())
        await _come(crowd)
        open_uploads = len(crowd.sending)
        say(f"{Counter(one.status for _, one in followers)} of followers, {open_uploads} uploads, {_buffered():.0f} MiB in sockets")
        beside = await _normal(normal, seconds)
        during = _memory(gateway, "VmRSS")
        say(f"beside {beside}, {during:.0f} MiB")
        cut = await _revoked(stack, keys, followers)
        say(f"{cut}")
        stalled = [one for kind, one in followers if kind == "stalled"]
        await asyncio.sleep(max(0.0, began + LET_GO - time.perf_counter()))
        for one in stalled:
            one.go_on()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED):
                await asyncio.gather(*(one.ended.wait() for one in stalled))
        cut_stalled = sum(one.ended.is_set() for one in stalled)
        say(f"{cut_stalled} of {len(stalled)} that never read were cut")
        uploading.cancel()
        await asyncio.gather(uploading, return_exceptions=True)
        say(f"uploads {dict(crowd.answers)}")
        for _, one in followers:
            one.close()
        await asyncio.sleep(SETTLED)
        highest, after = _memory(gateway, "VmHWM"), _memory(gateway, "VmRSS")
        say(f"after {after:.0f} MiB, at its highest {highest:.0f}")
        ready = msgspec.json.decode((folder / "data" / "ready.json").read_bytes())
    statuses = Counter(str(one.status) for kind, one in followers if kind != "stalled")
    more = {
        "followers": FOLLOWERS,
        "uploads_at_once": open_uploads,
        "keys": KEYS,
        "alone": alone,
        "beside": beside,
        "rss_mib": {"before": before, "during": during, "highest": highest, "after": after},
        "kib_per_connection": (during - before) * 1024 / (FOLLOWERS + UPLOADS),
        "followers_by_status": dict(statuses),
        "refused": sum(count for status, count in statuses.items() if status != "200"),
        "stalled_cut": cut_stalled,
        "uploads": dict(crowd.answers),
        "restarted": ready["services"]["gateway"] != gateway,
        **cut,
    }
    figure, limit = beside["hook_p99_ms"], alone["hook_p99_ms"]
    return Outcome(name="crowds", figure=figure, unit="ms", limit=limit, ratio=figure / limit, more=more)


def say(text: str) -> None:
    """Tell how far it is: it takes minutes."""
    sys.stderr.write(f"{text}\n")


async def _run(stack: Whole, org: str, name: str) -> str:
    """Start a run that goes on; its lines are there when this returns."""
    run: str = (await stack.api.call("POST", f"/api/v1/workflows/{name}/runs?org={org}", body={"input": {}}))["id"]
    until = time.monotonic() + COME
    while (status := (await stack.api.call("GET", f"/api/v1/runs/{run}?org={org}"))["status"]) != "waiting":
        if time.monotonic() > until:
            raise BenchError(f"{name} of {org} is {status}")
        await asyncio.sleep(0.2)
    return run


async def _keys(stack: Whole) -> list[tuple[str, str, str]]:
    """Make the keys; returns organization, name and value of each."""
    wanted = [(ORGS[number % len(ORGS)], f"k{number}") for number in range(KEYS)]
    found: list[tuple[str, str, str]] = []

    async def make() -> None:
        while wanted:
            org, name = wanted.pop()
            body = {"name": name, "role": "viewer"}
            found.append((org, name, (await stack.api.call("POST", f"/api/v1/keys?org={org}", body=body))["key"]))

    await asyncio.gather(*(make() for _ in range(AT_ONCE)))
    return found


def _get(stack: Whole) -> Post:
    key = {"Authorization": f"Bearer {stack.ready['admin_key']}"}
    return Post(url=stack.ready["url"] + "/api/v1/sources/bench", headers=key, body=b"", method="GET")


async def _normal(posts: tuple[Post, Post], seconds: float) -> dict[str, float]:
    """Return how requests fare that are sent one after the other: reads, then webhooks."""
    found: dict[str, float] = {}
    for name, post in zip(("get", "hook"), posts, strict=True):
        made: Load = await load("sender", post, connections=1, seconds=max(1, int(seconds)))
        found |= {f"{name}_p50_ms": made.p50_ms, f"{name}_p99_ms": made.p99_ms, f"{name}_per_s": made.per_s}
    return found


async def _followers(
    stack: Whole, runs: dict[tuple[str, str], str], keys: list[tuple[str, str, str]]
) -> list[tuple[str, Follower]]:
    """Open all streams; returns them when each that reads was answered."""
    parts, admin = urlsplit(stack.ready["url"]), stack.ready["admin_key"]
    plans = [(name, org, "quiet", value) for org, name, value in keys]
    plans += [("stalled", ORGS[number % len(ORGS)], "loud", admin) for number in range(STALLED)]
    plans += [("reads", ORGS[number % len(ORGS)], "quiet", admin) for number in range(FOLLOWERS - STALLED - KEYS)]
    found: list[tuple[str, Follower]] = []

    async def opening() -> None:
        while plans:
            kind, org, workflow, key = plans.pop()
            path = f"/api/v1/runs/{runs[org, workflow]}/stream?org={org}"
            head = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
            reads = kind != "stalled"
            made = Follower(head)
            sock = socket.socket()
            if not reads:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TAKEN)
            sock.settimeout(0)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(sock, (parts.hostname, parts.port))
            await loop.create_connection(lambda made=made: made, sock=sock)  # type: ignore[misc]
            found.append((kind, made))
            if not reads:
                made.stall()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(COME):
                        await made.answered.wait()

    await asyncio.gather(*(opening() for _ in range(AT_ONCE)))
    return found


async def _come(crowd: UploadCrowd) -> None:
    """Wait until nearly all have come, or for some seconds: on a slow machine some have gone by then."""
    with suppress(TimeoutError):
        async with asyncio.timeout(COME):
            while len(crowd.sending) < UPLOADS * 9 // 10:
                await asyncio.sleep(0.1)


async def _revoked(stack: Whole, keys: list[tuple[str, str, str]], followers: list[tuple[str, Follower]]) -> dict[str, Any]:
    """Revoke every key; returns how long its stream went on."""
    streams = dict(followers)
    left, took = list(keys), []
    missed = 0

    async def revoke() -> None:
        nonlocal missed
        while left:
            org, name, _ = left.pop()
            stream = streams[name]
            if stream.status != 200:
                continue
            await stack.api.call("DELETE", f"/api/v1/keys/{name}?org={org}")
            answered = time.perf_counter()
            try:
                async with asyncio.timeout(10):
                    await stream.ended.wait()
            except TimeoutError:
                missed += 1
                continue
            took.append(max(0.0, stream.ended_at - answered) * 1000)

    began = time.perf_counter()
    with suppress(TimeoutError):
        async with asyncio.timeout(REVOKING):
            await asyncio.gather(*(revoke() for _ in range(AT_ONCE)))
    if not took:
        raise BenchError("no key had a stream")
    return {
        "revoked": len(took),
        "cut_slowest_ms": max(took),
        "cut_p50_ms": outcome.percentile(took, 50),
        "cut_missed": missed,
        "unrevoked": len(left),
        "revoking_s": time.perf_counter() - began,
    }


def _buffered() -> float:
    """Return what sockets of this machine hold, in MiB."""
    (line,) = (one for one in Path("/proc/net/sockstat").read_text().splitlines() if one.startswith("TCP:"))
    return int(line.split()[-1]) * resource.getpagesize() / 2**20


def _memory(pid: int, name: str) -> float:
    """Return the memory of a process in MiB."""
    (line,) = (one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


main = outcome.command(measure, seconds=10.0, about="Measure what crowds of clients cost others.")

if __name__ == "__main__":
    main()
