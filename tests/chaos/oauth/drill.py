"""The drill: authorize connections with a provider that ends a family where an old token comes again, and refresh them."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import asyncpg
import msgspec
from aiohttp import web

from tests.chaos.clients import Tries, insist
from tests.chaos.drill import Site
from tests.chaos.installation import DrillError
from tests.chaos.oauth.report import TokensReport
from tests.chaos.runs.disturbing import Disturbing
from tests.chaos.runs.replicas import second_of
from tests.chaos.verdict import Finding
from tests.support.oauth_provider import Asked, LocalProvider, local_provider

# Seconds that the provider takes an old token again: the least that those who have a grace at all give (Cognito's most).
GRACE = 60.0
# More than those of connections whose claim is a dead replica's, which wait for its end.
AT_ONCE = 24
# The longest that its answer takes, in seconds.
SLOW = 0.4
WEIGHTS = {"kill the first": 3, "kill the second": 3, "pause the first": 1, "pause the second": 1}
IN_TURN = ("kill the first", "kill the second", "pause the second")
ROWS = "SELECT connection, status, until > now() AS claimed, attempting OR doubted AS unsure FROM oauth.token"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The whole drill: `refreshes` of so many `families` at about `rate` a second, disturbed `every` so many seconds."""

    refreshes: int
    families: int
    rate: float
    every: float
    pause: float
    seed: int
    in_turn: bool


class Trouble:
    """What a provider is like: slow with an answer once it has rotated, at times without one, or refusing for a moment."""

    def __init__(self, provider: LocalProvider, seed: int) -> None:
        self._provider = provider
        self._drawn = random.Random(seed)
        self.cut = 0

    async def __call__(self, asked: Asked) -> web.StreamResponse:
        """Answer a token request."""
        drawn = self._drawn.random()
        if drawn < 0.03:
            return web.Response(status=500)
        document, status = self._provider.usual(asked)
        await asyncio.sleep(self._drawn.uniform(0.0, SLOW))  # a replica that is killed now has not stored what was given
        answer = web.json_response(document, status=status)
        if drawn < 0.05:
            self.cut += 1
            answer.force_close()
            answer.headers["Content-Length"] = str(len(answer.body or b"") + 1)  # type: ignore[arg-type]
        return answer


class Refreshing:
    """Refreshes by hand over the API, of no connection two at a time: each is one rotation."""

    def __init__(self, site: Site, names: list[str]) -> None:
        self._site = site
        self._free: asyncio.Queue[str] = asyncio.Queue()
        for name in names:
            self._free.put_nowait(name)
        self.tries = Tries()
        self.asked = 0
        self._lost: set[str] = set()
        self.problems: list[Finding] = []

    async def flow(self, count: int, rate: float) -> None:
        """Ask for so many refreshes."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._some(count, rate))

    async def _some(self, count: int, rate: float) -> None:
        while self.asked < count:
            self.asked += 1
            name = await self._free.get()
            await self.one(name)
            self._free.put_nowait(name)
            await asyncio.sleep(AT_ONCE / rate)  # the pace of the flow

    async def one(self, name: str) -> None:
        """Have a connection's token refreshed, however often that has to be asked for."""
        ready = self._site.installation.ready()
        url = f"{ready['url']}/api/v1/connections/{name}/refresh"
        key = {"Authorization": f"Bearer {ready['admin_key']}"}
        answer = await insist(self._site.session, url, None, key, self.tries)
        if answer is None:
            self.problems.append(Finding("refreshes", "stuck", name, "no answer but 503 for three minutes"))
        elif answer.status == 409 and name in self._lost:
            pass  # counted
        elif answer.status != 200:
            kind = "lost" if answer.status == 409 else "wrong"
            self._lost |= {name} if kind == "lost" else set()
            self.problems.append(Finding("refreshes", kind, name, f"{answer.status} {answer.body[:300].decode(errors='replace')}"))


async def drilled(site: Site, plan: Plan) -> TokensReport:
    """Carry a plan out and return what came of it. Raises `DrillError`."""
    at, loop = datetime.now(UTC), asyncio.get_running_loop()
    names = [f"c{number:03}" for number in range(plan.families)]
    async with local_provider() as provider, second_of("oauth", site.installation, site.place) as second:
        provider.grace = GRACE
        await _authorize(site, provider, names)
        provider.always = trouble = Trouble(provider, plan.seed)
        began, given = loop.time(), len(provider.asked)
        refreshing = Refreshing(site, names)

        def printed(what: str) -> None:
            site.tell(f"{what} ({refreshing.asked:,} refreshes)")

        disturbing = Disturbing(
            site.installation,
            second,
            every=plan.every,
            pause=plan.pause,
            seed=plan.seed,
            tell=printed,
            weights=WEIGHTS,
            in_turn=IN_TURN,
        )
        async with disturbing.going(in_turn=plan.in_turn):
            await refreshing.flow(plan.refreshes, plan.rate)
        site.print("having every connection refreshed once more …")
        await site.installation.all_ready(site.session)
        for name in names:
            await refreshing.one(name)
        problems = [*refreshing.problems, *await _left(site, names)]
        problems += [Finding("families", "lost", name, "the provider has ended it") for name in sorted(provider.dead)]
        return TokensReport(
            at=at,
            seconds=round(loop.time() - began, 1),
            rate=plan.rate,
            problems=problems,
            families=plan.families,
            refreshes=refreshing.asked,
            rotations=len(provider.asked) - given,
            spared=len(provider.spared),
            cut=trouble.cut,
            unavailable=refreshing.tries.unavailable,
            unanswered=refreshing.tries.unanswered,
            disturbances=dict(disturbing.done),
            seed=plan.seed,
        )


async def _authorize(site: Site, provider: LocalProvider, names: list[str]) -> None:
    """Have a connection of each name, with a grant of its own, as a person's browser would."""
    url = provider.url
    addresses = {"token_url": f"{url}/token", "authorize_url": f"{url}/authorize", "revoke_url": f"{url}/revoke"}
    client = {"client_id": "client", "client_secret": "client-secret", "concurrency": 16}
    await site.call("PUT", "/api/v1/providers/local", body=addresses | client)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
        for name in names:
            body = {"grant": "authorization_code", "provider": "local"}
            await site.call("PUT", f"/api/v1/connections/{name}", body=body)
            begun = await site.call("POST", f"/api/v1/connections/{name}/authorize")
            async with browser.get(begun["url"]), browser.post(begun["url"], allow_redirects=False) as opened:
                asked = {one: values[0] for one, values in parse_qs(urlsplit(opened.headers["Location"]).query).items()}
            provider.codes[f"code-{name}"] = {"redirect_uri": asked["redirect_uri"], "family": name}
            back = urlencode({"state": asked["state"], "code": f"code-{name}"})
            async with browser.get(f"{asked['redirect_uri']}?{back}") as page:
                if "Connected" not in (said := await page.text()):
                    raise DrillError(f"{name} could not be authorized: {said[-300:]}")


async def _left(site: Site, names: list[str]) -> list[Finding]:
    """Return what is wrong with the rows at the end."""
    connection = await asyncpg.connect(site.installation.ready()["database_url"])
    try:
        rows = await connection.fetch(ROWS)
        unpublished = await connection.fetchval("SELECT count(*) FROM oauth.outbox")
    finally:
        await connection.close()
    found = [
        Finding("rows", "stuck", row["connection"], f"{row['status']}, claimed: {row['claimed']}, unsure: {row['unsure']}")
        for row in rows
        if row["status"] != "healthy" or row["claimed"] or row["unsure"]
    ]
    if len(rows) != len(names):
        found.append(Finding("rows", "wrong", "token", f"{len(rows)} rows of {len(names)} connections"))
    if unpublished:
        found.append(Finding("rows", "unpublished", "outbox", f"{unpublished} messages are left"))
    return found
