"""/ and /console/…: the console, whose built files are in services/gateway/pages/console (`make console` makes them)."""

from __future__ import annotations

import mimetypes
from functools import cache
from pathlib import Path

from aiohttp import web

from services.gateway.api.endpoint import Call, Endpoint, Example, Reply, endpoint
from services.gateway.api.headers import Shrunk
from services.gateway.api.sign_in_page import FOLDER
from shared.errors import NotFound

# What it asks is of the API, script and style are files of their own, and a text can nowhere become markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
# The name of a file below this holds the hash of its content.
_HASHED = "assets/"


@cache
def _files() -> dict[str, Shrunk]:
    root = FOLDER / "console"
    return {str(path.relative_to(root)): Shrunk(path.read_bytes()) for path in sorted(root.rglob("*")) if path.is_file()}


def _sent(request: web.Request, name: str) -> web.Response:
    kept = "public, max-age=31536000, immutable" if name.startswith(_HASHED) else "no-cache"
    media = "text/javascript" if Path(name).suffix == ".js" else mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": kept, "Referrer-Policy": "no-referrer"}
    return _files()[name].sent(request, headers, media=f"{media}; charset=utf-8" if media.startswith("text/") else media)


@endpoint("GET", "/", role=None, answers={200: Reply(str, media="text/html")})
async def show_overview(call: Call[None, None]) -> web.Response:
    """Send the console."""
    return _sent(call.request, "index.html")


@endpoint(
    "GET",
    "/console/{path:.+}",
    role=None,
    answers={200: Reply(str, media="text/html")},
    errors=(NotFound,),
    example=Example(path={"path": "runs"}),
)
async def show_console(call: Call[None, None]) -> web.Response:
    """Send a file of the console; every other path is a page of it, and answers the console itself."""
    path = call.path["path"]
    if path in _files():
        return _sent(call.request, path)
    if path.startswith(_HASHED):
        raise NotFound(f"the console has no file {path}: it may be of another version")
    return _sent(call.request, "index.html")


ENDPOINTS: tuple[Endpoint, ...] = (show_overview, show_console)
