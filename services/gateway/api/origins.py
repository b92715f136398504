"""Whether a browser sends a request for a page of this gateway, or for one of somebody else."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from services.gateway.parts import Gateway
from shared.errors import PermissionDenied

# What stands for this machine in a browser; only where the gateway's own address does.
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def origins_of(public_url: str) -> frozenset[str]:
    """Return the origins of a gateway's own pages: that of its public address, on a loopback also by the names of that."""
    parts = urlsplit(public_url)
    host = parts.netloc.removesuffix(f":{parts.port}") if parts.port is not None else parts.netloc
    port = "" if parts.port in {None, {"http": 80, "https": 443}.get(parts.scheme)} else f":{parts.port}"
    return frozenset(f"{parts.scheme}://{one}{port}" for one in (_LOOPBACK if host in _LOOPBACK else (host,)))


def check_origin(gateway: Gateway, request: web.Request, *, strict: bool) -> None:
    """Raise `PermissionDenied` for what a page of another origin has a browser send.

    `strict`: a request that does not say where it is from, as browsers say of each change, is refused as well.
    """
    # A page of another host of the same site is another one; what a person opens has none before it.
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None and site not in ({"same-origin"} if strict else {"same-origin", "none"}):
        raise PermissionDenied("this was sent by a page of another site")
    if origin is None and not strict:
        return
    if origin not in origins_of(gateway.public_url):
        raise PermissionDenied(
            f"a session is of use to the pages of {gateway.public_url} alone, and this is from {origin or 'none'}"
        )
