"""Pages for people, and the cookies by which a browser is known between two of them."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Sequence
from datetime import UTC
from html import escape

import msgspec
from aiohttp import web

from services.gateway.parts import Gateway
from shared.errors import MillraceError
from shared.values import moment_of

# Seconds that a cookie lasts: as long as a person has at a provider's page.
SECONDS = 600
_OURS = re.compile(r"[A-Za-z0-9_-]{43}")
_STYLE = """
:root { color-scheme: light dark; --of: #666; --at: #2563eb }
body { font: 1.0625rem/1.5 system-ui, sans-serif; margin: 0; padding: 3rem 1rem }
main { max-width: 34rem; margin: auto; padding: .5rem 1.5rem 1rem }
main { border: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
main { border-top: 4px solid var(--at); border-radius: 6px; overflow-wrap: anywhere }
.well { --at: #16a34a } .wrong { --at: #dc2626 }
h1 { font-size: 1.5rem; margin: .25rem 0 1rem; color: var(--at) }
.of { color: var(--of); font-size: .875rem; margin: .75rem 0 0 }
.do { border-left: 3px solid var(--at); padding-left: .75rem }
.field { margin: 1em 0 } .field label { font-weight: 600 } .field .of, .bad { margin: 0 }
.bad { color: #dc2626 } .bad::before { content: "\\2716  " }
input, select, textarea { font: inherit; padding: .3rem .5rem; max-width: 100%; box-sizing: border-box }
textarea, input[type=text], input[type=email], input[type=url], select { width: 100% }
[aria-invalid] { border: 2px solid #dc2626 }
main > p { white-space: pre-line }
button { font: inherit; padding: .4rem 1.2rem; cursor: pointer }
"""
# This style, and no other. Nothing of `form-action`: where a form leads on to a provider, browsers hold that against it.
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_NOBODY = "'none'"
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'"
HEADERS = {"Content-Security-Policy": f"{_POLICY}; frame-ancestors 'none'"}


class BrowserCookie(msgspec.Struct, frozen=True):
    """A cookie with 256 random bits, for pages below `path`.

    Behind HTTPS its name says that no other host has set it, which takes the path `/`.
    """

    name: str
    path: str

    def of(self, gateway: Gateway, request: web.Request) -> str | None:
        """Return its value, None where a browser has none."""
        found = request.cookies.get(self._name(gateway), "")
        return found if _OURS.fullmatch(found) else None

    def give(self, gateway: Gateway, answer: web.Response, value: str) -> None:
        """Set it in an answer."""
        secure = _is_secure(gateway)
        answer.set_cookie(
            self._name(gateway),
            value,
            max_age=SECONDS,
            path="/" if secure else self.path,
            httponly=True,
            # Sent where the provider leads back to us, and with no form of another site.
            samesite="Lax",
            secure=secure,
        )

    def _name(self, gateway: Gateway) -> str:
        return f"__Host-{self.name}" if _is_secure(gateway) else self.name


def hashed(browser: str) -> str:
    """Return what stands for a browser elsewhere: nobody can be that browser by it."""
    return hashlib.sha256(browser.encode()).hexdigest()


def policy(*, ancestors: Sequence[str] = (), script: str | None = None, frames: Sequence[str] = ()) -> str:
    """Return the policy of a page with a form: what may show it in a frame, the one script that it has, and the frames of that."""
    found = f"{_POLICY}; form-action 'self'; frame-ancestors {' '.join(ancestors) or _NOBODY}"
    if script is None:
        return found
    opened = " ".join(frames) or "/".join(script.split("/")[:3])
    return f"{found}; script-src {script.partition('?')[0]}; frame-src {opened}; connect-src {opened}"


def person_page(title: str, words: str, do: str, more: str = "", *, kind: str = "asks", head: str = "") -> web.Response:
    """Return a page: what is so in `words`, what to do then, and HTML that is sent as it is. Text from outside may be in both."""
    text = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">{head}'
        f'<title>{title} - Millrace</title><style>{_STYLE}</style><main class="{kind}"><p class="of">Millrace</p><h1>{title}</h1>'
        f'<p>{escape(words)}</p><p class="do">{escape(do)}</p>{more}</main></html>'
    )
    return web.Response(text=text, content_type="text/html", headers=HEADERS)


def refused_page(title: str, error: MillraceError, do: str) -> web.Response:
    """Return the page of a request that could not be served: what is to be done is `do`, unless it is to be tried again later."""
    seconds = None if error.retry_after is None else max(1, math.ceil(error.retry_after))
    again = None if seconds is None else f"Try again in {seconds} second{'s' if seconds > 1 else ''}"
    page = person_page(title, f"This could not be done: {error.detail}.", again or do, kind="wrong")
    page.set_status(error.status)
    if seconds is not None:
        page.headers["Retry-After"] = str(seconds)
    return page


def readable(moment: str) -> str:
    """Return a time (RFC 3339) as people read it, to the minute, in UTC."""
    at = moment_of(moment).astimezone(UTC)
    return f"{at.day} {at:%B %Y, %H:%M} UTC"


def when(moment: str) -> str:
    """Return the HTML of a time (RFC 3339)."""
    return f'<time datetime="{escape(moment)}">{readable(moment)}</time>'


def _is_secure(gateway: Gateway) -> bool:
    return gateway.public_url.startswith("https:")
