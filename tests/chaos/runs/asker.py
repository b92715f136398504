"""Asks for runs over HTTP as a stubborn client does: what was not answered is asked again, under the same idempotency key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import msgspec

from tests.chaos.clients import Tries, insist, paced
from tests.chaos.runs.kinds import Order

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
        async with asyncio.TaskGroup() as group:
            async for order in paced(orders, rate):
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
            status, answer = await self._post(asked, path, body, order.token)
        finally:
            self._at_once.release()
        if status not in {200, 202}:
            asked.refusal = f"{status} {answer}"
            return
        asked.run = answer["id"]
        if order.answer_after is not None:
            await asyncio.sleep(order.answer_after)
            status, answer = await self._post(asked, f"/api/v1/runs/{asked.run}/signals/answer", order.token)
            asked.answered = status == 202
            if not asked.answered:
                asked.refusal = f"its signal: {status} {answer}"
        if order.cancel_after is not None:
            await asyncio.sleep(order.cancel_after)
            status, answer = await self._post(asked, f"/api/v1/runs/{asked.run}/cancel", None)
            asked.cancelled = status == 202
            if status not in {202, 409}:
                asked.refusal = f"its cancellation: {status} {answer}"

    async def _post(self, asked: Asked, path: str, body: Any, token: str | None = None) -> tuple[int, Any]:
        """Post until there is an answer that more patience would not change; returns it, or 0 with what was met instead.

        With an idempotency key a 409 says that the first request with it is still being answered.
        """
        sent = None if body is None else msgspec.json.encode(body)
        headers = self._headers if token is None else self._headers | {"Idempotency-Key": token}
        tries = Tries()
        also = frozenset() if token is None else frozenset({409})
        answer = await insist(self._session, self._url + path, sent, headers, tries, also=also)
        asked.again += tries.unavailable + tries.unanswered
        return (0, tries.met) if answer is None else (answer.status, msgspec.json.decode(answer.body))
