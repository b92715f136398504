"""The console in a real browser: how soon its first page is there with a cold cache, and what a list of 100,000 runs takes.

- `first_ms`: from the address to the names of the newest runs, each time in a browser that has nothing (wanted: a second). The
  limit is the same browser's time for one page of the same bytes that needs nothing besides, from an aiohttp server beside it;
- `first_bytes`, `first_files`: what that loads, as it is sent;
- `list_mb`: what the page's heap grows by while a list is scrolled to its end through `runs` runs (wanted: 100 MB), `list_rows` of
  which are in the document then; `list_s`, how long that takes.

The runs are rows that are copies of one: nothing of them is on the bus.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web

from bench.support import outcome
from bench.support.outcome import BenchError, Outcome
from bench.support.running import Whole, whole
from tests.support.browser import Page, browsing, chromium

RUNS = 100_000
FIRST_WANTED_MS = 1000.0
LIST_WANTED_MB = 100.0
FEWEST = 3
WITHIN = 300.0
CODE = b"""
from millrace import workflow
@workflow(name="touch")
def touch(number: int = 1) -> dict:
    return {"number": number}
"""
COPIES = """
INSERT INTO executor.run (id, org, workflow, status, requested_at, last_seq, state)
SELECT copy.id, org, workflow, status, copy.at, last_seq,
    replace(state::text, run.id, copy.id)::jsonb
        || jsonb_build_object('requested_at', to_char(copy.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
FROM executor.run
CROSS JOIN generate_series(1, $2::int) n
CROSS JOIN LATERAL (
    SELECT replace(run.id, left(run.id, 8), lpad(to_hex(n), 8, '0')) AS id, run.requested_at - n * interval '1 s' AS at
) copy
WHERE run.id = $1
"""


async def measure(folder: Path, seconds: float) -> Outcome:
    """Measure for about so many seconds, and then the list."""
    program = chromium()
    if program is None:
        raise BenchError("the browser `chromium` is not installed")
    async with whole(folder / "data") as stack:
        await stack.api.call("PUT", "/api/v1/workspace/files/touch.py", data=CODE)
        run = await stack.api.call("POST", "/api/v1/workflows/touch/runs?wait=30", body={"input": {}})
        session = await _signed_in(stack)
        first: list[float] = []
        bare: list[float] = []
        loaded: dict[str, Any] = {}
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(first) < FEWEST:
            async with _opened(program, stack, session) as page:
                first.append(
                    await _shown(page, stack.ready["url"], "document.querySelector('main .lines a')?.innerText === 'touch'")
                )
                loaded = json.loads(str(await page.value(_LOADED)))
            async with _same(loaded["bytes"]) as url, _opened(program, stack, session) as page:
                bare.append(await _shown(page, url, "document.body?.innerText.includes('end of it')"))
        async with _opened(program, stack, session) as page:
            listed = await _scrolled(page, stack, run["id"])
    return Outcome(
        name="console",
        figure=median(first),
        unit="ms to the first page",
        limit=median(bare),
        ratio=median(first) / median(bare),
        more={
            "rounds": len(first),
            "first_ms": median(first),
            "first_slowest_ms": max(first),
            "first_as_wanted": median(first) <= FIRST_WANTED_MS,
            "bare_ms": median(bare),
            "first_bytes": loaded["bytes"],
            "first_files": loaded["files"],
            **listed,
            "list_as_wanted": listed["list_mb"] <= LIST_WANTED_MB,
        },
    )


_LOADED = """
(all => JSON.stringify({files: all.length, bytes: all.reduce((sum, one) => sum + one.transferSize, 0)}))(
    [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .filter(one => one.initiatorType !== 'fetch' && !one.name.includes('/api/')))
"""


async def _signed_in(stack: Whole) -> tuple[str, str]:
    """Return the cookie of somebody who has accepted an invitation."""
    invited = await stack.api.call("POST", "/api/v1/orgs/global/invitations", body={"role": "admin", "name": "bench"})
    token = invited["url"].rpartition("#")[2]
    url = stack.ready["url"]
    async with aiohttp.ClientSession() as nobody:
        body = {"token": token, "password": "a long enough password"}
        headers = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
        async with nobody.post(f"{url}/api/v1/invitations/accept", json=body, headers=headers) as response:
            (cookie,) = response.cookies.values()
            return cookie.key, cookie.value


@asynccontextmanager
async def _opened(program: str, stack: Whole, session: tuple[str, str]) -> AsyncIterator[Page]:
    """Run a browser that has nothing but the session."""
    async with browsing(program) as page:
        await page.command("Network.enable")
        await page.command("Emulation.setDeviceMetricsOverride", width=1440, height=1000, deviceScaleFactor=1, mobile=False)
        name, value = session
        await page.command("Network.setCookie", name=name, value=value, url=stack.ready["url"])
        yield page


async def _shown(page: Page, url: str, there: str) -> float:
    """Return the milliseconds from opening an address until an expression is true, as the page itself counts them."""
    await page.open(url)
    return float(await page.until(f"location.href.startsWith({json.dumps(url)}) && ({there}) && performance.now()"))


@asynccontextmanager
async def _same(size: int) -> AsyncIterator[str]:
    """Serve one page of so many bytes; yields its address."""

    async def answer(_request: web.Request) -> web.Response:
        text = "<!doctype html><title>same</title><!--" + "x" * size + "--><p>end of it</p>"
        return web.Response(text=text, content_type="text/html")

    served = web.Application()
    served.router.add_get("/", answer)
    runner = web.AppRunner(served)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


async def _scrolled(page: Page, stack: Whole, run: str) -> dict[str, Any]:
    connection = await asyncpg.connect(stack.ready["database_url"])
    try:
        await connection.execute(COPIES, run, RUNS - 1, timeout=WITHIN)
    finally:
        await connection.close()
    await page.open(f"{stack.ready['url']}/console/runs")
    await page.until("document.querySelectorAll('.rows .row').length > 20")
    before = await _heap(page)
    began = time.monotonic()
    height = 0
    async with asyncio.timeout(WITHIN):
        while height < 44 * RUNS:
            height = int(
                await page.value("scrollTo(0, document.body.scrollHeight), document.querySelector('.rows').clientHeight") or 0
            )
            await asyncio.sleep(0.01)
    took = time.monotonic() - began
    return {
        "runs": height // 44,
        "list_mb": (await _heap(page) - before) / 1e6,
        "list_rows": int(await page.value("document.querySelectorAll('.rows .row').length")),
        "list_s": took,
    }


async def _heap(page: Page) -> int:
    await page.command("HeapProfiler.collectGarbage")
    answer = await page.command("Runtime.getHeapUsage")
    return int(answer["result"]["usedSize"])


main = outcome.command(measure, seconds=15.0, about="Measure how soon the console is there, and what a list of 100,000 runs takes.")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
