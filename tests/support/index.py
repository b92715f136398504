"""A package index on the loopback that behaves as a test wants it."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

DRIP = 0.2
"""Seconds between two bytes of an index that drips."""


class Index:
    """Serves the packages of a folder; `page` and `file` replace what it would answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.page: bytes | None = None
        self.file: bytes | None = None
        self.claimed: str | None = None
        self.stalls = False
        self.drips: str | None = None
        """The beginning of paths that are answered a byte now and then."""
        self.redirects: dict[str, str] = {}
        """Where the beginnings of paths lead to."""
        self.wants: str | None = None
        """`user:password`, without which nothing is given."""
        self.released = asyncio.Event()
        self.asked: list[str] = []
        self.authorized: list[str | None] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        self.authorized.append(request.headers.get("Authorization"))
        if self.wants is not None and self.authorized[-1] != "Basic " + base64.b64encode(self.wants.encode()).decode():
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": "Basic"})
        if self.stalls:
            await self.released.wait()
        for begin, target in self.redirects.items():
            if request.path.startswith(begin):
                raise web.HTTPFound(target + request.path)
        body, kind = self._found(request.path)
        if self.drips is not None and request.path.startswith(self.drips):
            return await self._dripped(request, body, kind)
        return web.Response(body=body, content_type=kind)

    def _found(self, path: str) -> tuple[bytes, str]:
        name = path.rstrip("/").rpartition("/")[2]
        if path.startswith("/simple/"):
            if self.page is not None:
                return self.page, "text/html"
            links = [one for one in self.folder.iterdir() if one.name.startswith(name.replace("-", "_") + "-")]
            if not links:
                raise web.HTTPNotFound
            hashes = {one.name: self.claimed or hashlib.sha256(one.read_bytes()).hexdigest() for one in links}
            body = "".join(f'<a href="/files/{file}#sha256={digest}">{file}</a>' for file, digest in hashes.items())
            return f"<html><body>{body}</body></html>".encode(), "text/html"
        if not (self.folder / name).exists():
            raise web.HTTPNotFound
        return self.file if self.file is not None else (self.folder / name).read_bytes(), "application/octet-stream"

    async def _dripped(self, request: web.Request, body: bytes, kind: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(body))})
        await response.prepare(request)
        for number in range(len(body)):
            await response.write(body[number : number + 1])
            try:
                async with asyncio.timeout(DRIP):
                    await self.released.wait()
            except TimeoutError:
                continue
        return response


@asynccontextmanager
async def index_of(folder: Path) -> AsyncIterator[Index]:
    """Serve a folder, which is made, for the block."""
    found = Index(folder)
    folder.mkdir(exist_ok=True)
    app = web.Application()
    app.router.add_get("/{path:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.port = runner.addresses[0][1]
    try:
        yield found
    finally:
        found.released.set()
        await runner.cleanup()
