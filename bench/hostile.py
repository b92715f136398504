"""What one organization's webhooks and runs suffer while another does its worst, beside the same without, on the same stack.

Good webhooks are sent at a steady rate, whether the last was answered or not; each starts a run (`isolation="workflow"`). First
alone, then while every act of `tests.support.hostile` is done, one after the other:

- `lost`: webhooks that were not answered 202, or whose run did not succeed; `restarted`: processes that are not the ones of before;
- `answer_p50_ms`, `answer_p99_ms`, `answer_max_ms`: from sending to 202; `end_p50_ms`, …: from received to the run's end;
- `late`: webhooks answered, or with a run that ended, more than two seconds after;
- `acts`: what the hostile organization was answered, by act and status.

The figure is the p99 of answers beside it, the limit the same alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import click
import msgspec

from bench.support import outcome
from bench.support.outcome import Outcome, percentile
from bench.support.running import Whole, whole
from tests.support.hostile import ACTS, Hostile

ORG = "good"
SECRET = "a good secret"
LATE = 2000.0
SETTLED_WITHIN = 60.0
CODE = b"""
from millrace import workflow
@workflow(name="good", isolation="workflow")
def good(event: dict) -> int:
    return event["data"]["n"]
"""


class Good:
    """The organization that is to notice nothing."""

    def __init__(self, session: aiohttp.ClientSession, stack: Whole) -> None:
        self._session = session
        self._url = stack.ready["url"]
        self._headers = {"Authorization": f"Bearer {stack.ready['admin_key']}", "X-Millrace-Org": ORG}
        self._hook = ""
        self.answers: dict[str, float] = {}
        self.refused: Counter[str] = Counter()

    async def call(self, method: str, path: str, **given: Any) -> Any:
        """Return the answer of the API."""
        async with self._session.request(method, f"{self._url}/api/v1{path}", headers=self._headers, **given) as response:
            response.raise_for_status()
            return await response.json()

    async def set_up(self) -> None:
        """Deploy the workflow, and make the source and the subscription that lead to it."""
        await self.call("PUT", "/workspace/files/good.py", data=CODE)
        source = await self.call("PUT", "/sources/good", json={"adapter": "github", "settings": {"secret": SECRET}})
        await self.call("PUT", "/subscriptions/good", json={"source": "good", "event": "*", "workflow": "good"})
        self._hook = f"{self._url}/hooks/{source['id']}"

    async def send(self, per_second: float, until: asyncio.Event) -> None:
        """Send webhooks at a steady rate until told to stop."""
        loop = asyncio.get_running_loop()
        began, number = loop.time(), 0
        async with asyncio.TaskGroup() as sending:
            while not until.is_set():
                sending.create_task(self._one(number))
                number += 1
                await asyncio.sleep(max(0.0, began + number / per_second - loop.time()))

    async def _one(self, number: int) -> None:
        body = b'{"n":%d}' % number
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {"X-Hub-Signature-256": f"sha256={signature}", "X-GitHub-Event": "push", "Content-Type": "application/json"}
        began = time.perf_counter()
        try:
            async with self._session.post(self._hook, data=body, headers=headers) as response:
                answer = await response.json()
                if response.status != 202:
                    self.refused[str(response.status)] += 1
                    return
        except (aiohttp.ClientError, TimeoutError) as error:
            self.refused[type(error).__name__] += 1
            return
        self.answers[answer["id"]] = (time.perf_counter() - began) * 1000

    async def ends(self) -> dict[str, float]:
        """Return, by delivery, the milliseconds from when it was received to the end of its run, once all have ended."""
        deadline = time.monotonic() + SETTLED_WITHIN
        while True:
            found: dict[str, float] = {}
            cursor = ""
            while True:
                page = await self.call("GET", f"/runs?status=succeeded&limit=1000{cursor}")
                for run in page["items"]:
                    if run["delivery"] in self.answers:
                        took = datetime.fromisoformat(run["finished_at"]) - datetime.fromisoformat(run["requested_at"])
                        found[run["delivery"]] = took.total_seconds() * 1000
                if page["next_cursor"] is None:
                    break
                cursor = f"&cursor={page['next_cursor'].replace('+', '%2B').replace('|', '%7C')}"
            if len(found) == len(self.answers) or time.monotonic() > deadline:
                return found
            await asyncio.sleep(0.5)


async def measure(folder: Path, seconds: float, *, per_second: float = 100.0, only: str = "", together: bool = False) -> Outcome:
    """Have both organizations do what they do on one stack, and return what the good one saw; `seconds` of it alone.

    The acts are done one after the other, or all `together`.
    """
    data = folder / "data"
    connector = aiohttp.TCPConnector(limit=0)
    async with whole(data) as stack, aiohttp.ClientSession(connector=connector) as session:
        good = Good(session, stack)
        await good.set_up()
        alone = await beside(good, per_second, asyncio.sleep(seconds))
        acts: dict[str, Any] = {}
        worst = await beside(good, per_second, _worst(session, stack, acts, only, together=together))
        async with session.get(stack.ready["url"] + "/readyz") as response:
            ready = response.status
        now = Whole(stack.api, msgspec.json.decode((data / "ready.json").read_bytes())).pids
    restarted = sorted(name for name, pid in stack.pids.items() if now[name] != pid)
    more = {"beside": worst, "alone": alone, "restarted": restarted, "readyz": ready, "acts": acts, "per_second": per_second}
    figure, limit = worst["answer_p99_ms"], alone["answer_p99_ms"]
    return Outcome(name="hostile", figure=figure, unit="ms", limit=limit, ratio=figure / limit, more=more)


async def beside(good: Good, per_second: float, what: Any) -> dict[str, Any]:
    """Send good webhooks while something is done, and return how these fared."""
    good.answers.clear()
    good.refused.clear()
    over = asyncio.Event()
    sending = asyncio.create_task(good.send(per_second, over))
    began = time.monotonic()
    await what
    over.set()
    await sending
    took = time.monotonic() - began
    ends = await good.ends()
    answers = sorted(good.answers.values())
    ended = sorted(ends.values())
    sent = len(answers) + good.refused.total()
    return {
        "seconds": round(took, 1),
        "sent": sent,
        "lost": sent - len(ends),
        "refused": dict(good.refused),
        "late": sum(one > LATE for one in answers) + sum(one > LATE for one in ended),
        **{f"answer_p{part}_ms": round(percentile(answers, part), 2) for part in (50, 99)},
        "answer_max_ms": round(answers[-1], 1),
        **{f"end_p{part}_ms": round(percentile(ended, part), 2) for part in (50, 99)},
        "end_max_ms": round(ended[-1], 1),
    }


async def _worst(session: aiohttp.ClientSession, stack: Whole, acts: dict[str, Any], only: str, *, together: bool) -> None:
    async def done(name: str) -> None:
        hostile = Hostile(session, stack.ready["url"], stack.ready["admin_key"], name)
        began = time.monotonic()
        trouble = ""
        try:
            await ACTS[name](hostile)
        except (aiohttp.ClientError, TimeoutError, KeyError, TypeError) as error:
            trouble = f"{type(error).__name__}: {error}"[:200]
        statuses = {str(code): count for code, count in sorted(hostile.statuses.items())}
        acts[name] = {"seconds": time.monotonic() - began, **statuses} | ({"trouble": trouble} if trouble else {})

    chosen = [name for name in ACTS if only in name]
    if together:
        await asyncio.gather(*map(done, chosen))
        return
    for name in chosen:
        await done(name)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one line of JSON last.")
@click.option("--seconds", default=10.0, show_default=True, help="How long to measure without the hostile one.")
@click.option("--per-second", default=100.0, show_default=True, help="Good webhooks a second.")
@click.option("--together", is_flag=True, help="All acts at once.")
@click.option("--only", default="", help="Only the acts whose name has this in it.")
def main(*, as_json: bool, seconds: float, per_second: float, only: str, together: bool) -> None:
    """Measure what a hostile organization costs a good one."""

    async def measured(folder: Path, seconds: float) -> Outcome:
        return await measure(folder, seconds, per_second=per_second, only=only, together=together)

    raise SystemExit(outcome.main(measured, seconds=seconds, as_json=as_json))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
