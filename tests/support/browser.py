"""A real browser without a window, driven over the DevTools protocol. It reaches the loopback and nothing else."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

BOUND = 20.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1, EXCLUDE 127.0.0.2",
    "--remote-debugging-port=0",
)


def chromium() -> str | None:
    """Return the path of the browser, None where there is none."""
    return shutil.which("chromium")


class Page:
    """One page. What is asked of an element waits until the page has it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def open(self, url: str) -> None:
        """Go to an address."""
        await self.command("Page.navigate", url=url)

    async def fill(self, selector: str, text: str) -> None:
        """Type a text into a field."""
        await self.until(
            f"(document.querySelector({json.dumps(selector)})?.focus(), document.activeElement?.matches({json.dumps(selector)}))"
        )
        await self.command("Input.insertText", text=text)

    async def press(self, selector: str) -> None:
        """Click on an element."""
        await self.until(f"(one => one && (one.click(), true))(document.querySelector({json.dumps(selector)}))")

    async def until(self, expression: str) -> Any:
        """Return the first value of an expression that is true, whichever page is there by then."""
        async with asyncio.timeout(BOUND):
            while not (value := await self.value(expression)):
                await asyncio.sleep(0.02)
            return value

    async def value(self, expression: str) -> Any:
        """Return the value of an expression; None where the page goes away meanwhile, or has not come yet."""
        answer = await self.command("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer.get("result", {}).get("result", {}).get("value")

    async def text(self) -> str:
        """Return what a person reads."""
        return str(await self.until("document.readyState === 'complete' && document.body.innerText"))

    async def picture(self, path: Path) -> None:
        """Write what a person sees as a PNG."""
        answer = await self.command("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(answer["result"]["data"]))

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to a command of the protocol."""
        number = next(self._numbers)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        try:
            async with asyncio.timeout(BOUND):
                return await answered
        finally:
            self._waiting.pop(number, None)

    async def read(self) -> None:
        """Hand answers to those who wait for them, until the browser ends."""
        async for message in self._socket:
            document = json.loads(message.data)
            waiting = self._waiting.get(document.get("id"))
            if waiting is not None and not waiting.done():
                waiting.set_result(document)


@asynccontextmanager
async def browsing(program: str) -> AsyncIterator[Page]:
    """Run a browser with a profile of its own for the block; yields its page."""
    profile = Path(tempfile.mkdtemp(prefix="mr-browser-"))
    process = await asyncio.create_subprocess_exec(
        *[program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(process, profile / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                targets = msgspec.json.decode(await response.read(), type=list[dict[str, Any]])
            address = next(one["webSocketDebuggerUrl"] for one in targets if one["type"] == "page")
            async with session.ws_connect(address, max_msg_size=1 << 25) as socket:
                page = Page(socket)
                reading = asyncio.create_task(page.read())
                try:
                    yield page
                finally:
                    reading.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        # Its children end just after it, and write until then.
        async with asyncio.timeout(BOUND):
            while profile.exists():
                shutil.rmtree(profile, ignore_errors=True)
                await asyncio.sleep(0.02)


async def _port(process: asyncio.subprocess.Process, file: Path) -> int:
    async with asyncio.timeout(BOUND):
        while True:
            assert process.returncode is None, "the browser ended at once"
            try:
                return int(file.read_text().splitlines()[0])
            except (FileNotFoundError, IndexError, ValueError):
                await asyncio.sleep(0.02)
