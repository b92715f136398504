"""What one organization did that stopped, or slowed, all others: each as a function that does it to a running stack.

`ACTS` are told apart by name; each ends by itself within about half a minute, whatever the stack answers, and returns the statuses
of its answers. None is an attack on the machine: what is hostile in a workflow runs in the stack's sandbox.
"""

# ruff: noqa: E501 - one attempt, one line

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import io
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

ORG = "hostile"
SECRET = b"k" * 24
# Seconds that the slow ones hold what they hold.
HOLD = 20.0
# Requests that are answered 503 are made so many times.
PATIENCE = 60
NESTED = "[" + ",".join("1" for _ in range(30)) + "]"
CEL = NESTED + "".join(f".map({name}, {NESTED}" for name in "abc") + ")))" + ".size() > 0"


class Hostile:
    """One organization's access to a stack for one act, whose sources have names of their own."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str, act: str) -> None:
        self._session = session
        self._act = act
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}", "X-Millrace-Org": ORG}
        self.statuses: Counter[int] = Counter()

    async def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> Any:
        """Return the decoded answer, whatever its status; of a machine that is too busy another one, a few times."""
        data = raw if raw is not None or body is None else msgspec.json.encode(body)
        for _ in range(PATIENCE):
            content = None if data is None else io.BytesIO(data)
            async with self._session.request(method, self.url + path, data=content, headers=self._headers) as response:
                self.statuses[response.status] += 1
                answer = await response.read()
            if response.status != HTTPStatus.SERVICE_UNAVAILABLE:
                break
            await asyncio.sleep(min(1.0, float(response.headers.get("Retry-After", 1))))
        with contextlib.suppress(msgspec.DecodeError):
            return msgspec.json.decode(answer)
        return answer

    async def source(self, adapter: str, **settings: Any) -> str:
        """Make a source; return the path of its address."""
        view = await self.call("PUT", f"/api/v1/sources/{self.named(adapter)}", {"adapter": adapter, "settings": settings})
        return f"/hooks/{view['id']}"

    def named(self, adapter: str) -> str:
        """Return what the act calls its source of an adapter."""
        return f"{self._act}-{adapter}"

    async def hook(self, path: str, body: bytes, headers: dict[str, str]) -> None:
        """Send a webhook."""
        async with self._session.post(self.url + path, data=io.BytesIO(body), headers=headers) as response:
            self.statuses[response.status] += 1
            await response.read()

    async def deploy(self, name: str, text: str) -> Any:
        """Put a file into the workspace."""
        return await self.call("PUT", f"/api/v1/workspace/files/{name}", raw=text.encode())

    async def start(self, workflow: str, **body: Any) -> Any:
        """Ask for a run."""
        return await self.call("POST", f"/api/v1/workflows/{workflow}/runs", body)


def signed(body: bytes, header: str = "X-Signature", prefix: str = "") -> dict[str, str]:
    """Return the headers of a request that an hmac or github source takes for genuine."""
    return {
        header: prefix + hmac.new(SECRET, body, hashlib.sha256).hexdigest(),
        "X-GitHub-Event": "push",
        "Content-Type": "application/json",
    }


def standard(body: bytes, identity: str) -> dict[str, str]:
    """Return the headers that Standard Webhooks asks for."""
    now = str(int(time.time()))
    made = hmac.new(SECRET, f"{identity}.{now}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": identity,
        "webhook-timestamp": now,
        "webhook-signature": "v1," + base64.b64encode(made).decode(),
        "Content-Type": "application/json",
    }


async def nul_in_webhooks(org: Hostile) -> None:
    """Send text that Postgres does not keep, in every place of a webhook that reaches a row."""
    standard_hook = await org.source("standard-webhooks", secret="whsec_" + base64.b64encode(SECRET).decode())
    github = await org.source("github", secret=SECRET.decode())
    plain = await org.source("hmac", secret=SECRET.decode())
    await org.deploy(
        "order.py",
        "from dataclasses import dataclass\nfrom millrace import workflow\n@dataclass\nclass Order:\n    n: int\n"
        "@workflow\ndef take(order: Order) -> None: ...\n",
    )
    for source in ("standard-webhooks", "github", "hmac"):
        given = {"source": org.named(source), "event": "*", "workflow": "take", "input": {"order": "event.data"}}
        await org.call("PUT", f"/api/v1/subscriptions/{source}", given)
    for number in range(5):
        body = b'{"type":"a\\u0000b","n":%d}' % number
        await org.hook(standard_hook, body, standard(body, f"msg_{time.time_ns()}"))
        for body in (b'{"action":"\\u0000"}', b'{"action":"\\ud800"}', b'{"n":%s}' % (b"9" * 400)):
            await org.hook(github, body, signed(body, "X-Hub-Signature-256", "sha256="))
        for body in (b'{"n":0,"a\\u0000b":1}', b"[" * 5000 + b"]" * 5000):
            await org.hook(plain, body, signed(body))


async def unreadable_webhooks(org: Hostile) -> None:
    """Send more unreadable bodies in a row than a consumer takes before it stops."""
    path = await org.source("hmac", secret=SECRET.decode(), event_path="type")
    for _ in range(30):
        for body in (b"", b"<a/>", b"\xef\xbb\xbf{", b'{"a":"\\ud83d"', b"\xff\xfe\x00"):
            await org.hook(path, body, signed(body) | {"Content-Type": "application/json"})


async def crowded_webhooks(org: Hostile) -> None:
    """Send bodies of millions of tiny values, which take a hundred times their size once they are read."""
    path = await org.source("hmac", secret=SECRET.decode())
    for _ in range(20):
        body = b'{"a":[' + b"1e308," * 40_000 + b"0]}"
        await org.hook(path, body, signed(body))
    for middle in (b"1e308,", b"[],", b"0,", b'{"a":"\\u0000"},'):
        body = b'{"t":"\\u0000","a":[' + middle * (20_000_000 // len(middle)) + b"0]}"
        await org.hook(path, body, signed(body))


async def crowded_requests(org: Hostile) -> None:
    """Ask, ten times at once, with bodies of as many values as there may be, and of more, each to be looked at."""
    for _ in range(4):
        await org.call("PUT", "/api/v1/variables/v", raw=b'{"value":[' + b"1e308," * 600_000 + b"0]}")
    for count in (80_000, 1_000_000):
        raw = b'{"input":{"n":1234567890123456789,"a":[' + b"[]," * count + b"0]}}"
        for path in ("variables/v", "subscriptions/x"):
            await asyncio.gather(*(org.call("PUT", f"/api/v1/{path}", raw=raw) for _ in range(10)))


async def absurd_durations(org: Hostile) -> None:
    """Declare and ask for times that no calendar holds."""
    for number, given in enumerate(
        (
            "queue_timeout=1e18",
            "queue_timeout=__import__('sys').maxsize",
            "retries=1, retry_delay=1e15, retry_max_delay=1e15",
            "timeout=-5",
        )
    ):
        await org.deploy(
            f"late{number}.py", f"from millrace import workflow\n@workflow({given})\ndef late{number}() -> int: return 1/0\n"
        )
        await org.start(f"late{number}")
    await org.deploy("fine.py", "from millrace import workflow\n@workflow\ndef fine() -> int: return 1\n")
    for body in (
        {"concurrency_key": "a\0b"},
        {"timeout": 1e300},
        {"deadline": 1e300},
        {"run_at": "9999-12-31T23:59:59-14:00"},
        {"run_at": "0001-01-01T00:00:00+14:00"},
    ):
        await org.start("fine", **body)


async def costly_expressions(org: Hostile) -> None:
    """Have expressions evaluated that crash the engine, take its time, or its memory."""
    await org.deploy("fine.py", "from millrace import workflow\n@workflow\ndef fine(a: int = 0) -> int: return 1\n")
    path = await org.source("hmac", secret=SECRET.decode())
    filters = {
        "nested": CEL,
        "terms": "+".join(["1"] * 2000) + " > 0",
        "deep": "(" * 1000 + "true" + ")" * 1000,
        "text": "'" + "a" * 4000 + "' == ''",
    }
    for name, text in filters.items():
        await org.call(
            "PUT", f"/api/v1/subscriptions/{name}", {"source": org.named("hmac"), "event": "*", "workflow": "fine", "filter": text}
        )
    for number, text in enumerate(("'+'.join(['1'] * 100000)", "'+'.join(['1'] * 20000)", repr(CEL), "'input.a + ' * 500 + '1'")):
        code = f"from millrace import workflow\n@workflow(concurrency={text})\ndef keyed{number}(a: int = 0) -> int: return 1\n"
        await org.deploy(f"keyed{number}.py", code)
        await org.start(f"keyed{number}")
    for number in range(10):
        body = b'{"n":%d}' % number
        await org.hook(path, body, signed(body))


async def slow_bodies(org: Hostile) -> None:
    """Announce large bodies and send a byte of each now and then; unsigned, and with a signature that is wrong."""
    path = await org.source("hmac", secret=SECRET.decode())
    length = 25 * 1024 * 1024 - 20_000

    async def one(signature: bytes) -> None:
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (path.encode(), length, signature)
        await _trickle(org.url, head + b"x" * (1024 * 1024 if signature else 1))

    await asyncio.gather(*(one(b"X-Signature: %s\r\n" % (b"0" * 64) if number % 2 else b"") for number in range(20)))


async def unfinished_heads(org: Hostile) -> None:
    """Open connections and never finish a request."""
    await asyncio.gather(*(_trickle(org.url, b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ") for _ in range(300)))


async def forged_frames(org: Hostile) -> None:
    """Write what the SDK never would: times, bounds and schemas, from a run and from a module that is described."""
    await org.deploy(
        "late.py", "from millrace import workflow\n@workflow(queue_timeout=3600)\ndef late(a: int = 0) -> int: return 1\n"
    )
    frames = [
        '{"kind":"start_run","id":1,"name":"late","workflow":"late","input":{},"run_at":"garbage"}',
        '{"kind":"start_run","id":1,"name":"late","workflow":"late","input":{},"run_at":"9999-12-31T23:59:59-14:00","priority":"x"}',
        '{"kind":"wait","id":1,"waits":[{"kind":"sleep","name":"","seconds":1e300}]}',
        '{"kind":"step","id":1,"name":"a","ordinal":-1,"result":1e400}',
        '{"kind":"log","level":"info","event":"x","fields":{"a":1e999}}',
        '{"kind":"described","workflows":[{"name":"x","timeout":-5,"queue_timeout":1e300}],"problems":[]}',
    ]
    for number, frame in enumerate(frames):
        code = (
            "import os, time\nfrom millrace import workflow\n"
            f"@workflow(timeout=5)\ndef forged{number}():\n"
            f"    frame = {frame!r}.encode()\n    os.write(3, len(frame).to_bytes(4, 'big') + frame)\n    time.sleep(3)\n"
        )
        await org.deploy(f"forged{number}.py", code)
        await org.start(f"forged{number}")
    schema = (
        "import millrace._schema as schema\nfrom millrace import workflow\n"
        "def made(*_, **__):\n"
        "    chain = {f'n{i}': {'allOf': [{'$ref': f'#/$defs/n{i + 1}'}] * 2} for i in range(40)}\n"
        "    return {'type': 'object', '$ref': '#/$defs/n0', '$defs': chain | {'n40': {'type': 'object'}}}\n"
        "for name in [n for n in dir(schema) if callable(getattr(schema, n)) and 'schema' in n.lower()]: setattr(schema, name, made)\n"
        "import millrace._declare as declare\n"
        "for name in [n for n in dir(declare) if 'schema' in n.lower()]: setattr(declare, name, made)\n"
        "@workflow\ndef shaped(a: int = 0) -> int: return 1\n"
    )
    await org.deploy("shaped.py", schema)
    await org.start("shaped", input={"a": 1})


async def hogging_runs(org: Hostile) -> None:
    """Ask for more runs than there are slots, each of which does nothing for long."""
    code = f"import time\nfrom millrace import workflow\n@workflow(timeout={HOLD})\ndef hog() -> None: time.sleep({HOLD - 5})\n"
    await org.deploy("hog.py", code)
    await asyncio.gather(*(org.start("hog") for _ in range(60)))
    await asyncio.sleep(HOLD / 2)


async def endless_topics(org: Hostile) -> None:
    """Have each event of a topic start a run that emits thirty more to the same topic."""
    code = (
        "from millrace import events, workflow\n@workflow(isolation='workflow', timeout=60)\ndef spreads(event: dict) -> None:\n"
        f"    for number in range(30): events.emit({org.named('topic')!r}, 'again', {{'n': number}})\n"
    )
    await org.source("topic")
    await org.deploy("spreads.py", code)
    given = {"source": org.named("topic"), "event": "*", "workflow": "spreads"}
    await org.call("PUT", "/api/v1/subscriptions/spreads", given)
    await org.call("POST", f"/api/v1/sources/{org.named('topic')}/events", {"type": "again"})
    await asyncio.sleep(HOLD)


async def costly_masking(org: Hostile) -> None:
    """Say much text that looks like a long secret, nearly."""
    await org.call("PUT", "/api/v1/secrets/long", {"value": "ab" * 30_000 + "c"})
    code = (
        "from millrace import secrets, workflow\n@workflow(timeout=20)\ndef says() -> None:\n"
        "    secrets.get('long')\n    for _ in range(8): print('ab' * 32_000)\n"
    )
    await org.deploy("says.py", code)
    for _ in range(3):
        await org.start("says")


async def modules_that_hang(org: Hostile) -> None:
    """Deploy code that does not end while it is read."""
    await asyncio.gather(*(org.deploy(f"hangs{number}.py", "while True: pass\n") for number in range(3)))
    for number in range(3):
        await org.call("DELETE", f"/api/v1/workspace/files/hangs{number}.py")


async def absurd_requests(org: Hostile) -> None:
    """Ask for what no row can be, in every part of a request."""
    for path in (
        "runs?cursor=%00",
        "runs?since=0001-01-01T00:00:00%2B14:00",
        "logs?q=%00",
        "logs?from=9999-12-31T23:59:59-14:00",
        "sources/%00",
    ):
        await org.call("GET", f"/api/v1/{path}")
    for raw in (b"[" * 100_000 + b"]" * 100_000, b'{"value":"\\u0000"}', b'{"value":"\\ud800"}', b'{"value":%s}' % (b"9" * 5000)):
        await org.call("PUT", "/api/v1/variables/a", raw=raw)


ACTS: dict[str, Callable[[Hostile], Awaitable[None]]] = {
    act.__name__: act
    for act in (
        nul_in_webhooks,
        unreadable_webhooks,
        crowded_webhooks,
        crowded_requests,
        absurd_durations,
        costly_expressions,
        slow_bodies,
        unfinished_heads,
        forged_frames,
        hogging_runs,
        costly_masking,
        modules_that_hang,
        absurd_requests,
    )
}


async def _trickle(url: str, first: bytes) -> None:
    """Send the beginning of a request and then a byte every two seconds, until it is answered, cut, or `HOLD` is over."""
    address = urlsplit(url)
    try:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
    except OSError:
        return
    try:
        async with asyncio.timeout(HOLD):
            writer.write(first)
            answered = asyncio.ensure_future(reader.read(1))
            while not answered.done():
                writer.write(b"x")
                await writer.drain()
                await asyncio.wait((answered,), timeout=2)
            with contextlib.suppress(OSError):
                await answered
    except (TimeoutError, OSError):
        pass
    finally:
        writer.close()
