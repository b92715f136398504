"""/sign-in and /invitation: pages for people, which ask the API for everything. Script and style are files of their own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from aiohttp import web

from services.gateway.api.endpoint import Call, Endpoint, Reply, endpoint

FOLDER = Path(__file__).parents[1] / "pages"
# Nothing is in the page itself, nothing comes from elsewhere, and no form is sent but by the script.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'; require-trusted-types-for 'script'"
)
_HTML = {200: Reply(str, media="text/html")}


@cache
def _read(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def _sent(name: str, media: str) -> web.Response:
    # The address of an invitation holds its token, behind the #: it is told to nobody.
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}
    return web.Response(body=_read(name), content_type=media, charset="utf-8", headers=headers)


@endpoint("GET", "/sign-in", role=None, answers=_HTML)
async def show_sign_in(_call: Call[None, None]) -> web.Response:
    """Send the page for signing in."""
    return _sent("sign_in.html", "text/html")


@endpoint("GET", "/invitation", role=None, answers=_HTML)
async def show_invitation(_call: Call[None, None]) -> web.Response:
    """Send the page for who is invited: the same, which knows it by its address."""
    return _sent("sign_in.html", "text/html")


@endpoint("GET", "/sign-in.js", role=None, answers={200: Reply(str, media="text/javascript")})
async def get_sign_in_script(_call: Call[None, None]) -> web.Response:
    """Send the script of these pages."""
    return _sent("sign_in.js", "text/javascript")


@endpoint("GET", "/sign-in.css", role=None, answers={200: Reply(str, media="text/css")})
async def get_sign_in_style(_call: Call[None, None]) -> web.Response:
    """Send the style of these pages."""
    return _sent("sign_in.css", "text/css")


ENDPOINTS: tuple[Endpoint, ...] = (show_sign_in, show_invitation, get_sign_in_script, get_sign_in_style)
