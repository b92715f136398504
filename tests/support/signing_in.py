"""Users who are signed in, as far as a test of something else needs them: their session is a row, and was opened by nobody."""

from __future__ import annotations

import secrets
from typing import Any

import asyncpg
import msgspec

from services.gateway.sessions import csrf_of, digest_of
from tests.support.browser import Page
from tests.support.servers import Place


class Browser(msgspec.Struct, frozen=True):
    """A browser with a session of the gateway at `url`."""

    url: str
    value: str

    @property
    def looks(self) -> dict[str, str]:
        """Return the headers of a question."""
        return {"Cookie": f"millrace-session={self.value}", "Sec-Fetch-Site": "same-origin"}

    @property
    def changes(self) -> dict[str, str]:
        """Return the headers of a change by one of the gateway's pages."""
        return self.looks | {"Origin": self.url, "X-Millrace-CSRF": csrf_of(self.value)}


async def user_of(client: Any, name: str, **fields: Any) -> dict[str, Any]:
    """Return a new user as the platform sees it."""
    got = await client("PUT", f"/api/v1/users/{name}", json=fields)
    assert got.status == 200, got.body
    shown: dict[str, Any] = got.json
    return shown


async def browser_of(place: Place, client: Any, user: dict[str, Any], *, seconds: int = 3600) -> Browser:
    """Return a browser in which a user is signed in for so long."""
    made = Browser(client.url, secrets.token_urlsafe(32))
    admin = await asyncpg.connect(place.database_url("admin"))
    try:
        await admin.execute(
            """
            INSERT INTO gateway.session (digest, user_id, generation, method, created_at, seen_at, ends_at)
            SELECT $1, id, coalesce((spec ->> 'generation')::bigint, 0), 'password', now(), now(), now() + make_interval(secs => $3)
            FROM gateway.resource WHERE id = $2
            """,
            digest_of(made.value),
            user["id"],
            seconds,
        )
    finally:
        await admin.close()
    return made


async def accept_in(page: Page, invitation: dict[str, Any], password: str = "a long enough password") -> None:
    """Have a person accept an invitation in a browser, which is signed in then."""
    await page.open(invitation["url"])
    await page.until("!document.getElementById('accept')?.hidden")
    await page.fill("#accept [name=password]", password)
    await page.press("#accept button")
    await page.until("!document.getElementById('signed-in').hidden")
