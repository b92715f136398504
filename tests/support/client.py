"""The HTTP API of a running stack, as an integration engineer would use it."""

from __future__ import annotations

import hashlib
import hmac
import uuid
from typing import Any

import aiohttp

from tests.support.inside import eventually


class Client:
    """Speaks to one stack with its platform key."""

    def __init__(self, session: aiohttp.ClientSession, ready: dict[str, Any]) -> None:
        self._session = session
        self.url: str = ready["url"]
        self.key: str = ready["admin_key"]
        self._headers = {"Authorization": f"Bearer {self.key}"}

    async def call(self, method: str, path: str, *, body: Any = None, data: Any = None, status: int | None = None) -> Any:
        """Return the JSON answer; AssertionError unless it is `status`, or any success."""
        async with self._session.request(method, self.url + path, json=body, data=data, headers=self._headers) as response:
            answer = await response.json(content_type=None) if response.status != 204 else None
            assert response.status == status if status else response.status < 300, (method, path, response.status, answer)
            return answer

    async def available(self, path: str) -> Any:
        """Return the JSON answer to a GET; None where it is 503: what answers has too much to do, or is away."""
        async with self._session.get(self.url + path, headers=self._headers) as response:
            answer = await response.json(content_type=None)
            assert response.status in {200, 503}, (path, response.status, answer)
            return answer if response.status == 200 else None

    async def put_file(self, path: str, content: bytes) -> Any:
        """Deploy one file."""
        return await self.call("PUT", f"/api/v1/workspace/files/{path}", data=content)

    async def github(self, address: str, secret: str, body: bytes, *, event: str = "push", delivery: str | None = None) -> Any:
        """Send a signed GitHub webhook; returns (status, answer)."""
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": event,
            "X-GitHub-Delivery": delivery or str(uuid.uuid4()),
            "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
        }
        async with self._session.post(address, data=body, headers=headers) as response:
            return response.status, await response.json(content_type=None)

    async def delivery(self, id_: str, *statuses: str, within: float = 60) -> Any:
        """Wait for a delivery to have one of these statuses."""

        async def settled() -> Any:
            page = await self.available("/api/v1/deliveries") or {"items": []}
            found = next((one for one in page["items"] if one["id"] == id_ and one["status"] in statuses), None)
            if found is None or (found["status"] == "routed" and not found["runs"]):
                return None
            # Its runs are told by another stream, and their rows come in their own time.
            runs = {one["run"] for one in found["subscriptions"] if one["run"] is not None}
            return found if runs <= {one["id"] for one in found["runs"]} else None

        return await eventually(settled, within=within)

    async def run(self, id_: str, *statuses: str, within: float = 60) -> Any:
        """Wait for a run to have one of these statuses."""

        async def settled() -> Any:
            # Its executor may be the very thing that the test has killed.
            run = await self.available(f"/api/v1/runs/{id_}")
            return run if run and run["status"] in statuses else None

        return await eventually(settled, within=within, every=0.05)
