"""One HTTP request and its answer, by the standard library and through the proxy that the environment names.

Loaded with a run's first request by a client: what it needs takes longer to load than most runs last.
"""

import functools
import http.client
import ssl
import time
import urllib.error
import urllib.request

LARGEST = 64 * 1024 * 1024
"""Bytes of an answer."""

_PIECE = 1 << 16


class Unanswered(Exception):
    """There is no whole answer, for this reason."""


def exchanged(
    method: str, url: str, headers: dict[str, str], body: bytes | None, *, timeout: float, cafile: str | None
) -> tuple[int, str, list[tuple[str, str]], bytes]:
    """Send a request and answer status, reason, headers and body of the answer, whatever it is. Raises `Unanswered`.

    No redirect is followed. `timeout` is in seconds, until the last byte. `cafile` has further authorities. Raises OSError where it
    is none.
    """
    context = _context(cafile)
    until = time.monotonic() + timeout
    # Anew for each, since a process may serve several runs, each with a proxy of its own.
    opener = urllib.request.OpenerDirector()
    opener.addheaders = [("User-Agent", "millrace")]
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(context=context)):
        opener.add_handler(handler)
    request = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310 - of two schemes: see `address`
    try:
        with opener.open(request, timeout=timeout) as answer:
            told = answer.headers.get("Proxy-Status") or ""
            content = _content(answer, until, timeout)
            if told.startswith("millrace;"):
                raise Unanswered(content.decode(errors="replace").strip())
            return answer.status, answer.reason, answer.headers.items(), content
    except TimeoutError:
        raise Unanswered(_late(timeout)) from None
    except urllib.error.URLError as error:
        reason = _late(timeout) if isinstance(error.reason, TimeoutError) else str(error.reason)
        raise Unanswered(reason) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unanswered(f"{type(error).__name__}: {error}") from None


def _content(answer: http.client.HTTPResponse, until: float, timeout: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := answer.read1(_PIECE):
        parts.append(part)
        size += len(part)
        if size > LARGEST:
            raise Unanswered(f"the answer has more than {LARGEST} bytes")
        if time.monotonic() > until:
            raise Unanswered(_late(timeout))
    if answer.length:
        raise Unanswered(f"the answer ended {answer.length} bytes too early")
    return b"".join(parts)


def _late(timeout: float) -> str:
    return f"no whole answer came in {timeout:g} s"


@functools.cache
def _context(cafile: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cafile is not None:
        context.load_verify_locations(cafile)
    context.set_alpn_protocols(["http/1.1"])
    return context
