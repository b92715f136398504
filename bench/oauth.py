"""How many questions for a live token a second are answered, and how providers fare when many tokens end at once.

- `figure`: questions a second for the token of one connection that is fresh, 256 at a time, as the runs of eight executors ask
  them; each is on the audit trail, on disk, before its answer;
- the limit: requests a second that a process answers on the same broker with the bytes that came, asked for in turns with those
  (wanted of it: at least 0.6);
- `recorded`: the same where each answer waits for such a record first, and does nothing else: what no answer with a record exceeds;
- `published`: such records alone, of one process that is not asked anything;
- `spread`: the questions for so many connections in turn, in place of one;
- `asking`: all of that with so many at a time, their medians a second, and the CPU microseconds of one of each by process;
- `due`: so many connections of four providers, all due at once, with the time left that the schedule leaves: how many calls a
  provider has at a time (`peak_at_once`, wanted: no more than it takes), how many it gets in its worst second, how soon all are
  fresh, what the least of them had left, and how many ended (wanted: none).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import click
import msgspec

from bench.support import outcome
from bench.support.cpu import Meter
from bench.support.echo import BARE, RECORDED, given
from bench.support.outcome import BenchError, Outcome
from bench.support.running import Backing, backing, echo, whole
from services.oauth.attempts import AT_ONCE
from services.oauth.domain import token_place
from services.oauth.sealed_tokens import Tokens
from shared.bus import Bus, connected
from shared.envelope import new_id, utc_now
from shared.errors import Unavailable
from shared.health import Health
from shared.questions.oauth import GetToken
from tests.support.oauth_provider import Asked, LocalProvider, local_provider

# At a time: of one busy executor, and of eight.
ASKING = (32, 256)
SPREAD = 50
SLOT = 1.5
FEWEST_ROUNDS = 3
WANTED = 0.6
PROVIDERS = 4
# Seconds that a provider takes for an answer.
TAKES = 0.05
# What the schedule leaves of a token that lives an hour.
LEFT = timedelta(minutes=6)
FRESH_WITHIN = 600.0
STARTED_WITHIN = 30.0
VAULT = "id noun org name spec sealed version revoking announced actor first_command last_command created_at updated_at"
TOKEN = "connection org provider sealed version status expires_at refresh_at failures forced attempting doubted configured fence"
ALLOWED = {"MILLRACE_EGRESS_ALLOW": "127.0.0.1"}


async def measure(folder: Path, seconds: float, connections: int) -> Outcome:
    """Measure questions for about so many seconds, and that many connections."""
    data = folder / "data"
    async with local_provider() as provider:
        provider.clients = {f"client-{number}": "client-secret" for number in range(PROVIDERS)}
        async with whole(data, **ALLOWED) as stack:
            await _connections(stack.api, provider.url)
        async with backing(data) as parts, AsyncExitStack() as running:
            executor = await running.enter_async_context(
                connected(parts.nats_url("executor"), service="executor", health=Health("executor"))
            )
            admin = await running.enter_async_context(connected(parts.admin_url, service="executor", health=Health("executor")))
            async with parts.service("oauth", **ALLOWED) as pid, echo(parts.admin_url):
                pids = {"oauth": pid, **parts.pids}
                found = {asking: await _in_turns(executor, admin, pids, asking, seconds / len(ASKING)) for asking in ASKING}
            await _fill(parts, connections)
            calls = _watched(provider)
            async with parts.service("oauth", **ALLOWED):
                due = await _refreshed(parts, connections)
    most = found[ASKING[-1]]
    return Outcome(
        name="oauth",
        figure=most.per_s("questions"),
        unit="token questions per second",
        limit=most.per_s("bare"),
        ratio=most.ratio("questions", "bare"),
        more={
            "wanted_ratio": WANTED,
            "asking": {str(asking): of.shown() for asking, of in found.items()},
            "due": due | calls.shown(),
        },
    )


class Rounds:
    """Rates by kind, one of each kind in a round, and the CPU microseconds of one by process."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {}
        self.cpu: dict[str, list[dict[str, float]]] = {}

    def per_s(self, kind: str) -> float:
        """Return the median of a kind."""
        return median(self.rates[kind])

    def ratio(self, these: str, those: str) -> float:
        """Return the median ratio of two kinds within a round."""
        return median(one / other for one, other in zip(self.rates[these], self.rates[those], strict=True))

    def shown(self) -> dict[str, Any]:
        """Return all of it."""
        cpu = {kind: {name: median(one[name] for one in of) for name in of[0]} for kind, of in self.cpu.items()}
        return {
            **{f"{kind}_per_s": self.per_s(kind) for kind in self.rates},
            "ratio": self.ratio("questions", "bare"),
            "ratio_recorded": self.ratio("questions", "recorded"),
            "recorded_of_bare": self.ratio("recorded", "bare"),
            "published_of_bare": self.ratio("published", "bare"),
            "spread_of_recorded": self.ratio("spread", "recorded"),
            "cpu_us": cpu,
            "rounds_per_s": {kind: [round(one) for one in rate] for kind, rate in self.rates.items()},
        }


async def _connections(api: Any, url: str) -> None:
    """Make a client for each provider, connections with a token of their own, and others with one that was given."""
    for number in range(PROVIDERS):
        about = {"token_url": f"{url}/token", "client_id": f"client-{number}", "client_secret": "client-secret"}
        await api.call("PUT", f"/api/v1/providers/local-{number}", body=about)
    own = {"grant": "client_credentials", "provider": "local-0", "client_id": "client-0", "token": "client-secret"}
    await api.call("PUT", "/api/v1/connections/warm", body=own)
    for number in range(SPREAD):
        await api.call("PUT", f"/api/v1/connections/spread-{number}", body={"grant": "token", "token": f"token-{number}"})


async def _in_turns(executor: Bus, admin: Bus, pids: dict[str, int], asking: int, seconds: float) -> Rounds:
    """Return what came of so many at a time, by rounds."""
    names = itertools.cycle(f"spread-{number}" for number in range(SPREAD))

    async def question(name: str = "warm") -> None:
        await executor.ask(GetToken(org="default", name=name, run="bench", nonce=new_id()))

    async def spread() -> None:
        await question(next(names))

    async def bare() -> None:
        await admin.client.request(BARE, payload, timeout=5)

    async def recorded() -> None:
        await admin.client.request(RECORDED, payload, timeout=5)

    async def published() -> None:
        await admin.publish(admin.seal(given(), org="default"))

    await _answering(question)
    payload = msgspec.json.encode({"ok": "x" * 900})
    kinds = {"questions": question, "bare": bare, "recorded": recorded, "published": published, "spread": spread}
    found = Rounds()
    for once in kinds.values():
        await _rate(once, asking, 0.5)
    for _ in range(max(FEWEST_ROUNDS, int(seconds / SLOT / len(kinds)))):
        for kind, once in kinds.items():
            meter = Meter(pids)
            rate = await _rate(once, asking, SLOT)
            found.rates.setdefault(kind, []).append(rate)
            found.cpu.setdefault(kind, []).append({name: used / (rate * SLOT) * 1e6 for name, used in meter.seconds().items()})
    return found


async def _answering(question: Callable[[], Awaitable[None]]) -> None:
    """Wait until the service, which has just been started, answers."""
    async with asyncio.timeout(STARTED_WITHIN):
        while True:
            try:
                await question()
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                return


async def _rate(once: Callable[[], Awaitable[None]], asking: int, seconds: float) -> float:
    count, began = 0, time.perf_counter()

    async def repeat() -> None:
        nonlocal count
        while time.perf_counter() < began + seconds:
            await once()
            count += 1

    await asyncio.gather(*(repeat() for _ in range(asking)))
    return count / (time.perf_counter() - began)


async def _fill(parts: Backing, count: int) -> None:
    """Have so many connections, authorized by somebody an hour ago, all due now: rows as the service writes them."""
    keyring, now = parts.keyring, utc_now()
    database = await asyncpg.connect(parts.database_url("oauth"))
    try:
        rows, tokens = [], []
        for number in range(count):
            id_, provider = new_id(), f"local-{number % PROVIDERS}"
            spec = msgspec.json.encode({"grant": "authorization_code", "provider": provider}).decode()
            rows.append((id_, "connection", "default", f"due-{number}", spec, "", 1, False, True, "bench", id_, id_, now, now))
            held = msgspec.json.encode(Tokens(f"old-{number}", f"refresh-{number}")).decode()
            sealed = keyring.seal(held, *token_place("default", id_))
            tokens.append((id_, "default", "", sealed, 1, "healthy", now + LEFT, now, 0, 0, False, False, "", 0))
        await database.copy_records_to_table("vault", records=rows, columns=VAULT.split())
        await database.copy_records_to_table("token", records=tokens, columns=TOKEN.split())
    finally:
        await database.close()


class Calls:
    """What the clients of providers ask: how many at a time, and how many in each second."""

    def __init__(self) -> None:
        self._at_once: Counter[str] = Counter()
        self._most: Counter[str] = Counter()
        self._seconds: Counter[tuple[str, int]] = Counter()
        self._all: Counter[int] = Counter()

    async def answer(self, asked: Asked) -> None:
        """Take as long as a provider does."""
        client, second = asked.client[0], int(time.monotonic())
        self._at_once[client] += 1
        self._most[client] = max(self._most[client], self._at_once[client])
        self._seconds[client, second] += 1
        self._all[second] += 1
        await asyncio.sleep(TAKES)
        self._at_once[client] -= 1

    def shown(self) -> dict[str, Any]:
        """Return the peaks, of the provider that had the highest."""
        return {
            "calls": self._all.total(),
            "peak_at_once": max(self._most.values()),
            "takes_at_once": AT_ONCE,
            "peak_calls_per_s_of_one": max(self._seconds.values()),
            "peak_calls_per_s": max(self._all.values()),
        }


def _watched(provider: LocalProvider) -> Calls:
    """Have the provider answer every refresh token as one of a grant, and count."""
    calls = Calls()
    provider.always = calls.answer
    provider.rotates = False
    provider.families = _Any()
    return calls


class _Any(dict[str, str]):
    """The families of tokens: every token has one of its own."""

    def get(self, token: str, _default: str | None = None) -> str:  # type: ignore[override]
        return token


async def _refreshed(parts: Backing, count: int) -> dict[str, Any]:
    """Wait until all are fresh; return how soon, and what they had left."""
    database = await asyncpg.connect(parts.database_url("oauth"))
    try:
        began = time.monotonic()
        while left := await database.fetchval(
            "SELECT count(*) FROM token WHERE version = 1 AND connection <> $1", await _warm(database)
        ):
            if time.monotonic() > began + FRESH_WITHIN:
                raise BenchError(f"{left} of {count} connections are not fresh after {FRESH_WITHIN:.0f} s")
            await asyncio.sleep(0.5)
        took = time.monotonic() - began
        latest = await database.fetchval("SELECT max(refreshed_at) FROM token")
        first = await database.fetchval("SELECT min(created_at) FROM vault WHERE name LIKE 'due-%'")
        least = (first + LEFT - latest).total_seconds()
        failed = await database.fetchval("SELECT count(*) FROM token WHERE status <> 'healthy'")
    finally:
        await database.close()
    return {
        "connections": count,
        "fresh_after_s": took,
        "least_left_s": least,
        "ended": int(least < 0) * count,
        "not_healthy": failed,
    }


async def _warm(database: Any) -> str:
    found: str = await database.fetchval("SELECT id FROM vault WHERE name = 'warm'")
    return found


@click.command(help="Measure questions for tokens, and many tokens that end at once.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--seconds", default=10.0, show_default=True, help="How long to ask, roughly.")
@click.option("--connections", default=1000, show_default=True, help="How many tokens end at once.")
def main(*, as_json: bool, seconds: float, connections: int) -> None:
    """Measure and print."""
    raise SystemExit(outcome.main(lambda folder, given: measure(folder, given, connections), seconds=seconds, as_json=as_json))


if __name__ == "__main__":
    main()
