"""Asks for runs over HTTP as a stubborn client does: what was not answered is asked again, under the same idempotency key."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec

from deploy.chaos.runs.kinds import Order

ANSWER_WITHIN = 10.0
DELAYS = (0.25, 0.5, 1.0, 2.0)
# For how long one thing is asked for: longer than any recovery.
PATIENCE = 180.0
# Runs that are asked for and not accepted yet; the flow waits for them, or it would become a storm of repetitions.
AT_ONCE = 64


class Asked(msgspec.Struct, kw_only=True):
    """What became of one order: `run` once it was accepted; `cancelled` when the cancellation was; `again` counts repetitions."""

    order: Order
    run: str | None = None
    not_before: str | None = None
    cancelled: bool = False
    answered: bool = False
    again: int = 0
    refusal: str | None = None


class Asker:
    """Asks, cancels and answers, and remembers it all."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self.asked: list[Asked] = []

    async def flow(self, orders: Iterable[Order], rate: float) -> None:
        """Ask for up to `rate` runs a second; returns when all that was to be said is said."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number, order in enumerate(orders):
                # A steady flow is made by the clock: nothing else says when the next one is due.
                await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
                await self._at_once.acquire()
                asked = Asked(order=order)
                self.asked.append(asked)
                group.create_task(self._through(asked))

    async def _through(self, asked: Asked) -> None:
        order = asked.order
        body = {"input": order.input, **order.options}
        if order.delay is not None:
            at = datetime.now(UTC) + timedelta(seconds=order.delay)
            body["run_at"] = asked.not_before = at.isoformat().replace("+00:00", "Z")
        path = f"/api/v1/workflows/{order.kind.workflow}/runs"
        try:
            status, answer = await self._say(asked, path, body, {"Idempotency-Key": order.token})
        finally:
            self._at_once.release()
        if status not in {200, 202}:
            asked.refusal = f"{status} {answer}"
            return
        asked.run = answer["id"]
        if order.answer_after is not None:
            await asyncio.sleep(order.answer_after)
            status, answer = await self._say(asked, f"/api/v1/runs/{asked.run}/signals/answer", order.token)
            asked.answered = status == 202
            if not asked.answered:
                asked.refusal = f"its signal: {status} {answer}"
        if order.cancel_after is not None:
            await asyncio.sleep(order.cancel_after)
            status, answer = await self._say(asked, f"/api/v1/runs/{asked.run}/cancel", None)
            asked.cancelled = status == 202
            if status not in {202, 409}:
                asked.refusal = f"its cancellation: {status} {answer}"

    async def _say(self, asked: Asked, path: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Post until there is an answer that more patience would not change; returns it, or 0 with what was met instead."""
        met: Counter[str] = Counter()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while True:
                    found = await self._posted(path, body, headers or {}, met)
                    if found is not None:
                        return found
                    asked.again += 1
                    await asyncio.sleep(DELAYS[min(sum(met.values()), len(DELAYS)) - 1])
        return 0, dict(met)

    async def _posted(self, path: str, body: Any, headers: dict[str, str], met: Counter[str]) -> tuple[int, Any] | None:
        try:
            async with self._session.post(
                self._url + path,
                data=None if body is None else msgspec.json.encode(body),
                headers=self._headers | headers,
                timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN),
            ) as response:
                answer = await response.json(content_type=None)
                if response.status < 500 and response.status != 429 and not _is_starting(response.status, answer, headers):
                    return response.status, answer
                met[str(response.status)] += 1
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            met[type(error).__name__] += 1
        return None


def _is_starting(status: int, answer: Any, headers: dict[str, str]) -> bool:
    """Return whether the first request with this key is still being answered."""
    return status == 409 and "Idempotency-Key" in headers and isinstance(answer, dict)
